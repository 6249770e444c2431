"""The job `astroray nightly`: what a night takes from its reference, and when it is refused.

A night is a scan with another beginning and end: the model and the settings are those of the
reference, only shards that the reference does not know are embedded, and its scores are bounds.

    run.json, ledger/, embeddings/, neighbors/, rejects/, thumbnails/, report/   as of a scan
    ledger/inherited.parquet   files of older versions that this one refers to, by checksum
    catalog/                   HATS: the rows that were searched in this night
    changes.parquet            CHANGES of the certified list
"""

import dataclasses
import re
import time
from datetime import datetime, timedelta

from astroray import ledger, pipeline, schema, storage
from astroray.catalog import versions
from astroray.config import ScanConfig, load_config
from astroray.errors import ConfigError, LedgerError
from astroray.execution.progress import Show
from astroray.execution.worker_bounds import parse_workers
from astroray.run_files import model_file, record_file, where_now
from astroray.run_folders import check_finished, newest_version, record_of
from astroray.run_record import Backends, RunRecord
from astroray.settings import UNTOLD, from_dict

__all__ = ["NightConfig", "SeriesConfig", "parse_finish_by", "plan_night", "run_night"]

LEAST_RESERVE_S = 20.0
RESERVE_FACTOR = 1.5
"""Search and report of a night are planned to take so many times those of its reference."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class NightConfig:
    """What a night is asked to do."""

    survey: str
    """Survey URI: the same with more files, or the new files alone."""
    reference: str
    """Run directory of a finished scan or night, or a folder of them; see `find_reference`."""
    out: str
    """Run directory of this version."""
    finish_by_s: float | None = None
    """Unix time at which the catalog has to stand."""
    top: int | None = None
    """Length of the certified list; None: that of the reference."""
    workers: str = "auto"
    num_gpus: float | None = None
    max_rejected: float | None = None
    """None: that of the reference."""
    fault_plan: str = dataclasses.field(default="", metadata=UNTOLD)

    def __post_init__(self) -> None:
        parse_workers(self.workers)
        is_one = storage.resolve(self.out) == storage.resolve(self.reference)
        if is_one or storage.is_remote(self.out) != storage.is_remote(self.reference):
            raise ConfigError(
                f"out is {self.out} and reference {self.reference}, expected two folders of one "
                "store; older versions are referred to, never changed"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SeriesConfig:
    """A night of a series, whose versions stand in one folder; raises ConfigError on odd values."""

    survey: str
    folder: str
    """Holds a run directory for each version: a scan, then nights."""
    night: str
    """Name of this night's version in it, such as 2026-11-28."""
    reference: str = ""
    """As of `NightConfig`; empty: the folder itself."""
    finish_by: str = ""
    """HH:MM on the clock of the machine that runs the job; empty: no limit."""
    top: int | None = None
    workers: str = "auto"
    num_gpus: float | None = None
    max_rejected: float | None = None

    def __post_init__(self) -> None:
        parse_workers(self.workers)
        if not re.fullmatch(r"\w[\w.-]*", self.night):
            raise ConfigError(
                f"night is {self.night!r}, expected the name of a folder such as 2026-11-28"
            )
        if self.finish_by:
            parse_finish_by(self.finish_by)

    @property
    def run_dir(self) -> str:
        """Where this night's version is written."""
        return storage.join(self.folder, self.night)


def plan_night(series: SeriesConfig) -> NightConfig:
    """The night that is asked for: a new version beside its reference, or one to go on with.

    Raises ConfigError where the folder holds no finished version.
    """
    out = series.run_dir
    return NightConfig(
        survey=series.survey,
        reference=find_reference(series.reference or series.folder, out=out),
        out=out,
        finish_by_s=parse_finish_by(series.finish_by, out=out) if series.finish_by else None,
        top=series.top,
        workers=series.workers,
        num_gpus=series.num_gpus,
        max_rejected=series.max_rejected,
    )


def find_reference(named: str, *, out: str) -> str:
    """The run that a night in `out` goes on from: the one that is named, or of a folder of versions
    the newest that is finished.

    A night that has begun keeps the reference that it began with. Raises ConfigError where the
    folder holds no finished version.
    """
    named = storage.resolve(named)  # a link to the newest version leads elsewhere tomorrow
    if storage.exists(record_file(named)):
        return named
    begun = RunRecord.load(storage.absolute(out))
    if begun and begun.night:
        return where_now(begun.night.reference, out)
    folder, _, night = storage.resolve(out).rstrip("/").rpartition("/")
    found = newest_version(named, besides=night if folder == named.rstrip("/") else "")
    if not found:
        raise ConfigError(
            f"{named} holds no run.json, expected the --out of a scan or night, or a folder that "
            f"holds a finished one; scan into {storage.join(named, 'reference')}, or check the path"
        )
    return storage.resolve(found)


def run_night(config: NightConfig, *, show: Show = lambda _: None) -> RunRecord:
    """Adds to a reference what is new in the survey, as a version in `config.out`.

    A night that is done is returned as it is, since others may refer to it. Raises ConfigError or
    LedgerError where the reference cannot be one, and where a shard of it has changed.
    """
    reference_dir = find_reference(config.reference, out=config.out)
    config = dataclasses.replace(config, out=storage.absolute(config.out), reference=reference_dir)
    done = RunRecord.load(config.out)
    reference = _check_reference(config.reference)
    before = reference.backends
    night = versions.Night(
        reference=config.reference,
        inherited=versions.describe_version(config.reference),
        listing=ledger.read_listing(config.reference),
        survey=reference.survey,
        backends=Backends(
            device=before.device, attention=before.attention, quantize=before.quantize
        ),
        num_listed=reference.proven.num_certified,
        number=reference.night.number + 1 if reference.night else 1,
        embed_until_s=_embed_until_s(config, reference),
        finish_by_s=config.finish_by_s,
    )
    if done is not None and done.state == "done":
        _check_same(done, night, config)
        return done
    return pipeline.scan(_scan_config(config, reference), show=show, night=night)


def parse_finish_by(text: str, *, out: str = "", now_s: float | None = None) -> float:
    """Unix time of the first HH:MM of this machine's clock after the night in `out` began.

    That is now, but for a night that was interrupted: gone on with after that time, it must not
    run until the next day. Raises ConfigError on other text.
    """
    now = datetime.fromtimestamp(time.time() if now_s is None else now_s)
    begun = RunRecord.load(storage.absolute(out)) if out else None
    if begun is not None:
        now = min(now, datetime.fromisoformat(begun.created).astimezone().replace(tzinfo=None))
    try:
        clock = datetime.strptime(text, "%H:%M").time()
    except ValueError:
        raise ConfigError(f"--finish-by is {text!r}, expected HH:MM such as 06:30") from None
    then = datetime.combine(now.date(), clock)
    return (then if then > now else then + timedelta(days=1)).timestamp()


def _check_reference(reference: str) -> RunRecord:
    record = record_of(reference)
    check_finished(record, reference)
    if record.schema_version != schema.SCHEMA_VERSION:
        raise ConfigError(
            f"the reference {reference} has schema version {record.schema_version}, expected "
            f"{schema.SCHEMA_VERSION}; bounds never cross versions: scan the survey anew"
        )
    if numbers := record.backends.fewer_bits:
        # its list has scores of another space than its embeddings
        raise ConfigError(
            f"the reference {reference} was selected on fewer bits ({numbers}) and its list was "
            "encoded again, expected one model throughout; scan with encoder.quantize none"
        )
    return record


def _check_same(done: RunRecord, night: versions.Night, config: NightConfig) -> None:
    if done.night is None or done.night.inherits != night.identity:
        raise LedgerError(
            f"{config.out} is a finished run of something else, expected an empty folder; choose "
            "another --out"
        )


def _scan_config(config: NightConfig, reference: RunRecord) -> ScanConfig:
    """The settings of the reference, its model as it is, and the night's own survey and out."""
    before: ScanConfig = from_dict(ScanConfig, reference.config, where="run.json")
    search = before.search
    if config.top is not None:
        search = dataclasses.replace(search, top=config.top)
    model = model_file(config.reference)
    rejected = before.max_rejected if config.max_rejected is None else config.max_rejected
    located = load_config(config.survey, config.out, None, {})  # makes a local path absolute
    return dataclasses.replace(
        before,
        survey=located.survey,
        out=located.out,
        encoder=dataclasses.replace(before.encoder, name=model, output=None, network={}),
        search=search,
        workers=config.workers,
        num_gpus=config.num_gpus,
        max_rejected=rejected,
        fault_plan=config.fault_plan,
    )


def _embed_until_s(config: NightConfig, reference: RunRecord) -> float | None:
    """When to stop embedding, so that search and report end in time."""
    if config.finish_by_s is None:
        return None
    spent_s = sum(reference.seconds.get(stage, 0.0) for stage in ("search", "report"))
    return config.finish_by_s - max(LEAST_RESERVE_S, RESERVE_FACTOR * spent_s)
