"""How good encoders and scores are at finding what is rare: the protocols, run and reported."""
