"""Networks on 8 and 4 bits: what is observed, what is replaced, what is shown."""
