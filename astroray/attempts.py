"""Which shards kill their workers: an attempt at one leaves a note before it reads a byte.

    ledger/attempts/S/N.SHARD    where attempt N at SHARD in session S was made

An attempt that was killed leaves nothing but its note. It counts against the shard where the
machine that it ran on is still there: then the shard has killed its worker. Where the machine is
gone too, that has ended the attempt.
"""

import dataclasses
import uuid
from collections.abc import Collection
from typing import Protocol

from astroray import storage
from astroray.surveys.shards import Reject

__all__ = ["MAX_ATTEMPTS", "MAX_DEATHS", "Attempt", "Nodes", "begin_attempt"]

MAX_DEATHS = 3
"""A shard that has killed its worker this often in one session is quarantined."""
MAX_ATTEMPTS = 30
"""One that was begun this often is too: there may be no machine that it does not take along."""


class Nodes(Protocol):
    """The machines that attempts are made on."""

    def here(self) -> str:
        """The one of this process; one that comes back has another name."""

    def alive(self) -> Collection[str]:
        """The machines that are there now."""


class OneMachine:
    """Where there is no cluster."""

    def here(self) -> str:
        return ""

    def alive(self) -> Collection[str]:
        return ("",)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Attempt:
    """An attempt at a shard, and how the earlier ones of its session ended."""

    number: int
    """From 1."""
    num_deaths: int
    """How many of them killed their worker and not their machine; before MAX_DEATHS all count."""

    def quarantine(self, *, stage: str, advice: str) -> Reject | None:
        """The reject of a shard that must not be tried once more; None where it may be."""
        if self.num_deaths >= MAX_DEATHS:
            why = f"killed its worker {self.num_deaths} times"
        elif self.number > MAX_ATTEMPTS:
            why = f"was begun {MAX_ATTEMPTS} times and lost with its machine each time"
        else:
            return None
        return Reject(row=None, stage=stage, kind="quarantine", reason=f"{why}; {advice}")


def begin_attempt(run_dir: str, shard: str, session: str, *, nodes: Nodes | None = None) -> Attempt:
    """Notes that an attempt at the shard begins here, and counts those before it."""
    nodes = nodes or OneMachine()
    folder = storage.join(run_dir, "ledger", "attempts", session)
    note = f"{uuid.uuid4().hex} {nodes.here()}".encode()  # unlike others, for `publish_new`
    number = 1
    while not storage.publish_new(storage.join(folder, f"{number}.{shard}"), note):
        number += 1
    num_deaths = number - 1
    if num_deaths >= MAX_DEATHS:
        notes = [storage.join(folder, f"{before}.{shard}") for before in range(1, number)]
        alive = nodes.alive()
        num_deaths = sum(_node_of(storage.read_bytes(path)) in alive for path in notes)
    return Attempt(number=number, num_deaths=num_deaths)


def _node_of(note: bytes) -> str:
    return note.decode().partition(" ")[2]
