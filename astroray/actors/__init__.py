"""What a Ray worker holds or runs: plain callables, none of which imports ray."""
