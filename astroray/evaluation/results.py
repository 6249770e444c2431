"""What an evaluation found so far, and how encoders compare on each subset."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from astroray.evaluation.metrics import Estimate
from astroray.evaluation.models import NUM_PASSES, Encoded
from astroray.evaluation.protocols import Protocol, Subset
from astroray.evaluation.scoring import METRICS, Scored
from astroray.preparation.modalities import MODALITIES

__all__ = ["PEERS", "Line", "Results"]

_BASELINES = ("attcae", "pixels", "lc-pca", "spec-pca")
PEERS = (*_BASELINES, *(kind.default_encoder for kind in MODALITIES.values()))
"""Encoders that every other one is compared with, by the same score: the published one, the
baselines and the defaults."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Line:
    """One encoder by one score on one subset."""

    subset: Subset
    encoder: str
    reference: str
    """The same encoder in float32; empty where it is not on fewer bits."""
    score: str
    num_seeds: int
    """Seeds whose draws were scored; 0 where there is only a `reason`."""
    is_complete: bool
    """Whether all seeds are there and every fit made all its passes."""
    reason: str
    """What is missing, in words; empty where nothing is."""
    means: Mapping[str, Estimate]
    """By `auc` and `recall`, over seeds and draws; resamples are of the objects."""
    metrics: Mapping[str, float]
    """By METRICS."""
    lift: float
    """Recall over that of random flags."""
    minus: Mapping[tuple[str, str], Estimate]
    """By peer and `auc` or `recall`: this encoder minus the peer."""
    error_ratio: float
    """1 - AUC over that of pixels; NaN without pixels."""
    facts: Mapping[str, float]
    """Seconds by stage, passes, share of objects trained on."""


class Results:
    """Encoders and their scores, as they come in."""

    def __init__(
        self,
        protocol: Protocol,
        *,
        encoders: Sequence[str],
        scores: Sequence[str],
        num_seeds: int,
        references: Mapping[str, str] | None = None,
    ) -> None:
        self.protocol, self.encoders, self.scores = protocol, tuple(encoders), tuple(scores)
        self.num_seeds = num_seeds
        self.references = dict(references or {})
        """By encoder on fewer bits: the same in float32."""
        peers = dict.fromkeys((*PEERS, *self.references.values()))
        self.peers = tuple(peer for peer in peers if peer in self.encoders)
        """The PEERS that are in this evaluation, and references of encoders on fewer bits."""
        self.encoded: dict[tuple[str, int], Encoded] = {}
        self.scored: dict[tuple[str, str, str, int], Scored] = {}
        """By subset, encoder, score and seed."""
        self.reasons: dict[tuple[str, str], str] = {}
        """By encoder and score, or an empty score for all: why something is not there."""

    def lines(self) -> list[Line]:
        """All encoders on all subsets, in order of subset, score and encoder."""
        return [
            self._line(subset, encoder, score)
            for subset in self.protocol.subsets
            for score in self.scores
            for encoder in self.encoders
        ]

    def best_encoder(self) -> str:
        """The encoder with the highest recall by the first score on the subset of the fit."""
        return self._highest(self.protocol.fitted, self.scores[:1])[0]

    def leaders(self, subset: str) -> tuple[tuple[str, str], ...]:
        """Encoder and score with the highest recall on a subset, then all that it does not beat.

        It beats another where the 95 % interval of the difference is above 0; what has no seed in
        common with it cannot be told apart from it.
        """
        first = self._highest(subset, self.scores)
        best = self._seeds(subset, *first)
        if not best:
            return ()
        tied = [first]
        for encoder in self.encoders:
            for score in self.scores:
                found = self._seeds(subset, encoder, score)
                if (encoder, score) == first or not found:
                    continue
                if not set(best) & set(found) or _compare(best, found, "recall").low <= 0:
                    tied.append((encoder, score))
        return tuple(tied)

    def _highest(self, subset: str, scores: Sequence[str]) -> tuple[str, str]:
        def recall(which: tuple[str, str]) -> float:
            found = self._seeds(subset, *which)
            return _mean([one.metrics["recall"] for one in found.values()]) if found else -1.0

        return max(((encoder, score) for encoder in self.encoders for score in scores), key=recall)

    def _seeds(self, subset: str, encoder: str, score: str) -> dict[int, Scored]:
        return {
            seed: self.scored[subset, encoder, score, seed]
            for seed in range(self.num_seeds)
            if (subset, encoder, score, seed) in self.scored
        }

    def _line(self, subset: Subset, encoder: str, score: str) -> Line:
        found = self._seeds(subset.name, encoder, score)
        metrics = {name: _mean([one.metrics[name] for one in found.values()]) for name in METRICS}
        num_objects = len(subset.inlier_I) + subset.num_outliers
        pixels = self._seeds(subset.name, "pixels", score)
        missed = 1 - _mean([one.metrics["auc"] for one in pixels.values()])
        return Line(
            subset=subset,
            encoder=encoder,
            reference=self.references.get(encoder, ""),
            score=score,
            num_seeds=len(found),
            is_complete=len(found) == self.num_seeds
            and all(self.encoded[encoder, seed].is_whole for seed in found),
            reason=self._reason(encoder, score, found),
            means={name: _compare(found, None, name) for name in ("auc", "recall")}
            if found
            else {},
            metrics=metrics,
            lift=metrics["recall"] * num_objects / subset.num_outliers,
            minus=self._minus(subset, encoder, score, found),
            error_ratio=(1 - metrics["auc"]) / missed if missed > 0 else float("nan"),
            facts=self._facts(encoder, found),
        )

    def _minus(
        self, subset: Subset, encoder: str, score: str, found: Mapping[int, Scored]
    ) -> dict[tuple[str, str], Estimate]:
        differences = {}
        for peer in self.peers:
            if peer not in (*PEERS, self.references.get(encoder)):
                continue
            others = self._seeds(subset.name, peer, score)
            if peer != encoder and set(found) & set(others):
                for name in ("auc", "recall"):
                    differences[peer, name] = _compare(found, others, name)
        return differences

    def _reason(self, encoder: str, score: str, found: Mapping[int, Scored]) -> str:
        """Why an encoder is not complete, empty where it is."""
        reason = self.reasons.get((encoder, score)) or self.reasons.get((encoder, ""), "")
        if len(found) < self.num_seeds and found:
            return f"{len(found)} of {self.num_seeds} seeds: {reason}"
        passes = sorted({self.encoded[encoder, seed].num_passes for seed in found})
        if not all(self.encoded[encoder, seed].is_whole for seed in found):
            made = f"{passes[0]} to {passes[-1]}" if len(passes) > 1 else passes[0]
            return f"its fits made {made} of {NUM_PASSES} passes in the time of --budget"
        return reason

    def _facts(self, encoder: str, found: Mapping[int, Scored]) -> dict[str, float]:
        encoded = [self.encoded[encoder, seed] for seed in found]
        return {
            "fit_s": _mean([one.fit_s for one in encoded]),
            "encode_s": _mean([one.encode_s for one in encoded]),
            "encoded_objects": float(len(self.protocol.object_ids)),
            "index_s": _mean([one.index_s for one in found.values()]),
            "query_s": _mean([one.query_s for one in found.values()]),
            "passes": _mean([one.num_passes for one in encoded]),
            "trained_on_share": max((one.trained_share for one in encoded), default=0.0),
        }


def _compare(
    found: Mapping[int, Scored], others: Mapping[int, Scored] | None, name: str
) -> Estimate:
    """Mean over the seeds that both have; without others, of `found` alone."""
    seeds = sorted(set(found) if others is None else set(found) & set(others))

    def values(scored: Scored) -> tuple[float, np.ndarray]:
        return scored.metrics[name], scored.auc_R if name == "auc" else scored.recall_R

    points, resamples = [], []
    for seed in seeds:
        point, value_R = values(found[seed])
        if others is not None:
            other, other_R = values(others[seed])
            point, value_R = point - other, value_R - other_R
        points.append(point)
        resamples.append(value_R)
    return Estimate.of(float(np.mean(points)), np.mean(resamples, axis=0))


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")
