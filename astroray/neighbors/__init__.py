"""The nearest neighbors of embeddings: exact or certified search, and the arithmetic below it."""
