"""What people say of objects, and what is learnt from it."""
