"""What a fast attention call met on its way, for tests, benchmarks and the curious."""

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class TileFacts:
    """Counts of one call. A tile is a few query rows that share their fate."""

    num_tiles: int
    num_redone: int
    """Tiles that could not be frozen, or failed their certificate: done by online softmax."""
    num_key_blocks: int
    """Blocks of scores that were put to the vote; 0 where nothing was to be skipped."""
    num_skipped: int
