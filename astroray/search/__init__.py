"""How all workers search a survey together, exactly and certified, in scans and in nights."""
