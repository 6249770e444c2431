"""Names in listings of stores: which are left out, and which a glob means."""

import fnmatch
from collections.abc import Sequence

from astroray.storage.disk_listing import is_hidden

__all__ = ["Found", "has_hidden", "matches"]

Found = tuple[str, int, str]
"""Address, size in bytes and version (an etag, or the time of the last change) of one file."""


def has_hidden(key: str) -> bool:
    """Whether a file, or a folder that it lies in, begins with a dot or underscore."""
    return any(is_hidden(part) for part in key.split("/"))


def matches(parts: Sequence[str], patterns: Sequence[str]) -> bool:
    """Whether a key matches a glob, folder by folder, as on a disk; `**` is any number of them."""
    if not patterns or not parts:
        return not patterns and not parts
    (part, *inner), (pattern, *rest) = parts, patterns
    if pattern == "**":
        is_below = matches(parts, rest or ["*"])
        return is_below or (not is_hidden(part) and matches(inner, patterns))
    is_meant = part == pattern or (not is_hidden(part) and fnmatch.fnmatchcase(part, pattern))
    return is_meant and matches(inner, rest)
