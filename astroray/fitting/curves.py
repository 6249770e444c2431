"""What TensorBoard reads of a fit: event files beside its state.

A file holds the passes between two saves of the state and is named by the first of them, so a
pass that a killed fit repeats is written in place of the one that was lost.
"""

import struct
import time
from collections.abc import Mapping

from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import masked_crc32c

from astroray import storage

__all__ = ["FOLDER_NAME", "Curves"]

FOLDER_NAME = "tensorboard"


class Curves:
    """Numbers of each pass, kept until they are published below `folder`, local or S3."""

    def __init__(self, folder: str) -> None:
        self.folder = storage.join(folder, FOLDER_NAME)
        self.events: list[Event] = []

    def add(self, number: int, values: Mapping[str, float]) -> None:
        """Takes the values of pass `number`, by name; a slash in it makes a group."""
        scalars = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        event = Event(step=number, wall_time=time.time(), summary=Summary(value=scalars))
        self.events.append(event)

    def publish(self) -> None:
        """Writes the passes since the last call as one file, whole or absent."""
        first = self.events[0]
        head = Event(wall_time=first.wall_time, file_version="brain.Event:2")
        path = storage.join(self.folder, f"events.out.tfevents.{first.step:010d}")
        storage.publish(path, b"".join(_record(event) for event in (head, *self.events)))
        self.events.clear()


def _record(event: Event) -> bytes:
    """An event framed as TFRecord has it: length, its checksum, data, their checksum."""
    data = event.SerializeToString()
    length = struct.pack("<Q", len(data))
    checksums = [struct.pack("<I", masked_crc32c(part)) for part in (length, data)]
    return b"".join((length, checksums[0], data, checksums[1]))
