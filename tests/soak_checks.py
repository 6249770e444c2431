"""What a soak counts, and what every run must be like in the end, whoever died on the way."""

from collections.abc import Mapping, Sequence

from astroray import catalog, storage
from astroray.inspection import verify_run

__all__ = ["Tally", "done_twice", "result_files", "say"]


class Tally:
    """Counts what passed and what failed, and says each."""

    def __init__(self) -> None:
        self.num_passed = self.num_failed = 0

    def count(self, what: str, *, ok: bool) -> None:
        """Notes one check."""
        self.num_passed += ok
        self.num_failed += not ok
        say(f"{'ok  ' if ok else 'FAIL'} {what.rstrip()}")

    def check_record(self, name: str, run_dir: str) -> None:
        """What `astroray verify` says; a run that was killed before its record says nothing."""
        is_begun = storage.exists(storage.join(run_dir, "run.json"))
        for fault in verify_run(run_dir) if is_begun else []:
            self.count(f"{name}: {fault}", ok=False)

    def check_run(self, name: str, run_dir: str, expected: Mapping[str, bytes]) -> None:
        """The end of a run: nothing lost, nothing doubled, the bytes of the undisturbed one."""
        self.check_record(name, run_dir)
        ids = catalog.read_catalog(run_dir)["object_id"].to_pylist()
        is_whole = 0 < len(ids) == len(set(ids))
        self.count(f"{name}: {len(ids)} objects, {len(set(ids))} different", ok=is_whole)
        got = result_files(run_dir)
        differ = sorted(n for n in {*got, *expected} if got.get(n) != expected.get(n))
        self.count(f"{name}: catalog equals the reference {differ or ''}", ok=not differ)


def result_files(run_dir: str) -> dict[str, bytes]:
    """Files of the catalog by name, without the one that has a date, and a night's changes."""
    folder = storage.join(run_dir, "catalog")
    found = [file.path for file in storage.list_files(folder)]
    found += [storage.join(folder, "dataset", name) for name in ("_metadata", "_common_metadata")]
    changes = storage.join(run_dir, "changes.parquet")
    found += [changes] if storage.exists(changes) else []
    names = {path: path.removeprefix(run_dir).strip("/") for path in found}
    return {
        name: storage.read_bytes(path)
        for path, name in names.items()
        if not name.endswith("/hats.properties")
    }


def done_twice(steps: Sequence[tuple[str, str]]) -> list[str]:
    """Shards that were begun again after they were done."""
    done, again = set(), []
    for point, shard in steps:
        if point == "shard.begun" and shard in done:
            again.append(shard)
        if point == "shard.done":
            done.add(shard)
    return again


def say(text: str) -> None:
    """Prints at once."""
    print(text, flush=True)  # noqa: T201 (a program's own output)
