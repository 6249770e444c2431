"""What people said of the objects of a run: an append-only log beside its catalog.

    labels/SESSION-PART.jsonl   one line a label; a session is one server, several may run at once

What was said of the objects of a version holds in the nights that were made of it: they read its
labels, and write their own.

A session is the only writer of its files, so nothing is lost between two people. For each label the
session's last part is published anew, whole, before the label is confirmed: no kill leaves half a
line, on a disk or on an object store. A label is never changed: undoing one is one more line.
"""

import dataclasses
import json
import os
import secrets
import threading
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from astroray import schema, storage
from astroray.catalog.versions import read_inherited
from astroray.errors import ConfigError, LedgerError

__all__ = [
    "Label", "LabelLog", "Standing", "current_labels", "interest_of", "label_folders",
    "labels_table",
]  # fmt: skip

INTERESTS = (1, 2, 3, 4, 5)
"""1: of no interest, an artefact; 5: to be followed up."""
MAX_TEXT = 200
LABELS_A_PART = 256


@dataclasses.dataclass(frozen=True, kw_only=True)
class Label:
    """One thing that one person said of one object."""

    object_id: str
    user: str
    model_id: str
    """The model whose embedding put the object before the person."""
    interest: int | None = None
    """One of INTERESTS; None where only a class was given."""
    kind: str = ""
    """A class of the person's own, such as `merger`; empty for none."""
    why: str = ""
    """Why the object was shown: certified, ranked, learnt, uncertain, audit, or map: it was chosen
    there."""
    undoes: str = ""
    """`label_id` of the label that this line takes back; empty in a label proper."""
    label_id: str = ""
    """SESSION:NUMBER, given when it is written."""
    time: str = ""
    """UTC, ISO 8601 with microseconds, given when it is written."""

    def __post_init__(self) -> None:
        if self.interest is not None and self.interest not in INTERESTS:
            raise ConfigError(f"interest is {self.interest!r}, expected 1, 2, 3, 4 or 5")
        if not (self.undoes or self.kind or self.interest):
            raise ConfigError(
                f"the label of {self.object_id} says nothing, expected an interest of 1 to 5 or a "
                "class"
            )
        for name in ("object_id", "user", "kind"):
            text = getattr(self, name)
            if len(text) > MAX_TEXT or any(ord(char) < 32 for char in text):
                raise ConfigError(
                    f"{name} of a label has {len(text)} characters, expected at most {MAX_TEXT} "
                    "and no control characters"
                )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Standing:
    """What the log says at one moment."""

    num_lines: int
    """Labels ever written, and undone ones: a log that has grown has more."""
    labels: list[Label]
    """Of each person and object the last one that was not undone."""


class LabelLog:
    """The labels of a run; this object writes one session, and reads all. Safe between threads.

    Of a night all are those of older versions too. What was read is kept: of other sessions only
    parts that are new, or have grown, are read again, and folders of versions before the reference,
    to which nobody adds, are listed once.
    """

    def __init__(self, run_dir: str) -> None:
        self.folder, *older = label_folders(run_dir)
        self._live = [self.folder, *older[:1]]
        self._settled = older[1:]
        self._settled_files: list[storage.InputFile] | None = None
        self.session = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{os.getpid()}-{secrets.token_hex(4)}"
        self._lock = threading.Lock()
        self._parts: dict[str, tuple[tuple[int, str], list[Label]]] = {}
        """Of other sessions, by name: size and version of the file when it was read, and labels."""
        self._own: list[Label] = []
        self._all: list[Label] = []
        """In order of time."""
        self._tally = _Tally()
        self._num_labels = 0
        self._lines: list[bytes] = []
        """Of the last part."""

    def append(self, label: Label) -> Label:
        """Writes a label and returns it with its id and time; it is stored when this returns.

        Raises StorageError where it cannot be written; then it is not in the log.
        """
        with self._lock:
            written = dataclasses.replace(
                label,
                label_id=f"{self.session}:{self._num_labels}",
                time=datetime.now(UTC).isoformat(timespec="microseconds"),
            )
            line = json.dumps(dataclasses.asdict(written), ensure_ascii=False).encode() + b"\n"
            part = self._num_labels // LABELS_A_PART
            before = self._lines if self._num_labels % LABELS_A_PART else []
            name = f"{self.session}-{part:04d}.jsonl"
            storage.publish(storage.join(self.folder, name), b"".join([*before, line]))
            self._lines = [*before, line]
            self._num_labels += 1
            self._own.append(written)
            self._add([written])
        return written

    def read(self) -> list[Label]:
        """The labels of all sessions, those that were undone included, in order of time.

        Raises LedgerError on a line that is no label, naming it.
        """
        with self._lock:
            self._refresh()
            return list(self._all)

    def standing(self) -> Standing:
        """What stands now, over all sessions. Raises LedgerError as `read` does."""
        with self._lock:
            self._refresh()
            return Standing(num_lines=len(self._all), labels=list(self._tally.current.values()))

    def _refresh(self) -> None:
        """Reads what other sessions have written since the last time."""
        parts: dict[str, tuple[tuple[int, str], list[Label]]] = {}
        fresh: list[Label] = []
        is_grown = True
        for file in self._list():
            name = file.path.rpartition("/")[2]
            if not name.endswith(".jsonl") or name.startswith(f"{self.session}-"):
                continue
            state = (file.size_bytes, file.version)
            known_state, known = self._parts.get(name, ((0, ""), []))
            labels = known if known_state == state else _parse(file.path)
            parts[name] = (state, labels)
            is_grown = is_grown and labels[: len(known)] == known
            fresh += labels[len(known) :]
        is_grown = is_grown and parts.keys() >= self._parts.keys()
        self._parts = parts
        if is_grown:
            self._add(fresh)
        else:  # somebody took a line or a file away
            self._all, self._tally = [], _Tally()
            self._add([*self._own, *(label for _, labels in parts.values() for label in labels)])

    def _list(self) -> list[storage.InputFile]:
        if self._settled_files is None:
            self._settled_files = _files_of(self._settled)
        return [*_files_of(self._live), *self._settled_files]

    def _add(self, fresh: list[Label]) -> None:
        """Puts labels into their place in time, which is nearly always the end."""
        fresh = sorted(fresh, key=_in_time)
        if fresh and self._all and _in_time(fresh[0]) < _in_time(self._all[-1]):
            fresh, self._all, self._tally = sorted([*self._all, *fresh], key=_in_time), [], _Tally()
        self._all += fresh
        for label in fresh:
            self._tally.add(label)


def label_folders(run_dir: str) -> list[str]:
    """Where the labels of a version are: its own folder first, then those of older ones, newest
    first.
    """
    older = read_inherited(run_dir).versions
    return [storage.join(version, "labels") for version in (run_dir, *reversed(older))]


def _files_of(folders: Sequence[str]) -> list[storage.InputFile]:
    return [file for files in storage.at_once(storage.list_files, folders) for file in files]


class _Tally:
    """What stands, kept up as labels come in order of time."""

    def __init__(self) -> None:
        self.current: dict[tuple[str, str], Label] = {}
        """By object and person."""
        self._said: dict[tuple[str, str], list[Label]] = {}
        self._undone: set[str] = set()

    def add(self, label: Label) -> None:
        key = label.object_id, label.user
        said = self._said.setdefault(key, [])
        if label.undoes:
            self._undone.add(label.undoes)
            said[:] = [one for one in said if one.label_id != label.undoes]
        elif label.label_id not in self._undone:  # of another server whose clock is ahead
            said.append(label)
        self.current.pop(key, None)
        if said:
            self.current[key] = said[-1]


def current_labels(labels: Iterable[Label]) -> list[Label]:
    """What stands: of each person and object the last label that was not undone."""
    tally = _Tally()
    for label in sorted(labels, key=_in_time):
        tally.add(label)
    return list(tally.current.values())


def interest_of(labels: Iterable[Label]) -> dict[str, float]:
    """Mean interest of each object over the people who gave one."""
    given: dict[str, list[int]] = {}
    for label in current_labels(labels):
        if label.interest is not None:
            given.setdefault(label.object_id, []).append(label.interest)
    return {object_id: sum(values) / len(values) for object_id, values in given.items()}


def labels_table(labels: Sequence[Label], catalog: pa.Table) -> pa.Table:
    """LABELS: the standing labels beside what the catalog says of their objects, by time.

    An object that the catalog no longer holds keeps its label; what the catalog knew is null.
    """
    standing = sorted(current_labels(labels), key=_in_time)
    ids = pa.array([label.object_id for label in standing], pa.string())
    place = pc.index_in(ids, value_set=catalog["object_id"].combine_chunks())
    columns: dict[str, Any] = {"object_id": ids}
    for field in schema.LABELS:
        if field.name in catalog.column_names and field.name not in ("object_id", "model_id"):
            columns[field.name] = catalog[field.name].take(place)
        elif field.name != "object_id":
            values = [getattr(label, _FIELD_OF.get(field.name, field.name)) for label in standing]
            columns[field.name] = pa.array(values, field.type)
    return schema.conform(pa.table(columns), schema.LABELS, "labels")


_FIELD_OF = {"class": "kind", "labelled": "time"}
"""Columns whose names a Python field cannot have, or that would not say enough in a table."""


def _in_time(label: Label) -> tuple[str, str]:
    return label.time, label.label_id


def _parse(path: str) -> list[Label]:
    labels = []
    for number, line in enumerate(storage.read_bytes(path).splitlines(), 1):
        try:
            labels.append(Label(**json.loads(line)))
        except (ValueError, TypeError, ConfigError) as error:
            raise LedgerError(
                f"line {number} of {path} is no label ({error}); move the line elsewhere to go on"
            ) from None
    return labels
