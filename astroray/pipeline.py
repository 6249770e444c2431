"""The main job, top to bottom: list, fit, embed, search, report. All of Ray Data is built here."""

import dataclasses
import json
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

from astroray import faults, ledger, provenance, report, runs, storage, surveys, workers
from astroray.actors.embed import Embedder, EmbedPlan, shard_to_json
from astroray.actors.search import SearchOutcome, SearchPlan, rank_survey
from astroray.actors.show import render_rows
from astroray.config import ScanConfig, to_dict
from astroray.encoders import ENCODERS, PLAIN_ATTENTION, choose_encoder, read_model_file
from astroray.errors import AstrorayError, LedgerError
from astroray.leases import Lease, hold_lease
from astroray.ledger import Receipt, RunRecord
from astroray.metrics import RunMetrics
from astroray.neighbors import choose_index
from astroray.progress import Counter, Progress, Show
from astroray.sharded import rank_sharded
from astroray.structured_logs import log_context
from astroray.surveys.shards import Shard
from astroray.thumbnails import publish_thumbnails
from astroray.train_encoder import fit_model
from astroray.workers import WorkerPlan

_log = logging.getLogger("astroray.pipeline")

MAX_INPUT_BLOCKS = 2000
"""Ray keeps statistics for every block, so a survey of a million shards is cut into fewer."""


def scan(config: ScanConfig, *, show: Show = lambda _: None) -> RunRecord:
    """Runs the main job in `config.out`, or what is left of it, and returns the run record.

    The same call on the same directory resumes: no finished shard is read again. Raises
    ConfigError before the first row is read, LedgerError where the directory refuses.
    """
    faults.arm(config.fault_plan)
    run = _Run(config, show)
    with hold_lease(config.out) as lease, workers.cluster(log_dir=runs.log_folder(config.out)):
        run.open()
        try:
            run.list()
            run.fit()
            run.embed(session=f"S{lease.epoch:06d}")
            lease.check()
            outcome = run.search()
            run.show_pictures(outcome)
            return run.close(lease)
        except AstrorayError as error:
            run.record = runs.note_failure(run.record, config.out, error, lease)
            raise


class _Run:
    """One scan on its way: the record so far, and the stages in their order."""

    def __init__(self, config: ScanConfig, show: Show) -> None:
        self.config = config
        self.show = show
        self.out = config.out
        self.model_path = storage.join(config.out, "model", "model.safetensors")
        name = config.encoder.name
        self.given = read_model_file(name) if config.encoder.is_fitted else None
        self.record: RunRecord
        self.plan: WorkerPlan
        self.metrics: RunMetrics
        self.shards: list[Shard] = []
        self.started = time.monotonic()

    def open(self) -> None:
        """Plans the workers, checks that the directory belongs to this run, notes the settings."""
        config = self.config
        workers.refuse_local(self.out)
        storage.remove_temporaries(self.out)
        self.plan = workers.plan_workers(
            workers=config.workers,
            num_gpus=config.num_gpus,
            num_shards=2**31,
            resources=workers.resources(),
        )
        model_id = self.given.model_id if self.given else ""
        science = config.science(model_id=model_id, device=self.plan.device)
        fresh = RunRecord(
            survey=config.survey,
            fingerprint=ledger.fingerprint(science),
            config=to_dict(config),
            created=ledger.now(),
            versions=provenance.versions(),
            machine=provenance.machine(),
            backends={"device": self.plan.device},
        )
        self.record = ledger.open_run(self.out, fresh)
        log_context(run=self.record.run_id)
        self.metrics = RunMetrics(self.record.run_id, num_workers=self.plan.max_workers)
        if self.given and not storage.exists(self.model_path):
            storage.publish(self.model_path, self.given.data)
        self._note(seconds={"start": time.monotonic() - self.started})

    def list(self) -> None:
        """Lists the survey, or takes the listing that stands and appends new files as shards.

        Raises LedgerError where the bytes of a finished shard have changed, ConfigError where the
        given model is for rows of another kind.
        """
        started = self._begin("list")
        known = ledger.read_listing(self.out)
        self.shards = runs.list_again(self.out, self.config.survey, known)
        if self.given and self.shards:
            choose_encoder(self.given.encoder, surveys.modality_of(self.shards[0]))
        if self.shards != known:
            ledger.write_listing(self.out, self.shards)
        faults.reach("listed")
        self._end("list", started)

    def fit(self) -> None:
        """Fits the encoder on a sample of the survey, unless the run has its model already."""
        started = self._begin("fit", note=f"encoder {self.config.encoder.name}")
        if not storage.exists(self.model_path):
            folder = storage.join(self.out, "model", "fit")
            fit_model(self.shards, self.config, folder=folder, path=self.model_path, show=self.show)
        model = read_model_file(self.model_path)
        faults.reach("fitted")
        self._note(model=model.describe())
        self._end("fit", started)

    def embed(self, *, session: str) -> None:
        """Streams the shards that are left through the workers; they publish, we count."""
        started = self._begin("embed")
        done = ledger.done_shards(self.out)
        todo = [shard for shard in self.shards if shard.name not in done]
        if todo:
            self._resolve_attention()
        count = Counter(self.show, len(self.shards), len(done), started)
        for receipt in self._receipts(todo, session):
            count.add(receipt)
            self.metrics.add(receipt, self._rejects_of(receipt))
            _log.info("shard done", extra={"facts": dataclasses.asdict(receipt)})
            faults.reach("receipt", receipt.shard)
        left = {shard.name for shard in todo} - ledger.done_shards(self.out)
        if left:
            raise LedgerError(
                f"{len(left)} shards have no done mark after the embed stage, first "
                f"{min(left)}; see {self.out}/logs and run the same command again"
            )
        faults.reach("embedded")
        self._end("embed", started)

    def _resolve_attention(self) -> None:
        """Notes which attention the workers compute with; a run keeps to one."""
        if not ENCODERS[self.record.model["encoder"]].has_attention:
            return
        from astroray.actors.encode import resolve_attention

        name, asked = "sdpa", self.config.encoder.attention
        if asked not in PLAIN_ATTENTION:
            resolve = workers.remotely(resolve_attention, num_cpus=1, num_gpus=self.plan.num_gpus)
            name = resolve(self.model_path, asked, self.plan.device)
        before = self.record.backends.get("attention", name)
        if name != before:
            raise LedgerError(
                f"{self.out} was begun with attention {before}, here it is {name}: the rest would "
                f"not repeat; set encoder.attention, or use a machine like the first"
            )
        self._note(backends={**self.record.backends, "attention": name})

    def _receipts(self, todo: Sequence[Shard], session: str) -> Any:
        """Receipts of the shards, in the order in which they get done. Ray Data is here."""
        import ray.data
        from ray.data import ActorPoolStrategy

        if not todo:
            return
        plan = EmbedPlan(
            run_dir=self.out,
            model_path=self.model_path,
            session=session,
            batch_size=self.config.batch_size_on(self.plan.device),
            device=self.plan.device,
            num_threads=1,
            attention=self.config.encoder.attention,
            fault_plan=self.config.fault_plan,
        )
        rows = ray.data.from_items(
            [{"shard": shard_to_json(shard)} for shard in todo],
            override_num_blocks=min(len(todo), MAX_INPUT_BLOCKS),
        )
        receipts = rows.map_batches(
            Embedder,
            fn_constructor_args=(plan,),
            batch_size=1,
            compute=ActorPoolStrategy(
                min_size=min(self.plan.min_workers, len(todo)),
                max_size=min(self.plan.max_workers, len(todo)),
            ),
            num_cpus=self.plan.num_cpus,
            num_gpus=self.plan.num_gpus or None,
        )
        with workers.plain_errors():
            for batch in receipts.iter_batches(batch_size=None, prefetch_batches=0):
                for text in batch["receipt"]:
                    yield Receipt(**json.loads(text))

    def _rejects_of(self, receipt: Receipt) -> Sequence[Mapping[str, Any]]:
        if not (receipt.rows_rejected or receipt.shard_rejected):
            return []
        return ledger.summarize_rejects(ledger.read_rejects(self.out, receipt.shard))

    def search(self) -> SearchOutcome:
        """Scores, certifies and writes the catalog; rows embedded = catalog + duplicates."""
        started = self._begin("search")
        counts = ledger.total(ledger.read_receipts(self.out).values())
        outcome = self._rank(counts["rows_embedded"])
        self.metrics.certified(outcome.proof, seconds=time.monotonic() - started)
        counts |= outcome.counts
        if counts["rows_embedded"] != counts["catalog"] + counts["duplicates"]:
            raise LedgerError(
                f"rows are not conserved: {counts['rows_embedded']} embedded, {counts['catalog']} "
                f"in the catalog, {counts['duplicates']} duplicates; report this as a bug"
            )
        self._note(
            counts=counts,
            rejects=ledger.summarize_rejects(ledger.read_rejects(self.out)),
            proof=outcome.proof,
            backends={**self.record.backends, **outcome.backends},
        )
        faults.reach("searched")
        self._end("search", started)
        return outcome

    def _rank(self, num_objects: int) -> SearchOutcome:
        """Searches in one process, or, where there is more than that is best for, in many."""
        threads = self.plan.max_workers
        plan = SearchPlan(
            run_dir=self.out,
            name=self.config.survey,
            created=self.record.created,
            model_id=self.record.model["model_id"],
            search=dataclasses.replace(self.config.search, num_threads=threads),
            num_random=self.config.num_random,
            seed=self.config.seed,
        )
        index: str = self.config.search.index
        reason = "asked for"
        if index == "auto":
            dim = self.record.model["dim"]
            index, reason = choose_index(num_objects, dim, can_shard=True)
        if index == "sharded" and num_objects:
            each = workers.each_remotely(num_cpus=self.plan.num_cpus, at_once=threads)
            return rank_sharded(plan, each, reason=reason)
        threads = min(threads, workers.cpus_of_one_machine())
        search = dataclasses.replace(plan.search, num_threads=threads)
        plan = dataclasses.replace(plan, search=search)
        return workers.remotely(rank_survey, num_cpus=threads)(plan)

    def show_pictures(self, outcome: SearchOutcome) -> None:
        """Renders the pictures that the report shows, shard by shard."""
        import ray.data

        started = self._begin("report")
        by_name = {shard.name: shard for shard in self.shards}
        wanted = [
            {"shard": shard_to_json(by_name[name]), "rows": json.dumps(list(rows))}
            for name, rows in outcome.wanted.items()
        ]
        pictures: dict[str, bytes] = {}
        if wanted:
            rows = ray.data.from_items(
                wanted, override_num_blocks=min(len(wanted), MAX_INPUT_BLOCKS)
            )
            rendered = rows.map_batches(render_rows, batch_size=1, num_cpus=self.plan.num_cpus)
            with workers.plain_errors():
                for batch in rendered.iter_batches(batch_size=None, prefetch_batches=0):
                    pictures |= zip(batch["object_id"], batch["thumbnail"], strict=True)
        num_wanted = sum(len(rows) for rows in outcome.wanted.values())
        if len(pictures) < num_wanted:
            _log.warning(
                "%d of %d pictures for the report could not be made: their shards can no longer "
                "be read",
                num_wanted - len(pictures),
                num_wanted,
            )
        publish_thumbnails(self.out, pictures)
        faults.reach("thumbnails")
        self._end("report", started)

    def close(self, lease: Lease) -> RunRecord:
        """Ends the record, writes the report of it, and marks the run as done."""
        started = time.monotonic()
        report.write_report(self.out)
        faults.reach("reported")
        lease.check()
        self._note(
            state="done", finished=ledger.now(), seconds={"report": time.monotonic() - started}
        )
        faults.reach("done")
        return self.record

    def _begin(self, stage: str, note: str = "") -> float:
        self.show(Progress(stage=stage, note=note, shards_total=len(self.shards)))
        return time.monotonic()

    def _end(self, stage: str, started: float) -> None:
        seconds = time.monotonic() - started
        self._note(seconds={stage: seconds})
        _log.info("stage done", extra={"facts": {"stage": stage, "seconds": round(seconds, 3)}})

    def _note(self, **facts: Any) -> None:
        """Adds facts to the record and publishes it; seconds add up by stage over resumes."""
        before = self.record.seconds
        spent = {
            stage: round(before.get(stage, 0.0) + value, 3)
            for stage, value in facts.get("seconds", {}).items()
        }
        facts["seconds"] = {**before, **spent}
        self.record = dataclasses.replace(self.record, **facts)
        self.record.publish(self.out)
