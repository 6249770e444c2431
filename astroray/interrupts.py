"""How a command ends on a signal: the work is wound up first, and the exit code names the signal.

Ctrl-C, the signal of a batch system or a supervisor when time is up, a terminal that is closed:
each ends the work by an exception, so that Ray is stopped and the run record says why it ended.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator

__all__ = ["Interrupted", "keep_handlers", "raise_on_signals"]

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
GOES_ON = "what is done stays, the same command goes on"
ENDING = "ending; what was begun is put away first, {again} once more to leave at once"


_CAME: list[int] = [signal.SIGINT]
"""The signal that ended the last block of `raise_on_signals`, if any did."""


class Interrupted(KeyboardInterrupt):
    """A signal asked for the end; `exit_code` is a shell's for it: 130, of SIGTERM 143.

    number  None: the signal that came; while a result of Ray is awaited, Ray raises a plain
            KeyboardInterrupt for any
    """

    def __init__(self, number: int | None = None) -> None:
        number = _CAME[-1] if number is None else number
        self.exit_code = 128 + number
        by = "" if number == signal.SIGINT else f" by {signal.Signals(number).name}"
        super().__init__(f"interrupted{by}; {GOES_ON}")

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows in place of a traceback."""
        return [str(self)]


@contextlib.contextmanager
def raise_on_signals() -> Iterator[None]:
    """In the block, each signal that would end a command raises Interrupted.

    A second signal only prints a message: it must not interrupt what the first one began, or Ray's
    processes would be left behind. A third one kills. A signal that is ignored, as by `nohup`, or
    that somebody handles already, stays as it is.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _CAME[:] = [signal.SIGINT]
    before = {number: signal.getsignal(number) for number in SIGNALS}
    ours = [n for n in SIGNALS if before[n] in (signal.SIG_DFL, signal.default_int_handler)]

    def first(number: int, _: object) -> None:
        _CAME[:] = [number]
        for one in ours:
            signal.signal(one, second)
        raise Interrupted(number)

    def second(number: int, _: object) -> None:
        for one in ours:
            signal.signal(one, signal.SIG_DFL)
        again = "press Ctrl-C" if number == signal.SIGINT else "send it"
        # past the buffer, which may be in use; Ray's own noise has descriptor 2
        os.write(sys.stderr.fileno(), f"\nastroray: {ENDING.format(again=again)}\n".encode())

    for number in ours:
        signal.signal(number, first)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, before[number])


@contextlib.contextmanager
def keep_handlers() -> Iterator[None]:
    """What handles SIGTERM is in place again once Ray has started, which puts others there.

    Those would abort the process later; while Ray starts they leave it, which is Interrupted.
    """
    before = signal.getsignal(signal.SIGTERM)
    if not callable(before) or threading.current_thread() is not threading.main_thread():
        yield
        return
    try:
        yield
    except SystemExit:
        raise Interrupted(signal.SIGTERM) from None
    finally:
        signal.signal(signal.SIGTERM, before)
