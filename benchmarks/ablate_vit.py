"""What each part of the vision transformer's training is worth: short fits, one part left out.

python -m benchmarks.ablate_vit PICTURES --data DIR --out DIR trains `vit-tiny` on the same pictures
and passes once for each variant, evaluates all on gz2 and efigi, and prints recall and AUC of the
mixed subsets as one JSON line. The fits are far from done: they say what helps early.
"""

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from astroray import surveys
from astroray.actors.fit import finish_model
from astroray.actors.sample import SamplePlan, draw_sample, network_config
from astroray.encoders import read_model_file, views, vit
from astroray.evaluation.runs import EvaluationConfig, evaluate_outliers
from astroray.fitting.fit_state import FitConfig
from astroray.fitting.passes import run_passes
from astroray.preparation import Wishes

ENCODER = "vit-tiny"
KEPT = ("what", "value", "low", "high")
MIXED = {"gz2": "S1", "efigi": "S5"}
VARIANTS: dict[str, Callable[[], "mock._patch[object]"]] = {
    "as shipped": lambda: mock.patch.object(vit, "CONTRAST_WEIGHT", vit.CONTRAST_WEIGHT),
    "no contrast": lambda: mock.patch.object(vit, "CONTRAST_WEIGHT", 0.0),
    "no missing patches": lambda: mock.patch.object(vit.Vit, "_miss", _nothing),
    "no dropped bands": lambda: mock.patch.object(views, "ALL_BANDS_SHARE", 1.0),
    "turned by any angle": lambda: mock.patch.object(views, "UPRIGHT_SHARE", 0.0),
}


def main() -> None:
    """Trains and evaluates the variants."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pictures")
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--passes", type=int, default=8)
    asked = parser.parse_args()
    path_of = {name: train(name, asked) for name in VARIANTS}
    name_of = {f"{ENCODER}:{read_model_file(path).model_id[:8]}": n for n, path in path_of.items()}
    rows = [
        {"variant": name_of[row["encoder"]], **{key: row[key] for key in KEPT}}
        for protocol in MIXED
        for row in evaluate(protocol, list(path_of.values()), asked)
        if row["encoder"] in name_of
    ]
    print(json.dumps({"passes": asked.passes, "images": asked.rows, "rows": rows}))


def train(name: str, asked: argparse.Namespace) -> str:
    """The model file of a variant."""
    folder = str(Path(asked.out).resolve() / name.replace(" ", "-"))
    path = f"{folder}/model.safetensors"
    if Path(path).exists():
        return path
    plan = SamplePlan(folder=folder, max_rows=asked.rows, wishes=Wishes(size_px=64), seed=0)
    sample = draw_sample(surveys.list_shards(asked.pictures).shards, plan)
    numbers = network_config(ENCODER, sample, latent=None)
    threads = len(os.sched_getaffinity(0))
    with VARIANTS[name]():
        fit = run_passes(
            sample.path, ENCODER, numbers, FitConfig(num_passes=asked.passes), folder,
            threads=threads,
        )  # fmt: skip
    finish_model(
        sample, path=path, encoder=ENCODER, config=numbers, weights=fit.state_dict,
        fit=fit.facts(), num_threads=threads,
    )  # fmt: skip
    return path


def evaluate(protocol: str, paths: list[str], asked: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows of the mixed subset."""
    config = EvaluationConfig(
        protocol=protocol,
        encoders=tuple(paths),
        out=f"{asked.out}/evaluate-{protocol}",
        data=asked.data,
        num_seeds=1,
    )
    document = evaluate_outliers(config).document
    return [
        row
        for row in document["rows"]
        if row["subset"] == MIXED[protocol]
        and row["metric"] in ("auc", "recall")
        and not row["peer"]
    ]


def _nothing(*_: object) -> torch.Tensor:
    return torch.zeros(())


if __name__ == "__main__":
    main()
