"""How long work shows where it is: one line that changes, or a line now and then in a log."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

__all__ = ["status_line"]

REFRESH_S = 5.0
"""Seconds between lines where the output is no terminal."""


@contextmanager
def status_line() -> Iterator[Callable[[str, str], None]]:
    """A function of stage and text: rewrites one line a stage on a terminal's standard error.

    Elsewhere it writes a line when a stage begins, and then every few seconds.
    """
    terminal = sys.stderr.isatty()
    last_stage, last_s = "", 0.0

    def show(stage: str, text: str) -> None:
        nonlocal last_stage, last_s
        now_s = time.monotonic()
        is_new = stage != last_stage
        if terminal:
            end = "\n" if is_new and last_stage else ""
            click.echo(f"{end}\r\033[K{text}", nl=False, err=True)
        elif is_new or now_s - last_s >= REFRESH_S:
            click.echo(text, err=True)
        else:
            return
        last_stage, last_s = stage, now_s

    try:
        yield show
    finally:
        if terminal and last_stage:
            click.echo("", err=True)
