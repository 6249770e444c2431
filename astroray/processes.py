"""Which processes of this machine run: as `/proc` tells it, or `ps` where there is none (macOS)."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

__all__ = ["find_start", "find_with_argument"]

_PROC = Path("/proc")
_ENDED = "ZX"
"""Letters of the states of a process that has ended, and is only not forgotten yet."""


def find_start(pid: int) -> str | None:
    """When a process started, as text: another process that gets its id later differs.

    Empty where the process has ended; None where nothing can be known of it, as of the processes
    of other users on some shared machines.
    """
    try:
        if _PROC.is_dir():
            line = (_PROC / str(pid) / "stat").read_text()
            state, *fields = line.rpartition(")")[2].split()  # the name may hold spaces
            start = fields[18]  # in ticks of the kernel since the machine started
        else:
            state, start = _ps("-p", str(pid), "-o", "state=,lstart=").strip().partition(" ")[::2]
    except OSError:
        return None
    return "" if state[:1] in _ENDED else start.strip()


def find_with_argument(text: str) -> Iterator[int]:
    """Ids of the processes, but for this one, that have `text` in their command line."""
    for pid, command in _commands():
        if text in command and pid != os.getpid():
            yield pid


def _commands() -> Iterator[tuple[int, str]]:
    if _PROC.is_dir():
        for file in _PROC.glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):  # it has ended, or is another person's
                yield int(file.parent.name), file.read_bytes().decode(errors="replace")
        return
    with contextlib.suppress(OSError):  # there is no ps either
        for line in _ps("-axww", "-o", "pid=,command=").splitlines():
            pid, _, command = line.strip().partition(" ")
            yield int(pid), command


def _ps(*options: str) -> str:
    """What `ps` prints; nothing of a process that does not run. Raises OSError without `ps`."""
    # times are to be the same text in whatever language and time zone the caller works
    environment = {**os.environ, "LC_ALL": "C", "TZ": "UTC"}
    command = ["ps", *options]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    return done.stdout
