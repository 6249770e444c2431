"""How weights are fitted to images, step by step, in bytes that repeat. Knows no Ray."""
