"""The run record: all that is known of a run, as `run.json` holds it.

This is the only place where its JSON becomes typed objects, and these JSON. Keys are added, never
dropped: one that an older version did not write has a default, and one that is unknown must be of a
newer version and is refused.
"""

import dataclasses
import json
import re
from collections.abc import Mapping
from typing import Any, Literal

from astroray import schema, storage
from astroray.errors import LedgerError
from astroray.neighbors.certificate import Proof
from astroray.provenance import Machine
from astroray.record_json import FLAT, PART, from_json, named, to_json
from astroray.run_files import record_file
from astroray.surveys.shards import REST, ModalityName

__all__ = [
    "Backends", "CatalogProof", "Changes", "Counts", "Coverage", "Drift", "ModelRef",
    "NightFound", "NightRecord", "QuantizedRef", "RejectCount", "RunRecord", "Suspect",
]  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Counts:
    """Shards, rows and objects; None is what this kind of run does not count."""

    shards: int = 0
    """Done, the rejected among them."""
    shards_rejected: int = 0
    """Could not be read as a whole; their rows are in no count."""
    rows_read: int = 0
    rows_embedded: int = 0
    """Of flares: light curves searched."""
    rows_rejected: int = 0
    duplicates: int | None = None
    """Embedded rows of an object that the catalog has by another row."""
    inherited: int | None = None
    """Of a night: objects of its reference."""
    catalog: int | None = None
    """Objects in the catalog, those of older versions among them."""
    positions: int | None = None
    """Objects in the catalog that have a position on the sky."""
    outside: int | None = None
    """Objects of a catalog that lie on none of the images that they were to be cut from."""
    reencoded: int | None = None
    """Objects that were encoded again in float32, to rank the shortlist of a faster pass."""
    stars: int | None = None
    flares: int | None = None
    refused: int | None = None
    """Candidates that are no flares, each for a reason."""
    mirrored: int | None = None
    """Flares in the same light curves upside down, all of them false."""

    @property
    def is_conserved(self) -> bool:
        """Whether embedded + inherited = catalog + duplicates."""
        found = self.rows_embedded + (self.inherited or 0)
        return found == (self.catalog or 0) + (self.duplicates or 0)

    @property
    def balance(self) -> str:
        """Both sides of that, in words."""
        return (
            f"{self.rows_embedded} rows embedded and {self.inherited or 0} inherited, "
            f"{self.catalog or 0} in the catalog + {self.duplicates or 0} twice"
        )

    @property
    def shards_rejected_share(self) -> float:
        """Of the shards, 0..1."""
        return self.shards_rejected / max(self.shards, 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RejectCount:
    """One kind of reject, with an example; all rejects are in `rejects/`."""

    stage: str
    """read, encode or catalog."""
    kind: str = dataclasses.field(metadata=named("class"))
    reason: str
    """Of one of them."""
    rows: int
    shards: int
    """Rejected as a whole."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Backends:
    """What computed; None is what a run has not needed, or not got to."""

    device: str | None = None
    """cpu or cuda."""
    quantize: str | None = None
    """In which numbers the survey was encoded: none (float32), or a scheme and its kernels."""
    attention: str | None = None
    """Of networks that have some."""
    index: str | None = None
    """How neighbors were searched."""
    index_reason: str | None = None
    products: str | None = None
    """native or reference: the inner products of the search."""
    products_reason: str | None = None

    @property
    def fewer_bits(self) -> str:
        """The scheme and kernels that selected the shortlist; empty where all was float32."""
        return "" if self.quantize in (None, "none") else str(self.quantize)

    def joined(self, later: "Backends") -> "Backends":
        """What either knows; where both do, as `later` has it."""
        known = {name: value for name, value in vars(later).items() if value is not None}
        return dataclasses.replace(self, **known)

    def shown(self) -> dict[str, tuple[str, str]]:
        """What computed and why, by name."""
        known = to_json(self)
        names = (name for name in known if not name.endswith("_reason"))
        return {name: (known[name], known.get(f"{name}_reason", "")) for name in names}


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantizedRef:
    """What a model file says of its layers on fewer bits."""

    choice: str
    """The scheme that `auto` takes."""
    attention: str
    reference_id: str
    """model_id of the float32 model that it was made from."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelRef:
    """The model of a run."""

    model_id: str
    """Content hash of weights, numbers and preparation."""
    quantized: QuantizedRef | None = None
    encoder: str
    modality: ModalityName = "images"
    dim: int
    """Length of an embedding."""
    input: str = ""
    """What an object becomes before it is encoded, in words."""
    preparation: Mapping[str, Any] = dataclasses.field(default_factory=dict, metadata=FLAT)
    """How it is prepared, in numbers; each modality has its own, as images size_px and bands."""
    fit: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """How it was fitted, as the training had it: passes, seconds, loss, rows."""

    @property
    def reference_id(self) -> str:
        """model_id of the model in float32."""
        return self.quantized.reference_id if self.quantized else self.model_id


@dataclasses.dataclass(frozen=True, kw_only=True)
class CatalogProof(Proof):
    """What is proven of a catalog's list, and in the space of which model."""

    sentence: str
    """The proof in one line."""
    model_id: str
    selected_by: str | None = None
    """The numbers of a faster pass, whose shortlist alone was ranked; None: all objects were."""
    num_reencoded: int | None = None
    """Objects of the shortlist, and their neighbors."""
    num_survey: int | None = None
    """Objects that the shortlist was selected from."""

    @classmethod
    def of(cls, proof: Proof, *, model_id: str) -> "CatalogProof":
        """The proof of a list by one model throughout."""
        return cls(**vars(proof), sentence=proof.in_words(), model_id=model_id)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Coverage:
    """How many of the shards that its reference lacks a night got to."""

    shards_new: int
    shards_left: int
    """To the next night, since time was up."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Changes:
    """Objects whose place in the certified list is another than in the reference."""

    entered: int
    left: int
    moved: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Drift:
    """How far a night's objects are from those of the first reference; see `scores.drift`.

    An index is a population stability index: 0 for equal distributions.
    """

    stability: tuple[float, ...]
    """The index of each dimension of the embedding."""
    stability_by_chance: float
    stability_limit: float
    """Above it two populations are taken to differ."""
    dimensions_adrift: tuple[int, ...]
    """Dimensions, from 0, whose index is above the limit."""
    score_stability: float
    """The index of the outlier scores."""
    score_quantiles: Mapping[str, tuple[float, float]]
    """By quantile, such as 0.5: the score before, and of the night's objects."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Suspect:
    """A detector, field or night with more outliers than its share of the objects explains."""

    kind: str
    """detector, field or night."""
    value: str
    num_outliers: int
    num_objects: int
    share_of_outliers: float
    share_of_objects: float
    chance: float
    """Probability of so many by chance, times the number of groups that were looked at."""
    sentence: str
    """What a person reads."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class NightFound:
    """What the search of a night found."""

    objects_new: int
    rows_written: int
    """Objects that were searched, new and old; the others keep their row of an older version."""
    changes: Changes
    drift: Drift | None = dataclasses.field(default=None, metadata=PART)
    """None where one side has no objects."""
    suspects: tuple[Suspect, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class NightRecord:
    """What makes a run a night."""

    reference: str
    """Run directory of the version that it goes on from."""
    number: int
    """1 for the first night after a scan."""
    inherits: str
    """Content hash of all that it takes over."""
    coverage: Coverage | None = dataclasses.field(default=None, metadata=FLAT)
    """None until its shards are embedded."""
    found: NightFound | None = dataclasses.field(default=None, metadata=FLAT)
    """None until it is searched."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunRecord:
    """All that is known of a scan, a night or a run of `flares find`."""

    survey: str
    fingerprint: str
    """Hash of everything that may change the result; see `ledger.fingerprint`."""
    config: Mapping[str, Any]
    """The settings; they are checked where they become a ScanConfig or FindConfig again."""
    created: str
    """Times are UTC, ISO 8601."""
    begun: str = ""
    """When the work on its catalog began, where that was later: the run was done before then."""
    state: Literal["running", "done", "failed", "interrupted"] = "running"
    """interrupted: by a signal; the same command goes on, as after a failure."""
    finished: str = ""
    schema_version: int = schema.SCHEMA_VERSION
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """By package, of those that results depend on."""
    machine: Machine | None = dataclasses.field(default=None, metadata=PART)
    """The machine of the driver."""
    backends: Backends = dataclasses.field(default=Backends(), metadata=PART)
    model: ModelRef | None = dataclasses.field(default=None, metadata=PART)
    """None until it is fitted, and of flares."""
    counts: Counts = dataclasses.field(default=Counts(), metadata=PART)
    """Zero until all shards are done."""
    rejects: tuple[RejectCount, ...] = ()
    seconds: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """By stage, over all attempts."""
    proof: CatalogProof | None = dataclasses.field(default=None, metadata=PART)
    """None until it is searched, and of flares."""
    night: NightRecord | None = dataclasses.field(default=None, metadata=PART)
    """None of what is no night."""
    error: str = ""
    """Why it ended before it was done."""

    @property
    def run_id(self) -> str:
        """What logs, metrics and served answers call this run and its catalog.

        It outlives kills and resumes; a run that was done and is scanned again has another one.
        """
        return f"{self.fingerprint}-{re.sub('[-:]', '', self.begun or self.created)}"

    @property
    def is_broken_off(self) -> bool:
        """Whether it ended before it was done, by an error or a signal."""
        return self.state in ("failed", "interrupted")

    @property
    def is_of_flares(self) -> bool:
        """Whether it is one of `flares find`."""
        return "rule" in self.config  # of FindConfig; a scan has none

    @property
    def fitted(self) -> ModelRef:
        """The model. Raises LedgerError while there is none."""
        if self.model is None:
            raise LedgerError(f"the run of {self.survey} has no model yet; finish it first")
        return self.model

    @property
    def proven(self) -> CatalogProof:
        """The proof of its list. Raises LedgerError while there is none."""
        if self.proof is None:
            raise LedgerError(f"the run of {self.survey} was not searched yet; finish it first")
        return self.proof

    @property
    def spent_s(self) -> float:
        """Seconds of all stages together."""
        return sum(self.seconds.values())

    @property
    def num_rejects(self) -> int:
        """Rows and shards, duplicates too."""
        return sum(kind.rows + kind.shards for kind in self.rejects)

    @property
    def rejected_share(self) -> float:
        """Of the rows that were read, 0..1; rests, with which nothing is wrong, are left out."""
        num_rests = sum(kind.rows for kind in self.rejects if kind.kind == REST)
        return (self.counts.rows_rejected - num_rests) / max(self.counts.rows_read, 1)

    @property
    def when(self) -> str:
        """When it ended, or began where it has not, for a person."""
        return (self.finished or self.created).replace("T", " ").replace("Z", " UTC")

    def publish(self, run_dir: str) -> None:
        """Writes `run.json`, whole or absent."""
        text = json.dumps(to_json(self), indent=1, allow_nan=False)
        storage.publish(record_file(run_dir), text.encode() + b"\n")

    @classmethod
    def load(cls, run_dir: str) -> "RunRecord | None":
        """The record of a run directory; None without one.

        Raises LedgerError, which names the key, where it is damaged or of a newer version.
        """
        if not storage.exists(path := record_file(run_dir)):
            return None
        try:
            return from_json(cls, json.loads(storage.read_bytes(path)))
        except ValueError as error:
            advice = "use the version that wrote it, or choose another folder"
            raise LedgerError(f"{path} is no record of a run ({error}); {advice}") from None
