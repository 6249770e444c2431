"""Which run a folder means: the one in it, or of several versions in it the newest."""

import contextlib

from astroray import storage
from astroray.errors import AstrorayError, ConfigError
from astroray.run_files import record_file, where_now
from astroray.run_record import RunRecord

__all__ = [
    "check_finished", "finished_run", "newest_version", "night_after", "record_of", "version_of",
]  # fmt: skip


def newest_version(folder: str, *, besides: str = "") -> str:
    """The finished scan or night in a folder of them that ended last; empty where there is none.

    What another one goes on from is older than that one, whatever the clocks said. Of a version
    and its copy it is the copy. The one named `besides` does not count.
    """
    found, references = [], set()
    for name in set(storage.list_folders(folder)) - {besides}:
        run_dir = storage.join(folder, name)
        record = RunRecord.load(run_dir)
        if record is not None and record.state == "done" and record.proof:
            found.append((record.finished, record.begun, run_dir))
            if record.night:
                references.add(storage.resolve(where_now(record.night.reference, run_dir)))
    last = [one for one in found if storage.resolve(one[2]) not in references]
    return max(last or found)[2] if found else ""


def night_after(run_dir: str) -> str:
    """A night beside a version that goes on from it; empty where there is none."""
    own = storage.resolve(run_dir)
    folder = own.rpartition("/")[0]
    for night in (storage.join(folder, name) for name in storage.list_folders(folder)):
        with contextlib.suppress(AstrorayError):  # others' trouble
            record = RunRecord.load(night)
            of_it = record.night.reference if record and record.night else ""
            if of_it and storage.resolve(where_now(of_it, night)) == own:
                return night
    return ""


def version_of(run_dir: str) -> str:
    """The folder itself where it holds a run, else the newest finished version in it.

    Links of local folders are followed: one may be moved later.
    """
    run_dir = storage.resolve(run_dir)
    if storage.exists(record_file(run_dir)):
        return run_dir
    return newest_version(run_dir) or run_dir


def record_of(run_dir: str, *, expected: str = "scan or night") -> RunRecord:
    """The record of a directory that somebody named as a run; ConfigError where it is none.

    Where it is a folder of runs, the error names the newest finished version in it.
    """
    record = RunRecord.load(run_dir)
    if record is None:
        raise ConfigError(
            f"{run_dir} holds no run.json, expected the --out of a {expected}; "
            f"{_advice_of(run_dir) or 'check the path'}"
        )
    return record


def _advice_of(folder: str) -> str:
    """Which run in a folder of them may be meant; empty where it holds none."""
    names = storage.list_folders(folder)
    runs = [name for name in names if storage.exists(record_file(storage.join(folder, name)))]
    if not runs:
        return ""
    which = f"such as {runs[-1]}"
    with contextlib.suppress(AstrorayError):  # of a run that is not asked for
        if newest := newest_version(folder):
            which = f"the newest finished one is {newest.rpartition('/')[2]}"
    return f"name one of its {len(runs)} runs, {which}"


def finished_run(run_dir: str) -> RunRecord:
    """The record of a scan or night, or of the newest finished one in a folder of them.

    Raises ConfigError where it is not done or another run.
    """
    record = record_of(version_of(run_dir))
    check_finished(record, run_dir)
    return record


def check_finished(record: RunRecord, run_dir: str) -> None:
    """Raises ConfigError where it is not that of a finished scan or night."""
    if record.state != "done":
        raise ConfigError(
            f"{run_dir} holds a run that is {record.state}, expected one that is done; the "
            "command that began it finishes it"
        )
    if record.is_of_flares:
        raise ConfigError(
            f"{run_dir} is a run of flares find, expected one of a scan or night; its flares are "
            f"in {run_dir}/flares.parquet and index.html, and `astroray export` writes them for "
            "other programs"
        )
    if not record.proof:
        raise ConfigError(
            f"{run_dir} holds a run without a search, expected the --out of a scan or night"
        )
