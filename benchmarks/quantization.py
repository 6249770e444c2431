"""What 4 bits cost a network, by who treats its outlier channels: others, and OSC.

Each method gets the same network, the same sample to look at, and the same format: int4 with a
scale for 32 numbers. It is judged by other objects: the error of each layer's output, the cosine
of the final embeddings about their mean, recall of the 10 nearest neighbors, and the share of the
reference's 1 % most unusual objects that are among the 2 % most unusual.
"""

import copy
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.rows import BenchRow, MeasurementError, run_benchmark

if TYPE_CHECKING:  # loaded where it is used, as benchmarks are listed without torch
    from torch import Tensor, nn

    from benchmarks.quantization_models import Case

K = 10
TOP_SHARE, FAST_SHARE = 0.01, 0.02
MAX_TOKENS = 2048
"""Tokens of each layer that its error is measured on, and that a peer may look at."""
BASELINE = "round-to-nearest"
BEST = "OSC, 8 bits where diffuse"
ORDER = (
    BASELINE,
    "round-to-nearest, 8 bits where diffuse",
    "dynamic per group, 8 bits where diffuse",
    BEST,
)
"""From worst to best in the paper's Table 3: direct, 8 bits in W2, dynamic, OSC."""
SCANNED = "sim:galaxies?count={count}&seed=5&size=64&outliers=0.01&shard_rows=250"
SCANNED_OBJECTS, LIST_SHARE = 2000, 0.05
SETTINGS = {"encoder.attention": "vfa", "encoder.quantize": "osc-w4a4"}
SCIENCE_GOAL = 0.99
"""Of the list, as the rule that `auto` decides by."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judged:
    """One method on one network."""

    layer_errors: Mapping[str, float]
    """Error over size of each layer's output, given what it is given unquantized."""
    cosine: float
    """Mean over objects, embeddings about the reference's mean."""
    error: float
    """Error over spread of the embeddings."""
    recall: float
    kept: float

    def facts(self) -> dict[str, float]:
        errors = list(self.layer_errors.values())
        return {
            "layer_error_median": float(np.median(errors)),
            "layer_error_worst": max(errors),
            "cosine": self.cosine,
            "embedding_error": self.error,
            "list_kept": self.kept,
        }


def measure(quick: bool, scratch: Path) -> Iterator[BenchRow]:
    """All rows, network after network."""
    from benchmarks.quantization_models import load_minilm, load_vit
    from benchmarks.quantization_peers import FALLBACKS, OSC, PEERS

    count = 256 if quick else 1000
    loads: dict[str, Callable[[], Case]] = {
        "MiniLM": partial(load_minilm, count), "vit-tiny": partial(load_vit, count, scratch),
    }  # fmt: skip
    names = (*PEERS, *FALLBACKS, *OSC)
    for network, load in loads.items():
        try:
            found = judge_all(load(), names)
        except MeasurementError as error:
            for name in names:
                yield BenchRow(what=f"{network}, {name}: recall@10", goal=None, reason=str(error))
            continue
        for name, judged in found.items():
            yield BenchRow(
                what=f"{network}, {name}: recall@10", goal=None, value=judged.recall, unit="share",
                peer="the same network in float32", facts=judged.facts(), runs=1,
            )  # fmt: skip
        yield from _claims(network, found)
    yield measure_scan(SCANNED_OBJECTS // 5 if quick else SCANNED_OBJECTS, scratch)


def measure_scan(count: int, scratch: Path) -> BenchRow:
    """The whole program on 4 bits with VFA, through Ray, against the same in float32."""
    from astroray import catalog
    from astroray.config import load_config
    from astroray.pipeline import scan

    survey = SCANNED.format(count=count)
    top = round(LIST_SHARE * count)
    lists, records = [], []
    for name, settings in (("plain", {}), ("quantized", SETTINGS)):
        flags = {"encoder.name": "vit-tiny", "search.top": top, **settings}
        records.append(scan(load_config(survey, str(scratch / name), None, flags)))
        rows = catalog.read_catalog(str(scratch / name))
        lists.append(rows["object_id"].to_pylist()[:top])
    plain, quantized = records
    per_s = [record.counts.rows_embedded / record.seconds["embed"] for record in records]
    return BenchRow(
        what="scan with vit-tiny, encoder.attention vfa, encoder.quantize osc-w4a4: of the list of "
        f"float32, as long as {LIST_SHARE:.0%} of the survey",
        goal=None, value=len(set(lists[0]) & set(lists[1])) / top, unit="share", runs=1,
        peer="the same scan in float32",
        facts={
            "objects": float(quantized.counts.rows_embedded), "list": float(top),
            "certified": float(quantized.proven.num_certified),
            "embed_per_s": per_s[1], "embed_float32_per_s": per_s[0],
            "refine_s": quantized.seconds["refine"],
            "whole_s": sum(quantized.seconds.values()),
            "whole_float32_s": sum(plain.seconds.values()),
        },
    )  # fmt: skip


def _claims(network: str, found: Mapping[str, Judged]) -> Iterator[BenchRow]:
    """What the paper says, and what a user needs to know."""
    claim = partial(BenchRow, runs=1, unit="x")
    for worse, better in (*itertools.pairwise(ORDER), (BASELINE, BEST)):
        yield claim(
            what=f"{network}: embedding error of {worse} over that of {better}",
            goal=1.0, value=found[worse].error / found[better].error, peer=worse,
            facts={"recall_gain": found[better].recall - found[worse].recall},
        )  # fmt: skip
    yield claim(
        what=f"{network}: of the list kept by 8 bits with outlier channels",
        goal=SCIENCE_GOAL, value=found["8 bits, OSC"].kept, peer="float32", unit="share",
    )  # fmt: skip


def judge_all(case: "Case", names: tuple[str, ...]) -> dict[str, Judged]:
    """Every method on one network, after its activations were observed."""
    import torch

    from astroray.quantization.activations import observe_ranges
    from benchmarks.quantization_peers import replace

    with torch.inference_mode():
        ranges = observe_ranges(case.network, case.observe)
        samples = _inputs(case.network, ranges, case.observe)
        held_out = _inputs(case.network, ranges, case.embed)
        reference_ND = case.embed(case.network)
        judged = {}
        for name in names:
            layers = replace(case.network, name, ranges, samples)
            network = copy.deepcopy(case.network)
            for path, layer in layers.items():
                network.set_submodule(path, layer)
            errors = {one: _error(case.network, one, layers[one], held_out[one]) for one in layers}
            judged[name] = _judge(reference_ND, case.embed(network), errors)
    return judged


def _judge(
    reference_ND: np.ndarray, embedding_ND: np.ndarray, layer_errors: Mapping[str, float]
) -> Judged:
    middle_D = reference_ND.mean(0)
    a_ND, b_ND = reference_ND - middle_D, embedding_ND - middle_D
    cosine_N = (a_ND * b_ND).sum(1) / (np.linalg.norm(a_ND, axis=1) * np.linalg.norm(b_ND, axis=1))
    near_a, near_b = _nearest(reference_ND), _nearest(embedding_ND)
    shared = [len(set(one) & set(two)) / K for one, two in zip(near_a[0], near_b[0], strict=True)]
    num = len(reference_ND)
    top = np.argsort(-near_a[1])[: max(1, round(TOP_SHARE * num))]
    fast = np.argsort(-near_b[1])[: max(1, round(FAST_SHARE * num))]
    return Judged(
        layer_errors=layer_errors,
        cosine=float(cosine_N.mean()),
        error=float(np.linalg.norm(a_ND - b_ND) / np.linalg.norm(a_ND)),
        recall=float(np.mean(shared)),
        kept=float(np.isin(top, fast).mean()),
    )


def _nearest(embedding_ND: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Neighbors [N, 10] and distance to the 10th."""
    from astroray.neighbors.search import SearchConfig, search

    ids = [f"{row:08d}" for row in range(len(embedding_ND))]
    found = search(embedding_ND, ids, SearchConfig(k=K, index="flat"))
    return found.neighbor_NK, found.score_N


def _inputs(
    network: "nn.Module", names: Mapping[str, object], run: Callable[["nn.Module"], object]
) -> dict[str, "Tensor"]:
    """What each layer is given, at most MAX_TOKENS evenly spaced tokens [S, K]."""
    kept: dict[str, list[Tensor]] = {name: [] for name in names}
    hooks = [
        network.get_submodule(name).register_forward_pre_hook(
            lambda _, given, name=name: kept[name].append(given[0].flatten(0, -2)[::7].clone())
        )
        for name in names
    ]
    run(network)
    for hook in hooks:
        hook.remove()
    import torch

    whole = {name: torch.cat(parts) for name, parts in kept.items()}
    return {name: x_SK[:: -(-len(x_SK) // MAX_TOKENS)] for name, x_SK in whole.items()}


def _error(network: "nn.Module", name: str, layer: "nn.Module", x_SK: "Tensor") -> float:
    exact = network.get_submodule(name)(x_SK)
    return float((layer(x_SK) - exact).norm() / exact.norm())


def main() -> None:
    """`python -m benchmarks.quantization`."""
    run_benchmark("quantization", "What 4 bits cost, by who treats the outliers.", measure)


if __name__ == "__main__":
    main()
