"""How work reaches Ray's workers, and what they say: plans, streams, logs, metrics, progress."""
