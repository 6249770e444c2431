"""Which numbers `auto` becomes: the fastest way that keeps the outlier list, by measurement."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from astroray.encoders import QuantizeName
from astroray.encoders.quantized import Quantized
from astroray.encoders.selecting import choose_numbers
from astroray.encoders.store import Model
from astroray.errors import AstrorayError
from astroray.neighbors.search import SearchConfig, search

__all__ = ["LEAST_ROWS", "SCHEMES_TRIED", "Decision", "Way", "decide"]

LEAST_ROWS = 10_000
"""Objects without which a list's top is too short to judge by: the reference is used."""
SCHEMES_TRIED: tuple[QuantizeName, ...] = ("w8a8", "w8a8o", "osc-w4a4")
WAYS: tuple[QuantizeName, ...] = ("none", "bf16", "torch-int8", *SCHEMES_TRIED)
REFERENCE = "none"
ALWAYS_SHOWN = "bf16"
"""Its list is compared in any case: what no quantization does to a list."""
LEAST_KEPT = 0.99
TOP_SHARE, FAST_SHARE = 0.01, 0.02
LEAST_GAIN = 1.0
BATCH = 32
ROUNDS, BATCHES_A_ROUND = 7, 4
K = 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class Way:
    """One way to compute the embeddings."""

    name: str
    """With the kernels that ran, such as `w8a8o native`."""
    speed: float | None = None
    """Times as fast as float32, median of interleaved rounds of one thread."""
    kept: float | None = None
    """Share of the reference's top 1 % in this way's top 2 %; None where not looked at."""
    note: str = ""
    """Why something was not measured."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decision:
    """What was chosen, of which ways, and why."""

    choice: str
    reason: str
    num_rows: int
    ways: Sequence[Way]


def decide(
    model: Model,
    quantized: Quantized,
    image_NCYX: Tensor,
    *,
    show: Callable[[str], None] = lambda _: None,
) -> Decision:
    """Times all ways on this machine, compares the lists of the faster ones, and chooses.

    image_NCYX  [N, C, S, S]  prepared cutouts; fewer than 10,000 leave it undecided: the reference

    A way keeps the list where at least 99 % of the reference's top 1 % lie in its own top 2 %, by
    the distance to the 10th neighbor.
    """
    model = dataclasses.replace(model, quantized=quantized)
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # as the workers of a scan
    try:
        show("timing")
        models, ways = _prepared(model)
        ways = _timed(models, ways, image_NCYX)
        if len(image_NCYX) < LEAST_ROWS:
            reason = (
                f"undecided: {len(image_NCYX)} objects are fewer than {LEAST_ROWS}, so the "
                "reference is used; observe a larger survey"
            )
            return Decision(
                choice=REFERENCE, reason=reason, num_rows=len(image_NCYX), ways=list(ways.values())
            )
        ways = _compared(models, ways, image_NCYX, show)
    finally:
        torch.set_num_threads(before)
    return _chosen(ways, len(image_NCYX))


def _prepared(model: Model) -> tuple[dict[str, Model], dict[str, Way]]:
    """The model in all ways that this machine can run."""
    models: dict[str, Model] = {}
    ways: dict[str, Way] = {}
    for name in WAYS:
        try:
            models[name], full_name = choose_numbers(model, name, "cpu")
            ways[name] = Way(name=full_name)
        except AstrorayError as error:
            ways[name] = Way(name=name, note=str(error))
    return models, ways


@torch.inference_mode()
def _timed(models: dict[str, Model], ways: dict[str, Way], image_NCYX: Tensor) -> dict[str, Way]:
    batches = [batch.float() for batch in torch.split(image_NCYX[: BATCH * BATCHES_A_ROUND], BATCH)]
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(ROUNDS + 1):
        for name, model in models.items():
            began_s = time.perf_counter()
            for batch_BCYX in batches:
                model.embed(batch_BCYX)
            if turn:  # the first is to warm up
                seconds[name].append(time.perf_counter() - began_s)
    speeds = {
        name: statistics.median(np.divide(seconds[REFERENCE], values).tolist())
        for name, values in seconds.items()
    }
    return {name: dataclasses.replace(way, speed=speeds.get(name)) for name, way in ways.items()}


def _compared(
    models: dict[str, Model], ways: dict[str, Way], image_NCYX: Tensor, show: Callable[[str], None]
) -> dict[str, Way]:
    """The same with the share of the list kept, of the ways that are faster than the reference."""
    show("the list of the reference")
    reference_N = _scores(models[REFERENCE], image_NCYX)
    found = dict(ways)
    for name, way in ways.items():
        if name == REFERENCE or way.speed is None:
            continue
        if way.speed <= LEAST_GAIN and name != ALWAYS_SHOWN:
            found[name] = dataclasses.replace(way, note="not faster, so its list was not made")
            continue
        show(f"the list of {way.name}")
        kept = _kept_share(reference_N, _scores(models[name], image_NCYX))
        found[name] = dataclasses.replace(way, kept=kept)
    return found


def _chosen(ways: dict[str, Way], num_rows: int) -> Decision:
    keeping = {
        name: way.speed
        for name, way in ways.items()
        if way.speed is not None and way.kept is not None and way.kept >= LEAST_KEPT
    }
    best = max(keeping, key=lambda name: keeping[name], default=REFERENCE)
    if keeping.get(best, 0.0) <= LEAST_GAIN:
        best = REFERENCE
    reason = "no way is faster than float32 and keeps the list"
    if best != REFERENCE:
        kept = ways[best].kept or 0.0
        reason = f"{keeping[best]:.2f} times as fast as float32, keeps {kept:.1%} of the list"
    return Decision(choice=best, reason=reason, num_rows=num_rows, ways=list(ways.values()))


@torch.inference_mode()
def _scores(model: Model, image_NCYX: Tensor) -> np.ndarray:
    """Distance to the 10th neighbor in the model's frame, [N]."""
    embedding_ND = np.concatenate(
        [model.embed(batch.float()).numpy() for batch in torch.split(image_NCYX, BATCH)]
    )
    ids = [f"{row:09d}" for row in range(len(embedding_ND))]
    return search(embedding_ND, ids, SearchConfig(k=K, index="flat")).score_N


def _kept_share(reference_N: np.ndarray, fast_N: np.ndarray) -> float:
    """Share of the reference's top 1 % that lies in the fast way's top 2 %."""
    num_top = max(1, round(TOP_SHARE * len(reference_N)))
    num_fast = max(1, round(FAST_SHARE * len(reference_N)))
    top = np.argsort(-reference_N, kind="stable")[:num_top]
    fast = np.argsort(-fast_N, kind="stable")[:num_fast]
    return float(np.isin(top, fast).mean())
