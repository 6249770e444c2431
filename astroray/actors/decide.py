"""What `auto` becomes: the fastest numbers and attention that keep the outlier list, measured."""

import copy
import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from astroray.encoders import AttentionName, QuantizeName
from astroray.encoders.attention import choose_attention, why_no_native
from astroray.encoders.quantized import Quantized
from astroray.encoders.selecting import choose_numbers, is_fast
from astroray.encoders.store import Model
from astroray.errors import AstrorayError
from astroray.neighbors.search import SearchConfig, search

__all__ = ["LEAST_ROWS", "SCHEMES_TRIED", "Decision", "Way", "decide"]

LEAST_ROWS = 10_000
"""Objects without which a list's top is too short to judge by: the reference is used."""
SCHEMES_TRIED: tuple[QuantizeName, ...] = ("w8a8", "w8a8o", "osc-w4a4")
NUMBERS: tuple[QuantizeName, ...] = ("none", "bf16", "torch-int8", *SCHEMES_TRIED)
ATTENTIONS: tuple[AttentionName, ...] = ("sdpa", "vfa", "vfa-int8-qk")
Pair = tuple[QuantizeName, AttentionName]
"""What `encoder.quantize` and `encoder.attention` may be set to."""
REFERENCE: Pair = ("none", "sdpa")
ALWAYS_SHOWN: Pair = ("bf16", "sdpa")
"""Its list is compared even if another is kept: what no quantization does to a list."""
LEAST_KEPT = 0.99
TOP_SHARE, FAST_SHARE = 0.01, 0.02
LEAST_GAIN = 1.0
LEAST_SPEED = 0.25
"""A slower way is timed twice, and its list is not compared: PyTorch's bfloat16 on a CPU without
products of it would take most of the time of a decision."""
BATCH = 32
ROUNDS, BATCHES_A_ROUND = 7, 2
K = 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class Way:
    """One way to compute the embeddings."""

    numbers: str
    """With the kernels that ran, such as `w8a8o native`."""
    attention: str = ""
    """Attention with the kernels that ran, such as `vfa native bf16`; "" without attention."""
    speed: float | None = None
    """Times as fast as the reference, median of interleaved rounds by CPU time of one thread."""
    kept: float | None = None
    """Share of the reference's top 1 % in this way's top 2 %; None where not looked at."""
    note: str = ""
    """Why something was not measured."""

    @property
    def name(self) -> str:
        """Numbers and attention."""
        return f"{self.numbers}, {self.attention}" if self.attention else self.numbers

    @property
    def brief(self) -> str:
        """The note up to its reason, which many ways may share."""
        return self.note.partition(": ")[0]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decision:
    """What was chosen, of which ways, and why."""

    choice: QuantizeName
    attention: AttentionName
    chosen: str
    """Name of the way."""
    reason: str
    num_rows: int
    ways: Sequence[Way]

    @property
    def details(self) -> list[str]:
        """The notes with their reasons, each once."""
        return list(dict.fromkeys(way.note for way in self.ways if way.note != way.brief))


def decide(
    model: Model,
    quantized: Quantized,
    image_NCYX: Tensor,
    *,
    show: Callable[[str], None] = lambda _: None,
) -> Decision:
    """Times all ways on this machine, compares lists from the fastest way on, and chooses.

    image_NCYX  [N, C, S, S]  prepared cutouts; fewer than 10,000 leave it undecided: the reference

    A way is one of the numbers with one of the attentions, where the network has attention. It
    keeps the list where at least 99 % of the reference's top 1 % lie in its own top 2 %, by the
    distance to the 10th neighbor. The first that does is chosen, so slower ones are not compared.
    """
    network = copy.deepcopy(model.network)  # whose attention is switched from way to way
    model = dataclasses.replace(model, network=network, quantized=quantized)
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # as the workers of a scan
    try:
        show(f"timing{'' if len(image_NCYX) >= LEAST_ROWS else ', but ' + _few(len(image_NCYX))}")
        models, ways = _prepared(model)
        ways = _timed(models, ways, image_NCYX)
    finally:
        torch.set_num_threads(before)
    if len(image_NCYX) >= LEAST_ROWS:
        ways = _compared(models, ways, image_NCYX, show)
    return _chosen(ways, len(image_NCYX))


def _prepared(model: Model) -> tuple[dict[QuantizeName, Model], dict[Pair, Way]]:
    """The model in all numbers that this machine can run, and all ways, those it cannot noted."""
    models: dict[QuantizeName, Model] = {}
    ways: dict[Pair, Way] = {}
    for numbers in NUMBERS:
        try:
            models[numbers], name = choose_numbers(model, numbers, "cpu")
        except AstrorayError as error:
            ways[numbers, "sdpa"] = Way(numbers=numbers, note=str(error))
            continue
        for attention in ATTENTIONS:
            way = _way(models[numbers], name, attention)
            if way.attention or attention == "sdpa":
                ways[numbers, attention] = way
    return models, ways


def _way(model: Model, numbers: str, attention: AttentionName) -> Way:
    try:
        name = choose_attention(model.network, attention, "cpu")
    except AstrorayError as error:
        return Way(numbers=numbers, attention=attention, note=str(error))
    if not is_fast(name):
        reason = why_no_native(model.network, attention, "cpu")
        return Way(numbers=numbers, attention=name, note=f"no fast code here: {reason}")
    return Way(numbers=numbers, attention=name)


@torch.inference_mode()
def _timed(
    models: Mapping[QuantizeName, Model], ways: Mapping[Pair, Way], image_NCYX: Tensor
) -> dict[Pair, Way]:
    batches = [batch.float() for batch in torch.split(image_NCYX[: BATCH * BATCHES_A_ROUND], BATCH)]
    seconds: dict[Pair, list[float]] = {pair: [] for pair, way in ways.items() if not way.note}
    for _ in range(ROUNDS + 1):
        for (numbers, attention), taken in seconds.items():
            if len(taken) > 1 and LEAST_SPEED * taken[1] > seconds[REFERENCE][1]:
                continue
            model = models[numbers]
            choose_attention(model.network, attention, "cpu")
            began_s = time.process_time()
            for batch_BCYX in batches:
                model.embed(batch_BCYX)
            taken.append(time.process_time() - began_s)
    speeds = {
        pair: statistics.median(_ratios(seconds[REFERENCE], values)[1:])  # the first is to warm up
        for pair, values in seconds.items()
    }
    return {pair: dataclasses.replace(way, speed=speeds.get(pair)) for pair, way in ways.items()}


def _ratios(reference_s: Sequence[float], values_s: Sequence[float]) -> list[float]:
    """Of the turns that both had."""
    return [a / b for a, b in zip(reference_s, values_s, strict=False)]


def _compared(
    models: Mapping[QuantizeName, Model],
    ways: Mapping[Pair, Way],
    image_NCYX: Tensor,
    show: Callable[[str], None],
) -> dict[Pair, Way]:
    """All ways, with the share of the list that each keeps, from the fastest until one keeps it."""

    def scores(pair: Pair) -> np.ndarray:
        model = models[pair[0]]
        choose_attention(model.network, pair[1], "cpu")
        return _scores(model, image_NCYX)

    show("the list of the reference")
    reference_N, found, is_found = scores(REFERENCE), dict(ways), False
    for pair in sorted(ways, key=lambda pair: -(ways[pair].speed or 0.0)):
        way = ways[pair]
        if pair == REFERENCE or way.speed is None:
            continue
        is_slower = way.speed <= LEAST_GAIN
        is_shown = pair == ALWAYS_SHOWN and way.speed >= LEAST_SPEED
        if (is_found or is_slower) and not is_shown:
            note = "not faster than float32" if is_slower else "slower than one that keeps the list"
            found[pair] = dataclasses.replace(way, note=note)
            continue
        show(f"the list of {way.name}")
        kept = _kept_share(reference_N, scores(pair))
        found[pair] = dataclasses.replace(way, kept=kept)
        is_found |= kept >= LEAST_KEPT and not is_slower
    return found


def _chosen(ways: Mapping[Pair, Way], num_rows: int) -> Decision:
    keeping = {
        pair: way.speed
        for pair, way in ways.items()
        if way.speed is not None and way.kept is not None and way.kept >= LEAST_KEPT
    }
    best = max(keeping, key=lambda pair: keeping[pair], default=REFERENCE)
    if keeping.get(best, 0.0) <= LEAST_GAIN:
        best = REFERENCE
    reason = "no way is faster than float32 and keeps the list"
    if num_rows < LEAST_ROWS:
        best = REFERENCE
        reason = f"undecided: {_few(num_rows)}"
    elif best != REFERENCE:
        kept = ways[best].kept or 0.0
        reason = f"{keeping[best]:.2f} times as fast as float32, keeps {kept:.1%} of the list"
    return Decision(
        choice=best[0],
        attention=best[1],
        chosen=ways[best].name,
        reason=reason,
        num_rows=num_rows,
        ways=list(ways.values()),
    )


@torch.inference_mode()
def _scores(model: Model, image_NCYX: Tensor) -> np.ndarray:
    """Distance to the 10th neighbor in the model's frame, [N]; NaN where it has no numbers."""
    embedding_ND = np.concatenate(
        [model.embed(batch.float()).numpy() for batch in torch.split(image_NCYX, BATCH)]
    )
    finite_N = np.isfinite(embedding_ND).all(axis=1)
    ids = [f"{row:09d}" for row in np.flatnonzero(finite_N)]
    score_N = np.full(len(finite_N), np.nan)
    score_N[finite_N] = search(embedding_ND[finite_N], ids, SearchConfig(k=K, index="flat")).score_N
    return score_N


def _kept_share(reference_N: np.ndarray, fast_N: np.ndarray) -> float:
    """Share of the reference's top 1 % that lies in the fast way's top 2 %."""
    num_top = max(1, round(TOP_SHARE * len(reference_N)))
    num_fast = max(1, round(FAST_SHARE * len(reference_N)))
    top = np.argsort(-reference_N, kind="stable")[:num_top]
    fast = np.argsort(-fast_N, kind="stable")[:num_fast]
    return float(np.isin(top, fast).mean())


def _few(num_rows: int) -> str:
    return (
        f"{num_rows} objects are fewer than {LEAST_ROWS}, so the reference is used; observe a "
        "larger survey"
    )
