"""One file a claim: each measures astroray against a peer or a limit, both in the same run."""
