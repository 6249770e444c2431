"""Windows as files: all that a fit is made on, and before that those of each group of stars.

A survey's windows take hours to gather. What a group gives is published when it is done, so that a
killed fit goes on with the groups that are left.
"""

import dataclasses
import json

import numpy as np

from astroray import storage
from astroray.flares.windows import Windows
from astroray.forecast.collect import collect_windows
from astroray.forecast.star_groups import StarGroup
from astroray.storage.arrays import publish_arrays, read_arrays
from astroray.surveys.shards import Reject

__all__ = ["forget_groups", "keep_group", "read_group", "read_windows", "write_windows"]

GROUP = "group-"
"""How the names of groups' files begin."""


def write_windows(path: str, windows: Windows) -> None:
    """Publishes windows as one npz file, whole or absent."""
    publish_arrays(path, _arrays(windows))


def read_windows(path: str) -> Windows:
    """Windows that `write_windows` published."""
    return _windows(read_arrays(path))


def keep_group(group: StarGroup, folder: str) -> str:
    """The file in `folder` that has the windows of a group, gathered if it is not there yet."""
    path = storage.join(folder, f"{GROUP}{group.name}.npz")
    if not storage.exists(path):
        windows, rejects, _ = collect_windows(group)
        told = json.dumps([dataclasses.asdict(reject) for reject in rejects])
        columns = {} if windows is None else _arrays(windows)
        publish_arrays(path, {"rejects": np.array(told), **columns})
    return path


def read_group(path: str) -> tuple[Windows | None, list[Reject]]:
    """What `keep_group` published: windows, None where no star gave one, and rejects."""
    columns = read_arrays(path)
    rejects = [Reject(**facts) for facts in json.loads(str(columns.pop("rejects")))]
    return (_windows(columns) if columns else None), rejects


def forget_groups(folder: str) -> None:
    """Removes the files of all groups from `folder`."""
    for name in storage.list_names(folder):
        if name.startswith(GROUP):
            storage.delete(storage.join(folder, name))


def _arrays(windows: Windows) -> dict[str, np.ndarray]:
    columns = {
        name: value for name, value in vars(windows).items() if isinstance(value, np.ndarray)
    }
    return {
        "star_ids": np.array(windows.star_ids, np.str_),
        "counts": np.array(json.dumps([windows.dropped, windows.missions])),
        **columns,
    }


def _windows(columns: dict[str, np.ndarray]) -> Windows:
    ids = columns.pop("star_ids").tolist()
    dropped, missions = json.loads(str(columns.pop("counts")))
    return Windows(star_ids=ids, dropped=dropped, missions=missions, **columns)
