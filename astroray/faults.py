"""Named points at which a test may kill the process; they do nothing in a normal run.

A fault plan is a folder. A file `<point>` in it, or `<point>@<text>` to be met only where `text`
is part of the detail, kills the process that reaches the point first: the file is removed, so
each one kills once.
"""

import os
import signal

_plan: str = ""


def arm(folder: str) -> None:
    """Uses the fault plan in `folder` in this process; "" disarms."""
    global _plan
    _plan = folder


def reach(point: str, detail: str = "") -> None:
    """Kills this process with SIGKILL where the plan says so, once a token."""
    if not _plan:
        return
    for name in sorted(os.listdir(_plan)):
        wanted, _, text = name.partition("@")
        if wanted.partition("#")[0] == point and text in detail:
            try:
                os.unlink(os.path.join(_plan, name))
            except FileNotFoundError:
                continue  # another process took this token
            os.kill(os.getpid(), signal.SIGKILL)
