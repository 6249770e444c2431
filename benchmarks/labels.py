"""What labels are worth: a made person who knows the answers looks at 100 objects.

Real labelled sets, thinned until one object in twenty is interesting, ten draws each. Without
learning the person goes down the outlier ranking; with it the queue of `astroray label` decides,
its doubtful and random objects included, in the rounds of its page. The ratio is of the mean
numbers of interesting objects seen; its interval is a bootstrap over the draws. The limit is what a
list that holds nothing else would give. Beside it stands what the same learner puts first when it
has the labels of all others, four fifths of the set at a time.
"""

import dataclasses
import functools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from astroray.errors import ConfigError
from astroray.labelling.interest import Learnt, Reranker
from astroray.labelling.label_queue import next_objects, round_size
from astroray.neighbors.certificate import score_of
from benchmarks.labels_needed import GOAL_AUC, compare_needed, judge
from benchmarks.rows import (
    BenchRow,
    MeasurementError,
    find_survey_data,
    measured,
    run_benchmark,
)

if TYPE_CHECKING:  # loads the readers of surveys
    from astroray.evaluation.protocols import Protocol

SETS = (("efigi", "S3"), ("gz2", "S1"), ("mirabest", "S3"))
"""Perturbed galaxies, spirals, wide-angle tails."""
ENCODER = "rings"
INTERESTING_SHARE = 0.05
NUM_LOOKED_AT = 100
NUM_SEEDS, NUM_RESAMPLES, NUM_FOLDS = 10, 2000, 5
K = 10
DIM = 32
SPEEDS: tuple[tuple[int, int, float | None], ...] = (
    (10_000, 10_000, 1.0),
    (10_000, 1_000_000, 10.0),
    (100, 1_000_000, None),
)
"""Labels, embeddings, and the goal in seconds."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Looked:
    """How many of the objects looked at were interesting, by draw."""

    with_S: np.ndarray
    without_S: np.ndarray
    all_others_S: np.ndarray
    """Were all others labelled."""
    limit: float
    """Interesting objects that there are, at most those looked at."""


def look(
    embedding_ND: np.ndarray, is_good_N: np.ndarray, score_N: np.ndarray, *, seed: int
) -> tuple[int, int]:
    """Interesting objects among the first looked at, with learning and without."""
    reranker = Reranker(embedding_ND, score_N)
    is_done_N = np.zeros(len(score_N), bool)
    seen: list[int] = []
    learnt: Learnt | None = None
    while len(seen) < min(NUM_LOOKED_AT, len(score_N)):
        size = min(round_size(len(score_N), len(seen)), NUM_LOOKED_AT - len(seen))
        items = next_objects(
            learnt, np.zeros(len(score_N), bool), is_done_N, size=size, seed=seed + len(seen)
        )
        seen += [item.row for item in items]
        is_done_N[seen] = True
        row_M = np.array(seen)
        learnt = reranker.learn(row_M, is_good_N[row_M].astype(float))
    return int(is_good_N[seen].sum()), int(is_good_N[:NUM_LOOKED_AT].sum())


def know_all_others(
    embedding_ND: np.ndarray, is_good_N: np.ndarray, score_N: np.ndarray, *, seed: int
) -> int:
    """Interesting objects among the first, each placed by the labels of all folds but its own."""
    reranker = Reranker(embedding_ND, score_N)
    fold_N = np.random.default_rng(seed).permutation(len(score_N)) % NUM_FOLDS
    value_N = np.empty(len(score_N))
    for fold in range(NUM_FOLDS):
        row_M = np.flatnonzero(fold_N != fold)
        learnt = reranker.learn(row_M, is_good_N[row_M].astype(float))
        value_N[fold_N == fold] = learnt.value_N[fold_N == fold]
    return int(is_good_N[np.argsort(-value_N, kind="stable")[:NUM_LOOKED_AT]].sum())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Drawn:
    """Draws of one labelled set, each thinned and in order of rank."""

    embedding_SND: list[np.ndarray]
    is_good_SN: list[np.ndarray]
    score_SN: list[np.ndarray]


@functools.cache
def embed_set(
    protocol: str, data: str, scratch: Path, encoder: str = ENCODER
) -> tuple["Protocol", np.ndarray]:
    """A labelled set and its embeddings [N, D], without labels. Raises MeasurementError."""
    from astroray.evaluation import models
    from astroray.evaluation.label_tables import open_protocol
    from astroray.evaluation.pictures import Pictures

    try:
        opened = open_protocol(protocol, data=data)
    except ConfigError as error:
        raise MeasurementError(f"{error}") from None
    pictures = Pictures(opened)
    sample = models.take_sample(pictures, opened.fit_rows(0), str(scratch))
    path = models.fit_model(encoder, sample, seed=0, budget_s=60)
    return opened, models.embed(path, pictures, str(scratch)).embedding_ND


@functools.cache
def draw_set(
    protocol: str,
    subset: str,
    data: str,
    scratch: Path,
    num_seeds: int,
    encoder: str = ENCODER,
) -> Drawn:
    """Draws of one labelled set. Raises MeasurementError."""
    opened, embedding_ND = embed_set(protocol, data, scratch, encoder)
    (thinned,) = (
        dataclasses.replace(one, contamination=INTERESTING_SHARE)
        for one in opened.subsets
        if one.name == subset
    )
    drawn = Drawn(embedding_SND=[], is_good_SN=[], score_SN=[])
    for seed in range(num_seeds):
        draw = thinned.draw(seed, 0)
        score_M = _scores(embedding_ND[draw.row_M])
        order_M = np.argsort(-score_M, kind="stable")  # as a catalog has its rows
        drawn.embedding_SND.append(embedding_ND[draw.row_M][order_M])
        drawn.is_good_SN.append(draw.is_outlier_M[order_M])
        drawn.score_SN.append(score_M[order_M])
    return drawn


def measure_set(drawn: Drawn) -> Looked:
    """What the person sees of each draw."""
    draws = list(zip(drawn.embedding_SND, drawn.is_good_SN, drawn.score_SN, strict=True))
    with_S, without_S = np.array([look(*draw, seed=seed) for seed, draw in enumerate(draws)]).T
    all_others = [know_all_others(*draw, seed=seed) for seed, draw in enumerate(draws)]
    return Looked(
        with_S=with_S,
        without_S=without_S,
        all_others_S=np.array(all_others),
        limit=float(min(NUM_LOOKED_AT, int(drawn.is_good_SN[0].sum()))),
    )


def measure_needed(drawn: Drawn) -> dict[str, Any]:
    """Fields of the row of labels needed. Raises MeasurementError."""
    draws = zip(drawn.embedding_SND, drawn.is_good_SN, drawn.score_SN, strict=True)
    return compare_needed([judge(*draw, seed=seed) for seed, draw in enumerate(draws)])


def compare(looked: Looked) -> dict[str, Any]:
    """Fields of a row: ratio of the means with its bootstrap interval."""
    random = np.random.default_rng(0)
    draw_RS = random.integers(0, len(looked.with_S), (NUM_RESAMPLES, len(looked.with_S)))
    without_R = np.maximum(looked.without_S[draw_RS].mean(axis=1), 0.5)
    low, high = np.quantile(looked.with_S[draw_RS].mean(axis=1) / without_R, [0.025, 0.975])
    plain = max(float(looked.without_S.mean()), 0.5)
    return {
        "value": float(looked.with_S.mean()) / plain,
        "low": float(low),
        "high": float(high),
        "runs": len(looked.with_S),
        "limit": looked.limit / plain,
        "facts": {
            "seen_with": float(looked.with_S.mean()),
            "seen_without": float(looked.without_S.mean()),
            "were_all_others_labelled": float(looked.all_others_S.mean()),
            "interesting_in_all": looked.limit,
        },
    }


def measure_speed(num_labels: int, num_embeddings: int) -> float:
    """Seconds to learn from labels and order all embeddings by them."""
    random = np.random.default_rng(0)
    embedding_ND = random.normal(size=(num_embeddings, DIM)).astype(np.float32)
    reranker = Reranker(embedding_ND, random.random(num_embeddings))
    row_M = random.choice(num_embeddings, num_labels, replace=False)
    interest_M = random.random(num_labels)
    began_s = time.monotonic()
    reranker.learn(row_M, interest_M)
    return time.monotonic() - began_s


def _draw(protocol: str, subset: str, scratch: Path, num_seeds: int) -> Drawn:
    return draw_set(protocol, subset, find_survey_data(), scratch, num_seeds)


def measure(quick: bool, scratch: Path) -> Iterator[BenchRow]:
    """All rows; quick: three draws, and a tenth of the embeddings."""
    num_seeds = 3 if quick else NUM_SEEDS
    for protocol, subset in SETS:
        draw = functools.partial(_draw, protocol, subset, scratch, num_seeds)
        yield from measured(
            [_claim(protocol, subset)],
            lambda: [compare(measure_set(draw()))],  # noqa: B023
        )
        yield from measured(
            [_claim_needed(protocol, subset)],
            lambda: [measure_needed(draw())],  # noqa: B023
        )
    scale = 10 if quick else 1
    for num_labels, num_embeddings, goal in SPEEDS:
        num_labels, num_embeddings = num_labels // scale, num_embeddings // scale
        spent_s = measure_speed(num_labels, num_embeddings)
        yield BenchRow(
            what=f"seconds to order {num_embeddings:,} embeddings by {num_labels:,} labels",
            unit="s", goal=goal, is_at_most=True, peer="none",
            value=spent_s, low=spent_s, high=spent_s, runs=1,
        )  # fmt: skip


def _claim(protocol: str, subset: str) -> Any:
    def claim(**fields: Any) -> BenchRow:
        return BenchRow(
            what=f"interesting objects among the first {NUM_LOOKED_AT}, with learning over without,"
            f" {protocol} {subset}",
            unit="x",
            goal=1.5,
            peer="the outlier ranking of the same embeddings",
            **fields,
        )

    return claim


def _claim_needed(protocol: str, subset: str) -> Any:
    return functools.partial(
        BenchRow,
        what=f"labels to reach AUC {GOAL_AUC} of a perceptron over those of the page, "
        f"{protocol} {subset}",
        goal=1.0,
        peer="a perceptron of 32 hidden units trained on the same labels and embeddings",
    )


def _scores(embedding_ND: np.ndarray) -> np.ndarray:
    """Distance of each object to its k-th neighbor."""
    import torch

    from astroray_kernels.nearest import nearest_vectors

    vectors = torch.from_numpy(np.ascontiguousarray(embedding_ND, np.float32))
    _, distance_NK = nearest_vectors(vectors, vectors, K, exclude_G=torch.arange(len(vectors)))
    return score_of(distance_NK.numpy(), "kth")


def main() -> None:
    """`python -m benchmarks.labels`."""
    run_benchmark("labels", "What labels are worth, by a made person.", measure)


if __name__ == "__main__":
    main()
