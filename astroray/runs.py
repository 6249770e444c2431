"""What every job with a run directory does alike: finds it, its logs, its listing, its end."""

import contextlib
import dataclasses
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

from astroray import ledger, storage, surveys
from astroray.catalog.versions import Night
from astroray.encoders import AUTO, ModelFile, choose_encoder, is_own
from astroray.errors import ConfigError, LedgerError, StorageError
from astroray.interrupts import Interrupted
from astroray.preparation.modalities import MODALITIES
from astroray.receipts import done_shards
from astroray.run_files import listing_file, model_file
from astroray.run_folders import night_after, version_of
from astroray.run_record import RunRecord
from astroray.storage.leases import Lease
from astroray.surveys.object_files import read_outside
from astroray.surveys.shards import Shard, SurveyUri

__all__ = [
    "check_encoder", "check_takes", "count_outside", "encoder_of", "forget_failed", "list_again",
    "log_folder", "logs_of", "note_failure", "read_known",
]  # fmt: skip


def check_takes(run_dir: str, folder: str) -> None:
    """Raises StorageError where nothing can be written into a folder of a finished run.

    For what is added to it later: who may only read it is told so before any work for it.
    """
    run_dir = version_of(run_dir)
    probe = storage.join(run_dir, folder, f"{storage.TEMPORARY_PREFIX}{uuid.uuid4().hex}")
    try:
        storage.publish(probe, b"")
    except StorageError as error:
        reason = str(error).partition(";")[0].replace(probe, storage.join(run_dir, folder))
        raise StorageError(
            f"{reason}; `astroray export {run_dir} --self-contained --out DIR` makes a copy of "
            "the run that is yours"
        ) from None
    with contextlib.suppress(StorageError):  # who may add need not be allowed to delete
        storage.delete(probe)


def log_folder(run_dir: str) -> str:
    """Where Ray's messages go: into the run directory, or, where none can go there, a new folder.

    That is where it is remote, or another person's who lets it be served. The new one is readable
    by its owner alone, and nobody can have been there before: on a shared machine a name that can
    be guessed is taken by another run, or leads elsewhere.
    """
    folder = os.path.join(run_dir, "logs")
    there = folder if os.path.exists(folder) else run_dir
    is_closed = os.path.exists(there) and not os.access(there, os.W_OK)
    if storage.is_remote(run_dir) or is_closed:
        return tempfile.mkdtemp(prefix="astroray-logs-")
    return folder


@contextlib.contextmanager
def logs_of(run_dir: str) -> Iterator[str]:
    """`log_folder`; one outside of the run stays only where the block fails, to be read then.

    What the workers wrote goes to `logs/workers` of a run on S3 even so, since rejects refer to it.
    """
    folder = log_folder(run_dir)
    try:
        yield folder
    except Exception:
        _publish_worker_logs(folder, run_dir)
        raise
    _publish_worker_logs(folder, run_dir)
    if folder != os.path.join(run_dir, "logs"):
        shutil.rmtree(folder, ignore_errors=True)


def _publish_worker_logs(folder: str, run_dir: str) -> None:
    """Copies them to a run on S3, where it takes them: its own error must not be hidden."""
    files = Path(folder, "workers").glob("worker-*") if storage.is_remote(run_dir) else ()
    with contextlib.suppress(StorageError):
        for file in files:
            path = storage.join(run_dir, "logs", "workers", file.name)
            storage.publish(path, file.read_bytes())


def count_outside(run_dir: str, shards: Sequence[Shard]) -> int | None:
    """Objects of a catalog that lie on none of the images that they were cut from.

    None where there is no catalog, or where images came later: then nobody has counted.
    """
    num_images = sum("rivals" in shard.params for shard in shards)
    folder = ledger.objects_folder(run_dir)
    return read_outside(folder, num_images=num_images) if num_images else None


def encoder_of(name: str, shards: Sequence[Shard]) -> str:
    """The encoder as a person calls it: `auto` by what it comes to for these shards."""
    return choose_encoder(name, surveys.modality_of(shards[0])) if name == AUTO and shards else name


def check_encoder(
    name: str,
    shards: Sequence[Shard],
    keywords: Collection[str] = (),
    *,
    given: ModelFile | None = None,
) -> None:
    """Raises ConfigError where an encoder is none, or takes rows of another kind than these.

    keywords  that a class of the user's own is to be constructed with, also refused here
    given     the model file that is named; its class, and torch with it, is left to the workers
    """
    if shards:
        modality = surveys.modality_of(shards[0])
        if given:
            given.check_modality(modality)
            return
        choose_encoder(name, modality)
        if is_own(name):
            from astroray.encoders.own import check_keywords

            check_keywords(name, keywords, modality)


def read_known(run_dir: str, fresh_on: Callable[[str], RunRecord]) -> list[Shard]:
    """The listing that a run goes on with; empty where the directory is free.

    fresh_on  the record of a run that begins now, by its device: here that of the run before

    Raises LedgerError where the directory belongs to another run.
    """
    old = RunRecord.load(run_dir)
    fresh = fresh_on((old and old.backends.device) or "cpu")
    if _is_given_up(run_dir, old, fresh):
        return []
    ledger.find_owner(run_dir, fresh)
    return ledger.read_listing(run_dir)


def forget_failed(run_dir: str, fresh: RunRecord) -> None:
    """Gives the directory of a scan that failed before it had a model to one of other settings.

    Its listing and the sample that was drawn are taken back, since both belong to its settings.
    """
    if _is_given_up(run_dir, RunRecord.load(run_dir), fresh):
        storage.delete(storage.join(run_dir, "model", "fit", "sample.json"))
        storage.delete(listing_file(run_dir))
        fresh.publish(run_dir)


def _is_given_up(run_dir: str, old: RunRecord | None, fresh: RunRecord) -> bool:
    if old is None or old.fingerprint == fresh.fingerprint or old.night or not old.is_broken_off:
        return False
    return not storage.exists(model_file(run_dir)) and not done_shards(run_dir)


def list_again(
    survey: str,
    run_dir: str,
    known: Sequence[Shard],
    done: Collection[str],
    *,
    night: Night | None = None,
) -> list[Shard]:
    """The shards of a survey: the `known` ones first, as their files are now, then new ones.

    run_dir  where identifiers and positions of new shards are written
    done     names of shards that this run has finished
    night    of a night: what it goes on from, whose files must still be there

    Raises ConfigError where the survey is the run's own folder or holds something else than the
    night's reference, LedgerError where the bytes of a finished shard have changed, one must stay
    and a file of it is gone, or the run would get other shards than those that a night goes on
    from.
    """
    location = SurveyUri.parse(survey).location
    if location not in surveys.SCHEMES and storage.resolve(location) == storage.resolve(run_dir):
        raise ConfigError(
            f"--out {run_dir} is the survey's own folder, which files of the run would become part "
            "of; choose another, it may lie within"
        )
    folder = ledger.objects_folder(run_dir)
    listing = surveys.list_shards(survey, known=known, objects_folder=folder)
    if night and (mended := night.find_mended(listing.changed)):
        listing = surveys.list_shards(survey, known=known, mended=mended, objects_folder=folder)
    settled = night.settled if night else set()
    ledger.check_unchanged(known, listing.changed, {*done, *settled})
    _check_withdrawn(known, listing.unseen, night.must_stay(survey) if night else ())
    shards = [listing.changed.get(shard.name, shard) for shard in listing.shards]
    if night:
        _check_kind(night, shards)
    elif known and shards != list(known):
        _check_alone(run_dir, survey)
    return shards


def _check_kind(night: Night, shards: Sequence[Shard]) -> None:
    """Raises ConfigError where a shard holds something else than those of the night's reference."""
    expected = surveys.modality_of(night.listing[0])
    for shard in shards:
        if (found := surveys.modality_of(shard)) != expected:
            where = shard.inputs[0].path if shard.inputs else f"shard {shard.name}"
            raise ConfigError(
                f"{where} holds {MODALITIES[found].nouns}, expected {MODALITIES[expected].nouns} "
                f"as the reference {night.reference} does; give their files with --survey, or scan "
                "the others into a run of their own"
            )


def _check_alone(run_dir: str, survey: str) -> None:
    """Raises LedgerError where a night goes on from a run that is to get other shards.

    Work on the same shards writes the same bytes again, and is let go on with.
    """
    if night := night_after(run_dir):
        raise LedgerError(
            f"{run_dir} is what the night {night} is made of, expected the files that it was begun "
            "with: others would change its catalog; add them by a night over the newest version, "
            f"astroray nightly --survey '{survey}' --reference NEWEST --out DIR, or scan into "
            "another --out"
        )


def _check_withdrawn(
    known: Sequence[Shard], unseen: Collection[str], stay: Collection[str]
) -> None:
    """Raises LedgerError where a file of a shard that must stay is gone.

    unseen  files that the survey does not list any more: only these are looked for one by one
    """
    files = {
        file.path: shard.name
        for shard in known
        if unseen and shard.name in stay
        for file in shard.inputs
        if file.path in unseen
    }
    gone = sorted(path for path in files if not storage.exists(path))
    if gone:
        raise LedgerError(
            f"{len(gone)} of the reference's files {'was' if len(gone) == 1 else 'were'} "
            f"withdrawn, first {gone[0]} (shard {files[gone[0]]}): scores are bounds only while "
            "objects are added; restore them, or scan what is left into a new --out with the same "
            "model, which begins a new reference"
        )


def note_failure(record: RunRecord, run_dir: str, error: BaseException, lease: Lease) -> RunRecord:
    """The record with the reason why the run ended, if only a signal; it stays resumable."""
    reason = str(error) or str(Interrupted())
    is_by_signal = isinstance(error, KeyboardInterrupt)
    ended = dataclasses.replace(
        record, state="interrupted" if is_by_signal else "failed", error=reason
    )
    # A full disk cannot take this note either, and another writer's record is not ours.
    with contextlib.suppress(StorageError, LedgerError):
        lease.check()
        ended.publish(run_dir)
    return ended
