"""How a number of things is said in words."""

__all__ = ["plural"]


def plural(noun: str, count: int | None) -> str:
    """The noun as so many things are called: star, of any number but 1 stars."""
    return noun if count == 1 else f"{noun}s"
