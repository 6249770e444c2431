"""The job `astroray flares find`: list, search every light curve, gather, show.

flares.parquet         FLARES
refused.parquet        REFUSED_FLARES
light_curves.parquet   FLARE_CURVES
stars.parquet          FLARE_STARS
rejects.parquet        REJECTS
run.json, index.html, ledger/, parts/, rejects/, logs/
"""

import dataclasses
import time
from collections.abc import Sequence

import pyarrow as pa

from astroray import ledger, moments, provenance, runs, schema, storage, surveys
from astroray.errors import AstrorayError, ConfigError, LedgerError
from astroray.execution import workers
from astroray.execution.progress import Counter, Progress, Show
from astroray.execution.worker_bounds import parse_workers
from astroray.flares.energy import FLARE_TEMPERATURE_K
from astroray.flares.events import FlareRule
from astroray.flares.find import FindPlan, find_in_shard
from astroray.flares.page import write_page
from astroray.flares.shared import mark_shared
from astroray.flares.stars import split_candidates, stars_of, stars_table
from astroray.receipts import Receipt, done_shards, pack_receipts, read_receipts
from astroray.run_files import flare_part_file
from astroray.run_record import Backends, Counts, RunRecord
from astroray.storage.leases import Lease, hold_lease
from astroray.storage.parquet import publish_parquet, read_parquet
from astroray.surveys.shards import Shard, SurveyUri

__all__ = ["FindConfig", "find_flares"]

READER = "light_curves"
SHARD_FILES = 32
"""Files a shard where the survey does not say: at about a second each, enough for one task."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FindConfig:
    """What to search, how strictly, and where the result goes."""

    survey: str
    """Survey URI of light curves."""
    out: str
    """Run directory; belongs to one fingerprint."""
    rule: FlareRule = dataclasses.field(default_factory=FlareRule)
    num_injections: int = 100
    """Made flares put into each light curve to measure completeness; 0 for none."""
    flare_k: float = FLARE_TEMPERATURE_K
    """Temperature of the flares, for their energy."""
    seed: int = 0
    workers: str = "auto"
    max_rejected: float = 0.01
    """Share of light curves or of shards that may be rejected; above it the exit code is 1."""

    def __post_init__(self) -> None:
        parse_workers(self.workers)
        if not self.out:
            raise ConfigError("out is empty, expected a folder or s3://...; give --out DIR")
        if not self.rule.sigma > 0:
            raise ConfigError(f"sigma is {self.rule.sigma}, expected above 0")
        if self.num_injections < 0:
            raise ConfigError(f"injections is {self.num_injections}, expected 0 or more")
        if not 5000 <= self.flare_k <= 50000:
            raise ConfigError(f"flare_k is {self.flare_k} K, expected 5000..50000")


def find_flares(config: FindConfig, *, show: Show = lambda _: None) -> RunRecord:
    """Finds the flares of a survey in `config.out`, or of what is left of it.

    The same call on the same directory resumes: no finished shard is read again. Raises
    ConfigError before the first light curve is read, LedgerError where the directory refuses.
    """
    config = dataclasses.replace(
        config, survey=SurveyUri.absolute(config.survey), out=storage.absolute(config.out)
    )
    with hold_lease(config.out) as lease:
        fresh = _fresh_record(config)
        ledger.find_owner(config.out, fresh)
        storage.remove_temporaries(config.out)
        known = ledger.read_listing(config.out)
        shards = _list(config, known)  # first, so that a mistaken survey leaves no run behind
        record = ledger.open_run(config.out, fresh)
        if shards != known:
            ledger.write_listing(config.out, shards)
        started = time.monotonic()
        try:
            with runs.logs_of(config.out) as log_dir:
                show(Progress(stage="start", note=f"Ray, whose messages go to {log_dir}"))
                with workers.cluster(log_dir=log_dir):
                    workers.refuse_local(config.out)
                    _search(config, shards, f"S{lease.epoch:06d}", show)
            return _gather(config, shards, record, lease, started)
        except (AstrorayError, KeyboardInterrupt) as error:
            runs.note_failure(record, config.out, error, lease)
            raise


def _fresh_record(config: FindConfig) -> RunRecord:
    settings = dataclasses.asdict(config)
    science = {key: value for key, value in settings.items() if key not in ledger.FREE_SETTINGS}
    return RunRecord(
        survey=config.survey,
        fingerprint=ledger.fingerprint({"job": "flares find", **science}),
        config=settings,
        created=moments.now(),
        versions=provenance.versions(),
        machine=provenance.machine(),
        backends=Backends(device="cpu"),
    )


def _list(config: FindConfig, known: Sequence[Shard]) -> list[Shard]:
    """The shards of the survey, known ones first; new files are appended as further ones."""
    uri = SurveyUri.parse(config.survey)
    if uri.location not in surveys.SCHEMES:
        usual = {"format": READER, "shard_files": str(SHARD_FILES)}
        uri = dataclasses.replace(uri, options={**usual, **uri.options})
    shards = runs.list_again(str(uri), config.out, known, done_shards(config.out))
    other = next((shard for shard in shards if shard.reader != READER), None)
    if other is not None:
        raise ConfigError(
            f"{config.survey} is read as {other.reader}, expected light curves; leave out format="
        )
    return shards


def _search(config: FindConfig, shards: Sequence[Shard], session: str, show: Show) -> None:
    """Searches the shards that are left: one Ray task each, as many at once as fit."""
    done = done_shards(config.out)
    todo = [shard for shard in shards if shard.name not in done]
    if not todo:
        return
    placing = workers.plan_workers(
        workers=config.workers,
        num_gpus=0.0,
        num_shards=len(todo),
        machines=workers.machines(),
    )
    plan = FindPlan(
        run_dir=config.out,
        session=session,
        rule=config.rule,
        num_injections=config.num_injections,
        seed=config.seed,
        flare_k=config.flare_k,
    )
    each = workers.each_remotely(num_cpus=placing.num_cpus, at_once=placing.max_workers)
    show(Progress(stage="flares", shards_done=len(done), shards_total=len(shards)))
    count = Counter(show, len(shards), len(done), time.monotonic(), stage="flares")
    nodes = workers.RayNodes()
    for _, receipt in each(find_in_shard, [(plan, shard, nodes) for shard in todo]):
        count.add(receipt)


def _gather(
    config: FindConfig, shards: Sequence[Shard], record: RunRecord, lease: Lease, started: float
) -> RunRecord:
    """Makes the tables of the whole survey from those of its shards, and the page."""
    out = config.out
    pack_receipts(out)
    receipts = read_receipts(out)
    missing = sorted({shard.name for shard in shards} - set(receipts))
    if missing:
        raise LedgerError(
            f"{len(missing)} shards have no done mark, first {missing[0]}; run the same command "
            "again, and if it stays so see Ray's messages"
        )
    searched = [shard.name for shard in shards]
    curves = _read_parts(out, "light_curves", searched, schema.FLARE_CURVES)
    curves = curves.sort_by([(name, "ascending") for name in ("object_id", "shard", "row")])
    candidates = _read_parts(out, "candidates", searched, schema.REFUSED_FLARES)
    flares, refused = split_candidates(mark_shared(candidates, curves))
    stars = list(stars_of(curves, flares))
    rejects = ledger.read_rejects(out)
    lease.check()
    for name, table in {
        "flares": flares,
        "refused": refused,
        "light_curves": curves,
        "stars": stars_table(stars),
        "rejects": rejects.sort_by([("shard", "ascending"), ("row", "ascending")]),
    }.items():
        publish_parquet(storage.join(out, f"{name}.parquet"), table)
    counts = _counts(receipts, curves, flares, refused, len(stars))
    spent_s = record.seconds.get("flares", 0.0) + time.monotonic() - started
    record = dataclasses.replace(
        record,
        state="done",
        finished=moments.now(),
        counts=counts,
        rejects=ledger.summarize_rejects(rejects),
        seconds={**record.seconds, "flares": round(spent_s, 3)},
    )
    write_page(out, record, stars, flares, refused)
    record.publish(out)
    return record


def _counts(
    receipts: dict[str, Receipt],
    curves: pa.Table,
    flares: pa.Table,
    refused: pa.Table,
    num_stars: int,
) -> Counts:
    """Counts of the run; raises LedgerError where light curves are not conserved."""
    counts = ledger.total(
        receipts.values(),
        Counts(
            stars=num_stars,
            flares=len(flares),
            refused=len(refused),
            mirrored=sum(curves["num_mirrored"].to_pylist()),
        ),
    )
    if counts.rows_embedded != len(curves):
        raise LedgerError(
            f"light curves are not conserved: {counts.rows_embedded} searched, {len(curves)} "
            "in the tables; report this as a bug"
        )
    return counts


def _read_parts(out: str, table: str, names: Sequence[str], promised: pa.Schema) -> pa.Table:
    def read(name: str) -> pa.Table:
        data = storage.read_bytes(flare_part_file(out, table, name))
        return schema.conform(read_parquet(data), promised, table)

    return pa.concat_tables([promised.empty_table(), *storage.at_once(read, names)])
