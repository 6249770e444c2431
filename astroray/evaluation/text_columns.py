"""How cells become columns of plain text."""

from collections.abc import Sequence

__all__ = ["aligned"]


def aligned(lines: Sequence[Sequence[str]], *, num_left: int = 1, indent: str = "") -> str:
    """The first `num_left` columns flush left, the others flush right; a line may be short."""
    widths = [
        max(len(line[i]) for line in lines if i < len(line)) for i in range(max(map(len, lines)))
    ]
    return "\n".join(
        indent
        + "  ".join(
            cell.ljust(width) if i < num_left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=False))
        ).rstrip()
        for line in lines
    )
