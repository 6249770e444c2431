"""An evaluation from start to end: fits, embeddings, scores, rows, within a budget."""

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from astroray import provenance, storage
from astroray.encoders import ENCODERS
from astroray.errors import ConfigError
from astroray.evaluation.baselines import BASELINES
from astroray.evaluation.compared import Compared, compared_encoders
from astroray.evaluation.label_tables import open_protocol
from astroray.evaluation.measured_rows import publish_rows
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
from astroray.evaluation.quantized import quantize_fitted
from astroray.evaluation.results import Results
from astroray.evaluation.rows import json_rows, text_table
from astroray.evaluation.scoring import check_scores, score_subset
from astroray.fitting.fit_state import FitProgress
from astroray.quantization.modules import SCHEMES

__all__ = ["Evaluation", "EvaluationConfig", "evaluate_outliers"]

FIT_SHARE = 0.9
"""Of the time that is left; the rest is for encoding and scoring."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """What to evaluate; raises ConfigError on values that cannot work."""

    protocol: str
    """A name of `protocols.PROTOCOLS`."""
    encoders: tuple[str, ...]
    """Names of ENCODERS, fitted here, or paths of model files; trivial baselines come anyway.

    `rings?latent=64` is fitted with that setting of `compared.FitSettings`. With `:w8a8o` or
    another of `quantized.NUMBERS` behind it, it computes with that; the same in float32 comes
    anyway, and is what it is compared with."""
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


class _Run:
    def __init__(self, config: EvaluationConfig, show: Callable[[str], None]) -> None:
        self.began_s = time.monotonic()
        self.config, self.show = config, show
        self.protocol = open_protocol(
            config.protocol, data=config.data, full=config.full, contamination=config.contamination
        )
        show(f"{len(self.protocol.object_ids)} objects of {self.protocol.survey}")
        self.pictures = Pictures(self.protocol)
        self.encoders = compared_encoders(config.encoders, self.pictures.modality)
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
            "full": self.config.full,
            "contamination": self.config.contamination,
            "encoders": {one.label: one.describe() | self._model_ids(one) for one in self.encoders},
            "complete": all(row["complete"] for row in rows),
            "seconds": round(time.monotonic() - self.began_s, 1),
        }

    def _model_ids(self, encoder: Compared) -> dict[str, list[str]]:
        """The model of each seed so far."""
        encoded = self.results.encoded
        seeds = range(self.config.num_seeds)
        found = [encoded[encoder.label, seed] for seed in seeds if (encoder.label, seed) in encoded]
        return {"model_ids": [one.model_id for one in found]}

    def publish_rows(self) -> None:
        """Writes rows.json, so that a kill leaves what there is."""
        publish_rows(self.config.out, self.document())

    def _encode(self, encoder: Compared, seed: int, budget_s: float) -> Encoded:
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

    def _model_path(self, encoder: Compared, seed: int, budget_s: float) -> str:
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
        return fit_model(
            encoder.name,
            sample,
            latent=encoder.settings.latent,
            keywords=encoder.settings.network,
            seed=seed,
            budget_s=budget_s,
            report=report,
        )

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
