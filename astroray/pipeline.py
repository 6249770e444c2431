"""The main job, top to bottom: list, fit, embed, search, refine, report."""

import contextlib
import dataclasses
import logging
import time
from collections.abc import Iterator
from typing import Any

from astroray import faults, ledger, moments, provenance, receipts, runs, storage
from astroray.actors.embed import EmbedPlan
from astroray.actors.render import render_rows
from astroray.actors.search import GAUSSIAN_PATH, SearchOutcome, SearchPlan
from astroray.actors.shortlist import Reencoder, find_shortlist, rank_shortlist
from astroray.catalog.versions import Inherited, Night
from astroray.config import ScanConfig
from astroray.encoders import PLAIN_ATTENTION, PLAIN_NUMBERS, can_choose_attention, read_model_file
from astroray.errors import AstrorayError, ConfigError, LedgerError
from astroray.execution import workers
from astroray.execution.metrics import RunMetrics
from astroray.execution.progress import Counter, Progress, Show, Steps
from astroray.execution.streams import embed_shards, map_rows
from astroray.execution.structured_logs import log_context
from astroray.execution.workers import WorkerPlan
from astroray.fitting.train_encoder import check_program, fit_model
from astroray.neighbors.search import check_faiss
from astroray.receipts import done_shards, read_receipts
from astroray.report.page import add_report
from astroray.report.thumbnails import publish_thumbnails
from astroray.run_files import listing_file, model_file
from astroray.run_record import Backends, Coverage, RunRecord
from astroray.search.ranking import check_index, rank_run
from astroray.settings import to_dict
from astroray.storage.leases import Lease, hold_lease
from astroray.surveys.shards import Shard

_log = logging.getLogger("astroray.pipeline")


def scan(
    config: ScanConfig, *, show: Show = lambda _: None, night: Night | None = None
) -> RunRecord:
    """Runs the main job in `config.out`, or what is left of it, and returns the run record.

    With `night` only what its reference lacks is embedded and searched; see `nightly`. The same
    call on the same directory resumes: no finished shard is read again. Raises ConfigError or
    BackendError before the first row is read, LedgerError where the directory refuses.
    """
    check_faiss()
    faults.arm(config.fault_plan)
    run = _Run(config, show, night)
    with contextlib.ExitStack() as held:
        lease = run.lease = held.enter_context(hold_lease(config.out))
        run.list()
        log_dir = held.enter_context(runs.logs_of(config.out))
        show(Progress(stage="start", note=f"Ray, whose messages go to {log_dir}"))
        held.enter_context(workers.cluster(log_dir=log_dir))
        run.open()
        try:
            run.keep_listing()
            run.fit()
            run.embed(session=f"S{lease.epoch:06d}")
            lease.check()
            outcome = run.refine(run.search())
            run.show_pictures(outcome)
            return run.close()
        except (AstrorayError, KeyboardInterrupt) as error:
            run.record = runs.note_failure(run.record, config.out, error, lease)
            raise


class _Run:
    """One scan on its way: the record so far, and the stages in their order."""

    def __init__(self, config: ScanConfig, show: Show, night: Night | None) -> None:
        self.started = time.monotonic()
        self.config = config
        self.show = show
        self.night = night
        self.out = config.out
        self.model_path = model_file(config.out)
        name = config.encoder.name
        self.given = read_model_file(name) if config.encoder.is_fitted else None
        self.listed_s = 0.0
        self.known: list[Shard] = []  # as it was listed before
        self.lease: Lease
        self.record: RunRecord
        self.plan: WorkerPlan
        self.metrics: RunMetrics
        self.shards: list[Shard] = []

    def list(self) -> None:
        """Lists the survey: the listing that stands first, then new files as shards.

        Ray is not started yet, so that a mistake costs no time. Raises LedgerError where the
        directory is another run's or the bytes of a finished shard changed, ConfigError on a
        survey that cannot be read, or by this encoder.
        """
        self.show(Progress(stage="list"))
        self.known = runs.read_known(self.out, self._fresh_record)
        before = self.known or (list(self.night.listing) if self.night else [])
        done = done_shards(self.out)
        self.shards = runs.list_again(self.config.survey, self.out, before, done, night=self.night)
        self.inherited = self.night.taken_over(self.shards) if self.night else Inherited()
        encoder = self.config.encoder
        runs.check_encoder(encoder.name, self.shards, encoder.network, given=self.given)
        if not storage.exists(self.model_path):
            check_program(encoder, self.shards)
        self.listed_s = time.monotonic() - self.started

    def open(self) -> None:
        """Plans the workers, checks that the directory belongs to this run, notes the settings."""
        config = self.config
        workers.refuse_local(self.out)
        storage.remove_temporaries(self.out)
        self.plan = workers.plan_workers(
            workers=config.workers,
            num_gpus=config.num_gpus,
            machines=workers.machines(),
        )
        if self.night and (before := self.night.backends.device) != self.plan.device:
            raise ConfigError(
                f"{self.night.reference} was embedded on {before}, this plan embeds on "
                f"{self.plan.device}: embeddings of two devices differ by rounding; set "
                "num_gpus as there, or begin a new reference"
            )
        if not self.night:  # which is searched by the bounds that it has
            check_index(config.search, self.plan)
        fresh = self._fresh_record(self.plan.device)
        runs.forget_failed(self.out, fresh)
        self.record = ledger.open_run(self.out, fresh)
        if self.night:
            self._inherit(self.night)
        log_context(run=self.record.run_id)
        self.metrics = RunMetrics(self.record.run_id, num_workers=self.plan.max_workers)
        self._note(seconds={"start": time.monotonic() - self.started - self.listed_s})

    def _fresh_record(self, device: str) -> RunRecord:
        """The record of a run that begins now, whose workers embed on `device`."""
        config, model_id = self.config, self.given.model_id if self.given else ""
        science = config.science(model_id=model_id, device=device)
        backends = Backends(device=device)
        if self.night:
            science["inherits"] = self.night.identity
            backends = self.night.backends.joined(backends)
        return RunRecord(
            survey=config.survey,
            fingerprint=ledger.fingerprint(science),
            config=to_dict(config),
            created=moments.now(),
            versions=provenance.versions(),
            machine=provenance.machine(),
            backends=backends,
        )

    def _inherit(self, night: Night) -> None:
        """Writes what the night refers to, and takes over what is measured by."""
        self.inherited.publish(self.out)
        gaussian = storage.join(night.reference, GAUSSIAN_PATH)
        if storage.exists(gaussian):
            storage.publish(storage.join(self.out, GAUSSIAN_PATH), storage.read_bytes(gaussian))
        self._note(night=night.describe())
        faults.reach("inherited")

    def keep_listing(self) -> None:
        """Writes the listing where it has new shards or files."""
        if self.shards != self.known or not storage.exists(listing_file(self.out)):
            ledger.write_listing(self.out, self.shards)
        self._end_stage("list", self.listed_s)
        faults.reach("listed")

    def _done(self) -> set[str]:
        """Shards that are done, here or in an older version."""
        return done_shards(self.out) | set(self.inherited.receipts)

    def fit(self) -> None:
        """Fits the encoder on a sample of the survey, unless the run has its model already."""
        name = runs.encoder_of(self.config.encoder.name, self.shards)
        is_there = storage.exists(self.model_path)
        with self._stage("fit", note=f"encoder {name}{', fitted before' * is_there}"):
            if self.given and not is_there:
                storage.publish(self.model_path, self.given.data)
            elif not is_there:
                folder = storage.join(self.out, "model", "fit")
                fit_model(
                    self.shards, self.config, folder=folder, path=self.model_path, show=self.show
                )
            self._quantize()
            model = read_model_file(self.model_path)
            faults.reach("fitted")
            self._note(model=model.describe())

    def embed(self, *, session: str) -> None:
        """Streams the shards that are left through the workers; they publish, we count."""
        done = self._done()
        with self._stage("embed", shards_done=len(done)) as started:
            todo = [shard for shard in self.shards if shard.name not in done]
            is_late = self._until_s is not None and time.time() > self._until_s
            todo_now = [] if is_late else todo
            if todo:
                self._resolve_backends()
            count = Counter(self.show, len(self.shards), len(done), started)
            for receipt in embed_shards(todo_now, self._embed_plan(session), self.plan):
                count.add(receipt)
                self.metrics.add(receipt, ledger.summarize_rejects_of(self.out, receipt))
                _log.info("shard done", extra={"facts": dataclasses.asdict(receipt)})
                receipts.pack_receipts(self.out, num_done=count.shards_done)
                faults.reach("receipt", receipt.shard)
            receipts.pack_receipts(self.out)
            left = {shard.name for shard in todo} - done_shards(self.out)
            if self.record.night:
                coverage = Coverage(shards_new=len(todo), shards_left=len(left))
                self._note(night=dataclasses.replace(self.record.night, coverage=coverage))
            if left and self._until_s is None:
                raise LedgerError(
                    f"{len(left)} shards have no done mark after the embed stage, first "
                    f"{min(left)}; run the same command again; if it stays so see Ray's messages"
                )
            faults.reach("embedded")

    @property
    def _until_s(self) -> float | None:
        """When a night leaves the shards that are not begun to the next one; None: never."""
        return self.night.embed_until_s if self.night else None

    def _quantize(self) -> None:
        """Gives the run's model the quantized layers that were asked for by name."""
        asked = self.config.encoder.quantize
        held = read_model_file(self.model_path).quantized.get("schemes", {})
        if asked in PLAIN_NUMBERS or asked in held:
            return
        from astroray.actors.quantize import OBSERVED_ROWS, QuantizePlan, quantize_model

        self.show(Progress(stage="fit", note=f"quantizing to {asked}"))
        plan = QuantizePlan(
            model_path=self.model_path,
            out=self.model_path,
            scheme=asked,
            max_rows=OBSERVED_ROWS,
            seed=self.config.seed,
        )
        workers.remotely(quantize_model, num_cpus=1)(self.shards, plan)

    def _resolve_backends(self) -> None:
        """Notes with which attention and which numbers the workers compute; a run keeps to them."""
        encoder = self.config.encoder
        model = self.record.fitted
        found = {"quantize": "none"}
        if can_choose_attention(model.encoder):
            found["attention"] = "sdpa"
        is_plain = encoder.quantize in ("none", "auto") and not model.quantized
        if encoder.attention not in PLAIN_ATTENTION or not is_plain:
            from astroray.actors.encode import resolve_backends

            resolve = workers.remotely(resolve_backends, num_cpus=1, num_gpus=self.plan.num_gpus)
            found = resolve(self.model_path, encoder.attention, encoder.quantize, self.plan.device)
        for what, name in found.items():
            before = getattr(self.record.backends, what)
            if before not in (None, name):
                raise LedgerError(
                    f"{self.out} was begun with {what} {before}, here it is {name}: the rest would "
                    f"not repeat; set encoder.{what}, or use a machine like the first"
                )
        self._note(backends=dataclasses.replace(self.record.backends, **found))

    def _embed_plan(self, session: str) -> EmbedPlan:
        return EmbedPlan(
            run_dir=self.out,
            model_path=self.model_path,
            session=session,
            batch_size=self.config.batch_size_on(self.plan.device),
            device=self.plan.device,
            attention=self.config.encoder.attention,
            quantize=self.config.encoder.quantize,
            until_s=self._until_s,
            fault_plan=self.config.fault_plan,
        )

    def search(self) -> SearchOutcome:
        """Scores, certifies and writes the catalog; rows embedded = catalog + duplicates."""
        with self._stage("search") as started:
            receipts = read_receipts(self.out).values()
            plan, num_own = self._search_plan(), ledger.total(receipts).rows_embedded
            if not num_own and self.night and self.night.num_listed >= plan.search.top:
                plan = dataclasses.replace(plan, finish_by_s=None)  # the list stands: a short look
            outcome = rank_run(
                plan,
                self.plan,
                num_own=num_own,
                dim=self.record.fitted.dim,
                is_night=self.night is not None,
                note=Steps(self.show, self.out),
            )
            self.metrics.certified(outcome.proof, seconds=time.monotonic() - started)
            outside = runs.count_outside(self.out, self.shards)
            counts = dataclasses.replace(ledger.total(receipts, outcome.counts), outside=outside)
            if not counts.is_conserved:
                raise LedgerError(f"rows are not conserved: {counts.balance}; report this as a bug")
            night = self.record.night
            self._note(
                counts=counts,
                rejects=ledger.summarize_rejects(ledger.read_rejects(self.out)),
                proof=outcome.proof,
                night=night and dataclasses.replace(night, found=outcome.night),
                backends=self.record.backends.joined(outcome.backends),
            )
            faults.reach("searched")
        return outcome

    def _search_plan(self) -> SearchPlan:
        return SearchPlan(
            run_dir=self.out,
            name=self.config.survey,
            created=self.record.created,
            model_id=self.record.fitted.model_id,
            search=dataclasses.replace(self.config.search, num_threads=self.plan.max_workers),
            num_random=self.config.num_random,
            seed=self.config.seed,
            finish_by_s=self.night.finish_by_s if self.night else None,
        )

    def refine(self, selected: SearchOutcome) -> SearchOutcome:
        """Where the survey was embedded on fewer bits, ranks the shortlist by the reference.

        The shortlist and its neighbors are read and encoded again; nothing else is.
        """
        if not (numbers := self.record.backends.fewer_bits):
            return selected
        reference_id = self.record.fitted.reference_id
        with self._stage("refine", note=f"shortlist of {numbers}"):
            again = map_rows(
                self.shards,
                workers.remotely(find_shortlist, num_cpus=1)(self.out, self.config.search.top),
                Reencoder,
                self.plan,
                told=(self._embed_plan(""),),
            )
            encoded: dict[str, list[float]] = {}
            for batch in again:
                encoded |= zip(batch["object_id"], batch["embedding"], strict=True)
            outcome = workers.remotely(rank_shortlist, num_cpus=1)(
                self._search_plan(), encoded, reference_id=reference_id, selected_by=numbers
            )
            counts = dataclasses.replace(self.record.counts, reencoded=outcome.counts.reencoded)
            self._note(proof=outcome.proof, counts=counts)
        return outcome

    def show_pictures(self, outcome: SearchOutcome) -> None:
        """Renders the pictures that the report shows, shard by shard."""
        with self._stage("report"):
            pictures: dict[str, bytes] = dict(outcome.pictures)
            for batch in map_rows(self.shards, outcome.wanted, render_rows, self.plan):
                pictures |= zip(batch["object_id"], batch["thumbnail"], strict=True)
            num_wanted = len(outcome.pictures) + sum(len(rows) for rows in outcome.wanted.values())
            if len(pictures) < num_wanted:
                _log.warning(
                    "%d of %d pictures for the report could not be made: their shards can no "
                    "longer be read",
                    num_wanted - len(pictures),
                    num_wanted,
                )
            publish_thumbnails(self.out, pictures)
            faults.reach("thumbnails")

    def close(self) -> RunRecord:
        """Ends the record, writes the report of it, and marks the run as done."""
        started = time.monotonic()
        add_report(self.out)
        faults.reach("reported")
        self._note(
            state="done", finished=moments.now(), seconds={"report": time.monotonic() - started}
        )
        self.metrics.ended()
        faults.reach("done")
        return self.record

    @contextlib.contextmanager
    def _stage(self, name: str, *, note: str = "", shards_done: int = 0) -> Iterator[float]:
        """Shows that a stage begins, gives when; in the end notes its seconds, unless it failed."""
        total = len(self.shards)
        self.show(Progress(stage=name, note=note, shards_done=shards_done, shards_total=total))
        started = time.monotonic()
        yield started
        self._end_stage(name, time.monotonic() - started)

    def _end_stage(self, name: str, seconds: float) -> None:
        self._note(seconds={name: seconds})
        _log.info("stage done", extra={"facts": {"stage": name, "seconds": round(seconds, 3)}})

    def _note(self, **facts: Any) -> None:
        """Adds facts to the record and publishes it, if it is still ours; seconds add up."""
        before = self.record.seconds
        spent = {
            stage: round(before.get(stage, 0.0) + value, 3)
            for stage, value in facts.get("seconds", {}).items()
        }
        facts["seconds"] = {**before, **spent}
        self.record = dataclasses.replace(self.record, **facts)
        self.lease.check()
        self.record.publish(self.out)
