"""An evaluation from start to end: fits, embeddings, scores, rows, within a budget."""

import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from astroray import provenance, storage
from astroray.encoders import ENCODERS, QuantizeName, choose_encoder, read_model_file
from astroray.errors import ConfigError
from astroray.evaluation.baselines import BASELINES
from astroray.evaluation.label_tables import open_protocol
from astroray.evaluation.models import (
    NUM_THREADS,
    Encoded,
    embed,
    embed_baseline,
    fit_model,
    take_sample,
)
from astroray.evaluation.neighborhoods import Neighborhoods
from astroray.evaluation.page import write_page
from astroray.evaluation.pictures import Pictures
from astroray.evaluation.quantized import quantize_fitted, split_numbers
from astroray.evaluation.results import Results
from astroray.evaluation.rows import json_rows, text_table
from astroray.evaluation.scoring import check_scores, score_subset
from astroray.fitting.fit_state import FitProgress
from astroray.quantization.modules import SCHEMES
from astroray.surveys.shards import ModalityName

__all__ = ["Evaluation", "EvaluationConfig", "evaluate_outliers"]

ALWAYS: Mapping[ModalityName, tuple[str, ...]] = {
    "images": ("size", "brightness", "pixels", "pca"),
    "light_curves": ("amplitude", "scatter", "lc-pca"),
}
"""Trivial baselines that every table shows."""
FIT_SHARE = 0.9
"""Of the time that is left; the rest is for encoding and scoring."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """What to evaluate; raises ConfigError on values that cannot work."""

    protocol: str
    """A name of `protocols.PROTOCOLS`."""
    encoders: tuple[str, ...]
    """Names of ENCODERS, fitted here, or paths of model files; trivial baselines come anyway.

    With `:w8a8o` or another of `quantized.NUMBERS` behind it, it computes with that; the same in
    float32 comes anyway, and is what it is compared with."""
    out: str
    """Folder for fits, embeddings, scores, rows.json and index.html; a second call resumes."""
    data: str | None = None
    """Folder of the layout `galaxies/efigi/...`; not needed for sim."""
    num_seeds: int = 3
    k: int = 10
    scores: tuple[str, ...] = ("kth",)
    budget_min: float = 60.0
    """Minutes in which no further fit or encoder is begun; fits share what is left of them."""
    full: bool = False
    """sim at the published size."""
    contamination: float | None = None
    """Share of outliers; None: the protocol's own."""

    def __post_init__(self) -> None:
        for name in ("num_seeds", "k", "budget_min"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected more than 0")
        if not self.encoders:
            raise ConfigError(f"no encoder is named, expected some of {sorted(ENCODERS)} or paths")
        check_scores(self.scores)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What came of it."""

    document: dict[str, Any]
    """As `rows.json` holds it; `rows` and `complete` among others."""
    table: str
    """Plain text."""
    page: str
    """Path of the HTML page."""


def evaluate_outliers(
    config: EvaluationConfig, *, show: Callable[[str], None] = lambda text: None
) -> Evaluation:
    """Runs a protocol, or goes on with it, and writes rows and page; `show` gets progress lines.

    Raises ConfigError on unknown names, missing data, or pictures that a model cannot take.
    """
    run = _Run(config, show)
    for _ in run.steps():
        run.publish_rows()
    page = write_page(run.results, run.pictures, run.document(), config.out)
    return Evaluation(document=run.document(), table=text_table(run.results), page=page)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Encoder:
    """An encoder as the table calls it."""

    label: str
    path: str | None = None
    """Model file that was given."""
    numbers: QuantizeName = "auto"
    """What it computes with."""
    reference: str = ""
    """Label of the same encoder in float32; empty where it is not on fewer bits."""

    @property
    def is_fitted_long(self) -> bool:
        name = self.reference or self.label
        return name in ENCODERS and ENCODERS[name].is_descended()


class _Run:
    def __init__(self, config: EvaluationConfig, show: Callable[[str], None]) -> None:
        self.began_s = time.monotonic()
        self.config, self.show = config, show
        self.protocol = open_protocol(
            config.protocol, data=config.data, full=config.full, contamination=config.contamination
        )
        show(f"{len(self.protocol.object_ids)} objects of {self.protocol.survey}")
        self.pictures = Pictures(self.protocol)
        self.encoders = _named(config.encoders, self.pictures.modality)
        self.model_paths: dict[tuple[str, int], str] = {}
        """Model files by encoder and seed."""
        self.results = Results(
            self.protocol,
            encoders=[encoder.label for encoder in self.encoders],
            references={one.label: one.reference for one in self.encoders if one.reference},
            scores=config.scores,
            num_seeds=config.num_seeds,
        )

    def steps(self) -> Iterator[None]:
        """One encoder and seed after another, those without a long fit first."""
        seeds = range(self.config.num_seeds)
        steps = [(encoder, seed) for seed in seeds for encoder in self.encoders]
        short = [step for step in steps if not step[0].is_fitted_long]
        long = [step for step in steps if step[0].is_fitted_long]
        for number, (encoder, seed) in enumerate([*short, *long]):
            left_s = self.config.budget_min * 60 - (time.monotonic() - self.began_s)
            if left_s <= 0:
                self.results.reasons[encoder.label, ""] = (
                    f"the budget of {self.config.budget_min:g} min was spent"
                )
                continue
            share_s = FIT_SHARE * left_s / max(1, len(short) + len(long) - max(number, len(short)))
            encoded = self._encode(encoder, seed, share_s)
            self._score(encoder.label, seed, encoded)
            yield

    def document(self) -> dict[str, Any]:
        """The JSON object of the evaluation as far as it is."""
        rows = json_rows(self.results)
        return provenance.document("evaluate-outliers", rows) | {
            "protocol": self.protocol.name,
            "survey": self.protocol.survey,
            "seeds": self.config.num_seeds,
            "k": self.config.k,
            "complete": all(row["complete"] for row in rows),
            "seconds": round(time.monotonic() - self.began_s, 1),
        }

    def publish_rows(self) -> None:
        """Writes rows.json, so that a kill leaves what there is."""
        data = json.dumps(self.document(), allow_nan=False).encode()
        storage.publish(storage.join(self.config.out, "rows.json"), data)

    def _encode(self, encoder: _Encoder, seed: int, budget_s: float) -> Encoded:
        embeddings = storage.join(self.config.out, "embeddings")
        if encoder.label in BASELINES:
            row_M = self.protocol.fit_rows(seed)
            sample = take_sample(self.pictures, row_M, storage.join(self.config.out, "fits"))
            return embed_baseline(encoder.label, self.pictures, sample, row_M, embeddings)
        path = self._model_path(encoder, seed, budget_s)
        self.model_paths[encoder.label, seed] = path
        self.show(f"{encoder.label}  seed {seed}  encode")
        with_errors = "reconstruction" in self.config.scores
        return embed(
            path, self.pictures, embeddings, numbers=encoder.numbers, with_errors=with_errors
        )

    def _model_path(self, encoder: _Encoder, seed: int, budget_s: float) -> str:
        """The model file: as it was given, of the reference, made from it, or fitted."""
        if encoder.path:
            return encoder.path
        folder = storage.join(self.config.out, "fits")
        row_M = self.protocol.fit_rows(seed)
        if encoder.reference:
            path = self.model_paths[encoder.reference, seed]
            if encoder.numbers not in SCHEMES:
                return path
            self.show(f"{encoder.label}  seed {seed}  quantize")
            return quantize_fitted(
                path, encoder.numbers, self.pictures, row_M, folder, num_threads=NUM_THREADS
            )
        sample = take_sample(self.pictures, row_M, folder)

        def report(progress: FitProgress) -> None:
            self.show(
                f"{encoder.label}  seed {seed}  fit  pass {progress.pass_number} of "
                f"{progress.num_passes}  loss {progress.loss:.4f}  "
                f"{progress.images_per_s:.0f} images/s  at most {progress.seconds_left:.0f} s left"
            )

        self.show(f"{encoder.label}  seed {seed}  fit")
        return fit_model(encoder.label, sample, seed=seed, budget_s=budget_s, report=report)

    def _score(self, encoder: str, seed: int, encoded: Encoded) -> None:
        near = Neighborhoods(encoded.embedding_ND, k=self.config.k)
        folder = storage.join(self.config.out, "scores", self.pictures.content_id)
        for score in self.config.scores:
            self.show(f"{encoder}  seed {seed}  score {score}")
            if score == "reconstruction" and encoded.reconstruction_N is None:
                self.results.reasons[encoder, score] = "it does not reconstruct its input"
                continue
            for subset in self.protocol.subsets:
                self.results.scored[subset.name, encoder, score, seed] = score_subset(
                    encoded, near, subset, name=score, seed=seed, folder=folder
                )
        # numbers of thousands of objects would add up over encoders and seeds
        self.results.encoded[encoder, seed] = dataclasses.replace(
            encoded, embedding_ND=np.zeros((0, 0), np.float32), reconstruction_N=None
        )


def _named(asked: Sequence[str], modality: ModalityName) -> list[_Encoder]:
    """Trivial baselines, then what was asked for, each once, behind what it is compared with.

    Raises ConfigError on other names, and on encoders of another modality.
    """
    encoders = {label: _Encoder(label=label) for label in ALWAYS[modality]}
    for one in asked:
        name, numbers = split_numbers(one)
        plain = _given(name, modality)
        for encoder in plain:
            encoders.setdefault(encoder.label, encoder)
        if numbers != "auto":
            label = f"{plain[-1].label}:{numbers}"
            encoders[label] = _Encoder(label=label, numbers=numbers, reference=plain[-1].label)
    return list(encoders.values())


def _given(name: str, modality: ModalityName) -> list[_Encoder]:
    """The encoder of a name or a file; of a quantized file its reference, then it itself."""
    if name in ENCODERS:
        return [_Encoder(label=choose_encoder(name, modality))]
    if name in ALWAYS[modality]:
        return [_Encoder(label=name)]
    file = read_model_file(name)
    choose_encoder(file.encoder, modality)
    own = _Encoder(label=f"{file.encoder}:{file.model_id[:8]}", path=name)
    if not file.quantized:
        return [own]
    before = f"{file.encoder}:{file.quantized['reference_id'][:8]}"
    return [
        _Encoder(label=before, path=name, numbers="none"),
        dataclasses.replace(own, reference=before),
    ]
