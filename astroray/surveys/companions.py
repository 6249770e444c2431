"""Which FITS files of a folder look like weights or masks of the others, going by their names."""

import logging
import re
from collections.abc import Sequence

__all__ = ["warn_of_companions"]

_log = logging.getLogger(__name__)

WORDS = frozenset(
    {
        *("invvar", "ivar", "rms", "std", "unc", "var", "variance"),
        *("wei", "weight", "weightmap", "weights", "wht", "wt"),
        *("flag", "flags", "flg", "mask", "maskbits", "msk", "mskimg"),
        *("exp", "expmap", "nexp", "psfsize"),
    }
)
"""Words of names, between `_`, `-` and `.`: Legacy Survey, PS1, KiDS, unWISE, Euclid, ZTF."""


def warn_of_companions(paths: Sequence[str]) -> None:
    """Says so where a survey's FITS files hold weights or masks beside images, and how to choose.

    Nothing is left out: a word in a name may also mean something else.
    """
    own: set[str] | None = None  # words that all images have: there may be a million names
    companions = []
    for path in paths:
        if ".fit" in path.lower():
            words = _words(path)
            if any(word.lower() in WORDS for word in words):
                companions.append(path)
            else:
                own = words if own is None else own & words
    if not companions or own is None:
        return
    for path in companions:
        own -= _words(path)
    globs = sorted(f"*{word}*" for word in own if word.isalpha())
    _log.warning(
        "%d of %d files look like weights or masks by their names (%s) and are scanned as images; "
        "%s",
        *(len(companions), len(paths), min(companions).rpartition("/")[2]),
        f"a glob such as '{globs[0]}' leaves them out" if globs else "name the images with a glob",
    )


def _words(path: str) -> set[str]:
    return set(re.split(r"[_.-]", path.rpartition("/")[2]))
