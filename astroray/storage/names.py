"""Names in listings of stores: which are left out, and which a glob means."""

import fnmatch

from astroray.storage.disk_listing import is_hidden

__all__ = ["Found", "has_hidden", "matches"]

Found = tuple[str, int, str]
"""Address, size in bytes and version (an etag, or the time of the last change) of one file."""


def has_hidden(key: str) -> bool:
    """Whether a file, or a folder that it lies in, begins with a dot or underscore."""
    return any(is_hidden(part) for part in key.split("/"))


def matches(parts: list[str], patterns: list[str]) -> bool:
    """Whether a key matches a glob, folder by folder; `**` stands for any number of folders."""
    if not patterns or not parts:
        return not parts and all(pattern == "**" for pattern in patterns)
    pattern, part = patterns[0], parts[0]
    if pattern == part:
        return matches(parts[1:], patterns[1:])
    if is_hidden(part):
        return False
    if pattern == "**":
        return matches(parts, patterns[1:]) or matches(parts[1:], patterns)
    return fnmatch.fnmatchcase(part, pattern) and matches(parts[1:], patterns[1:])
