"""What cells spare an exact search: CPU time beside a comparison of everything, with equal lists.

Queries that are no vectors themselves are searched among the vectors of one task, one thread, by
the native kernel with cells and without. Cells help where vectors are much nearer to their
neighbors than to most others: the farther the repeated digits are moved, the less; and of numbers
that are all drawn alike everything is about as far as everything else.
"""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from astroray.neighbors.cells import SAMPLED_PER_CELL, find_cells, train_cells
from benchmarks.claims import at_least
from benchmarks.clock import timed
from benchmarks.neighbors import ONE_THREAD, make_embeddings
from benchmarks.processes import run_fresh
from benchmarks.rows import BenchRow, MeasurementError, measured, run_benchmark, spread

WIDTH = 11
DIM = 64

SURVEYS = {"made": 3.0, "digits 0.3": 3.0, "digits 1.0": 1.0, "drawn alike": 0.9}
"""Each with the ratio that it has to reach; of the last, cells may cost a tenth."""
WORDS = {
    "made": "clusters of several widths, 1 % far from all",
    "digits 0.3": "real digits repeated, moved by .3 of the way to the next one",
    "digits 1.0": "real digits repeated, moved as far as the next one",
    "drawn alike": "normal numbers without clusters",
}

CLAIMS = {
    name: at_least(
        f"{WORDS[name]}: CPU time of a comparison with everything over one with cells",
        goal,
        peer="astroray_kernels.nearest_vectors without cells, 1 thread",
    )
    for name, goal in SURVEYS.items()
}


def make_survey(name: str, num: int) -> np.ndarray:
    """Float32 [num, 64]."""
    draw = np.random.default_rng(4)
    if name == "made":
        return make_embeddings(num, DIM, seed=4)
    if name == "drawn alike":
        return draw.normal(size=(num, DIM)).astype(np.float32)
    import torch
    from sklearn.datasets import load_digits

    from astroray_kernels.knn._native import nearest_vectors_with_counts

    real_MD = load_digits().data.astype(np.float32)
    real = torch.from_numpy(real_MD)
    itself_M = torch.arange(len(real))
    _, next_M1, _ = nearest_vectors_with_counts(real, real, 1, exclude_G=itself_M)
    which_N = draw.integers(0, len(real_MD), num)
    moved_ND = draw.normal(size=(num, DIM))
    moved_ND *= float(name.split()[1]) / np.linalg.norm(moved_ND, axis=1, keepdims=True)
    return (real_MD[which_N] + next_M1.numpy()[which_N] * moved_ND).astype(np.float32)


def with_cells_and_without(
    name: str, num_vectors: int, num_queries: int, num_cells: int, runs: int
) -> dict[str, Any]:
    """The fields of a row: both in turns, after their lists were compared to the last bit."""
    import torch

    from astroray_kernels.knn._native import nearest_vectors_with_counts

    survey_ND = make_survey(name, num_vectors + num_queries)
    vector_VD, query_GD = survey_ND[:num_vectors], survey_ND[num_vectors:]
    centroid_CD = train_cells(vector_VD[: num_cells * SAMPLED_PER_CELL], num_cells, seed=0)
    cell_V, cell_G = find_cells(vector_VD, centroid_CD), find_cells(query_GD, centroid_CD)
    order_V, order_G = np.argsort(cell_V, kind="stable"), np.argsort(cell_G, kind="stable")
    query, vector = torch.from_numpy(query_GD[order_G]), torch.from_numpy(vector_VD[order_V])
    cells = torch.from_numpy(cell_V[order_V]), torch.from_numpy(centroid_CD)
    ways = {"all": None, "cells": cells}
    cpu_s: dict[str, list[float]] = {way: [] for way in ways}
    counts: dict[str, Any] = {}
    for _ in range(runs):
        lists = []
        for way, some in ways.items():
            took = timed(partial(nearest_vectors_with_counts, query, vector, WIDTH, cells=some))
            *found, counts[way] = took.result
            cpu_s[way].append(took.cpu_s)
            lists.append(found)
        if not all(torch.equal(*pair) for pair in zip(*lists, strict=True)):
            raise MeasurementError("lists with cells and without differ")
    facts = {
        "compared": counts["cells"].compared / counts["all"].compared,
        "measured_a_query": counts["cells"].measured / num_queries,
        "all_cpu_s": float(np.median(cpu_s["all"])),
        "cells_cpu_s": float(np.median(cpu_s["cells"])),
    }
    ratios = np.divide(cpu_s["all"], cpu_s["cells"]).tolist()
    return {**spread(ratios), "error": 0.0, "facts": facts}


def measure(quick: bool, scratch: Path) -> list[BenchRow]:
    """All rows."""
    from astroray_kernels import BackendError

    del scratch
    sizes = (8_192, 512, 64, 1) if quick else (65_536, 4_096, 256, 5)

    def fields(name: str) -> list[dict[str, Any]]:
        try:
            got = run_fresh(with_cells_and_without, name, *sizes, environment=ONE_THREAD).value()
        except BackendError as error:
            raise MeasurementError(str(error)) from None
        return [got]

    return [
        row for name, claim in CLAIMS.items() for row in measured([claim], partial(fields, name))
    ]


def main() -> None:
    """`python -m benchmarks.cells`."""
    run_benchmark("cells", "An exact search with cells beside one of everything.", measure)


if __name__ == "__main__":
    from benchmarks import cells as module  # so that fresh processes find its functions

    module.main()
