"""One life of a run in a soak: who dies at which point of it, and that all of them did."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from astroray import faults
from tests import scans
from tests.soak_checks import Tally, done_twice

__all__ = ["Kill", "Life", "finish", "live", "new_plan", "own_scratch"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kill:
    """One death: who dies, at which point, at which detail of it."""

    process: faults.Process
    point: str
    text: str = ""

    def __str__(self) -> str:
        return f"{self.process:<7} {self.point}{'@' if self.text else ''}{self.text}"


Life = Sequence[Kill]
"""One command: deaths of workers, then at most one of the driver."""


def new_plan(folder: Path) -> Path:
    """A fault plan that kills nobody yet and notes what was reached."""
    folder.mkdir()
    (folder / "reached").touch()
    return folder


def own_scratch(folder: Path) -> dict[str, str]:
    """The environment in which what killed drivers leave goes with the folder."""
    scratch = folder / "tmp"
    scratch.mkdir(exist_ok=True)
    return {"TMPDIR": str(scratch)}


def live(
    tally: Tally,
    name: str,
    life: Life,
    command: Sequence[str],
    *,
    plan: Path,
    folder: Path,
    run_dir: str,
) -> None:
    """Runs the command, in which all of `life` must die, and nobody else."""
    waiting = {kill: scans.token(plan, kill.point, kill.text) for kill in life}
    ended = scans.run(command, env=own_scratch(folder))
    is_killed = any(kill.process == "driver" for kill in life)
    if ended.is_killed != is_killed or not (is_killed or ended.code == 0):
        tally.count(f"{name}: exit code {ended.code}: {ended.err[-800:]}", ok=False)
    for kill, token in waiting.items():
        if kill.process == "worker" and token.exists():
            continue  # the driver died before this shard was begun; a later life gets it
        tally.count(f"{name}  {kill}", ok=not token.exists())
    tally.check_record(name, run_dir)


def finish(
    tally: Tally, name: str, *, plan: Path, run_dir: str, expected: Mapping[str, bytes]
) -> None:
    """After the last life: all have died, nothing was done twice, the bytes are the expected."""
    left = sorted(path.name for path in plan.iterdir() if path.name != "reached")
    tally.count(f"{name}: no kill is left over {left or ''}", ok=not left)
    tally.check_run(name, run_dir, expected)
    again = done_twice(scans.reached(plan))
    tally.count(f"{name}: no finished shard was begun again {again or ''}", ok=not again)
