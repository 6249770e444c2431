"""How many labels it takes to tell the interesting from the rest: the page against a perceptron.

Half of a thinned labelled set is looked at in the order of `astroray label`, twenty at a time; the
other half is only judged. After each round the learnt order and a small network, trained anew on
the same labels and embeddings, give an AUC on it. Draws are averaged before the goal is looked for:
with a dozen interesting objects the AUC of one draw is a matter of luck.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from astroray.labelling.interest import Learnt, Reranker
from astroray.labelling.label_queue import next_objects
from benchmarks.rows import MeasurementError

__all__ = ["Judged", "compare_needed", "judge"]

GOAL_AUC = 0.9
ROUND = 20
HIDDEN, STEPS, RATE, DECAY = 32, 300, 1e-2, 1e-3
NUM_RESAMPLES = 2000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judged:
    """AUC on objects never shown, after each round; C rounds."""

    num_labels_C: np.ndarray
    learnt_C: np.ndarray
    network_C: np.ndarray


def judge(
    embedding_ND: np.ndarray, is_good_N: np.ndarray, score_N: np.ndarray, *, seed: int
) -> Judged:
    """One draw, objects in order of rank; the half that is shown is drawn by `seed`."""
    from sklearn.metrics import roc_auc_score

    is_shown_N = np.zeros(len(score_N), bool)
    random = np.random.default_rng(seed)
    for of_kind in (True, False):
        rows = np.flatnonzero(is_good_N == of_kind)
        is_shown_N[random.permutation(rows)[: len(rows) // 2]] = True
    reranker = Reranker(embedding_ND, score_N)
    is_done_N = ~is_shown_N
    seen: list[int] = []
    learnt: Learnt | None = None
    counts: list[int] = []
    ours: list[float] = []
    theirs: list[float] = []
    while not is_done_N.all():
        items = next_objects(
            learnt, np.zeros(len(score_N), bool), is_done_N, size=ROUND, seed=seed + len(seen)
        )
        seen += [item.row for item in items]
        is_done_N[seen] = True
        row_M = np.array(seen)
        learnt = reranker.learn(row_M, is_good_N[row_M].astype(float))
        network_N = perceptron(embedding_ND, row_M, is_good_N[row_M], seed=seed)
        judged = is_good_N[~is_shown_N]
        counts.append(len(seen))
        ours.append(roc_auc_score(judged, learnt.value_N[~is_shown_N]))
        theirs.append(roc_auc_score(judged, network_N[~is_shown_N]))
    return Judged(
        num_labels_C=np.array(counts), learnt_C=np.array(ours), network_C=np.array(theirs)
    )


def perceptron(
    embedding_ND: np.ndarray, row_M: np.ndarray, is_good_M: np.ndarray, *, seed: int
) -> np.ndarray:
    """[N] what a network of one hidden layer learns from the labels, both kinds alike in weight."""
    import torch
    from torch import nn

    torch.manual_seed(seed)
    scale_D = embedding_ND.std(axis=0) + 1e-9
    input_ND = torch.from_numpy((embedding_ND - embedding_ND.mean(axis=0)) / scale_D).float()
    network = nn.Sequential(nn.Linear(input_ND.shape[1], HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1))
    target_M = torch.from_numpy(is_good_M.astype(np.float32))
    num_good = float(target_M.sum())
    weight = torch.tensor((len(target_M) - num_good) / max(1.0, num_good)).clamp(0.1, 100)
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=DECAY)
    labelled_MD = input_ND[torch.from_numpy(row_M)]
    for _ in range(STEPS):
        optimizer.zero_grad()
        logit_M = network(labelled_MD)[:, 0]
        loss: Any = nn.functional.binary_cross_entropy_with_logits(
            logit_M, target_M, pos_weight=weight
        )
        loss.backward()
        optimizer.step()
    with torch.inference_mode():
        said_N: np.ndarray = network(input_ND)[:, 0].numpy()
    return said_N


def compare_needed(draws: Sequence[Judged]) -> dict[str, Any]:
    """Fields of a row: labels that the network needs over those that the page needs.

    Raises MeasurementError where the page does not reach the goal with all labels there are.
    """
    ours_SC = np.stack([one.learnt_C for one in draws])
    theirs_SC = np.stack([one.network_C for one in draws])
    counts_C = draws[0].num_labels_C
    ours, theirs = (needed(auc_SC.mean(axis=0), counts_C) for auc_SC in (ours_SC, theirs_SC))
    facts = {
        "labels": float(counts_C[-1]),
        "auc_page": float(ours_SC[:, -1].mean()),
        "auc_network": float(theirs_SC[:, -1].mean()),
    }
    if ours is None:
        best = ours_SC.mean(axis=0).max()
        other = theirs_SC.mean(axis=0).max()
        raise MeasurementError(
            f"AUC {GOAL_AUC} is not reached with {counts_C[-1]} labels: at most {best:.3f}, the "
            f"perceptron {other:.3f}"
        )
    random = np.random.default_rng(0)
    ratios = []
    for draw_S in random.integers(0, len(draws), (NUM_RESAMPLES, len(draws))):
        pair = [needed(auc_SC[draw_S].mean(axis=0), counts_C) for auc_SC in (ours_SC, theirs_SC)]
        ratios.append((pair[1] or counts_C[-1]) / (pair[0] or counts_C[-1]))
    low, high = np.quantile(ratios, [0.025, 0.975])
    return {
        "value": (theirs or float(counts_C[-1])) / ours,
        "low": float(low),
        "high": float(high),
        "runs": len(draws),
        "facts": facts
        | {"needed_page": ours}
        | ({"needed_network": theirs} if theirs else {"network_never_below": float(counts_C[-1])}),
    }


def needed(auc_C: np.ndarray, counts_C: np.ndarray) -> float | None:
    """Labels from which on the AUC stays at the goal; None where it does not."""
    is_below_C = auc_C < GOAL_AUC
    if is_below_C[-1]:
        return None
    first = int(np.flatnonzero(is_below_C)[-1]) + 1 if is_below_C.any() else 0
    return float(counts_C[first])
