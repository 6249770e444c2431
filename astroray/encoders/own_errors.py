"""What a class of the user's own raises, as one message with the line that raised it."""

import contextlib
import inspect
import logging
import sys
import traceback
from collections.abc import Iterator

import torch

from astroray.encoders import is_own
from astroray.errors import AstrorayError, ConfigError

__all__ = ["in_short", "lacks_memory", "ran_by"]

_log = logging.getLogger("astroray.own")
MAX_SAID = 400
"""Characters of a message of the user's code: one of PyTorch may list a whole state."""


@contextlib.contextmanager
def ran_by(name: str) -> Iterator[None]:
    """What code of this encoder raises becomes a ConfigError with its line, its traceback logged.

    Only of a class of the user's own. Memory that does not suffice is no mistake of the class,
    and astroray's own errors pass.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, AstrorayError) or lacks_memory(error) or not is_own(name):
            raise
        module, _, attribute = name.partition(":")
        file = inspect.getsourcefile(getattr(sys.modules[module], attribute))
        said = f"{name} raised {in_short(error, file)}"
        _log.error("%s", said, exc_info=error)
        raise ConfigError(
            f"{said}; mend that line; the log, of a worker in logs/workers, has the traceback"
        ) from error


def in_short(error: Exception, file: str | None = None) -> str:
    """An exception in one line, with the last line of `file` on its way, else the last of all."""
    frames = traceback.extract_tb(error.__traceback__)
    last = ([one for one in frames if one.filename == file] or frames)[-1]
    text = " ".join(str(error).split())[:MAX_SAID]
    where = f"{last.filename}, line {last.lineno}, in {last.name}"
    return f"{type(error).__name__}{': ' * bool(text)}{text} ({where})"


def lacks_memory(error: BaseException) -> bool:
    """Whether an exception says that the memory of a CPU or GPU does not suffice."""
    is_said = "can't allocate memory" in str(error)  # by PyTorch on a CPU, as a RuntimeError
    return is_said or isinstance(error, MemoryError | torch.OutOfMemoryError)
