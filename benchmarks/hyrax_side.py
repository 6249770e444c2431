"""What Hyrax does with the images of `benchmarks.hyrax`; run by the Python it is installed in.

    PYTHON -m benchmarks.hyrax_side JOB.json

JOB.json names `images` (a folder with a file a band), `table` (its object_id, filter, filename),
`size_px`, `weights` of the network, `levels` of the stretch, `results` (Hyrax's folder),
`batch_size`, `k` (nearest of each object; 0: infer alone) and `answer`. ANSWER.json gets the
moments, Unix time, at which the embeddings were stored and the vector database was filled, and the
error that ended infer; ANSWER.npz the ids, the embeddings and the ids of the nearest.
"""

import json
import sys
import time
from math import asinh
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hyrax import Hyrax
from hyrax.datasets.result_factories import load_results_dataset
from hyrax.models import hyrax_model
from torch import Tensor, nn

from benchmarks.hyrax_net import Net

QUERIES = 512
"""Objects searched for in one call of the database."""


@hyrax_model
class InHyrax(nn.Module):
    """The network behind the stretch that astroray measured, as Hyrax asks for a model."""

    def __init__(self, config: dict[str, Any], data_sample: Any = None) -> None:
        super().__init__()
        self.config = config
        _, num_bands, size_px, _ = data_sample.shape
        self.net = Net(num_bands=num_bands, size_px=size_px)
        levels = config["model"]["InHyrax"]
        self.sky, self.noise, self.peak = (
            torch.tensor(levels[name], dtype=torch.float64).float().reshape(-1, 1, 1)
            for name in ("sky", "noise", "peak")
        )

    def forward(self, image: Tensor) -> Tensor:
        embedding: Tensor = self.net(self.stretched(image))
        return embedding

    def stretched(self, image: Tensor) -> Tensor:
        """Flux to 0..1, by asinh."""
        low = asinh(3.0)
        high = torch.asinh((self.peak - self.sky) / self.noise) + low
        return ((torch.asinh((image - self.sky) / self.noise) + low) / high).clamp(0, 1)

    def infer_batch(self, batch: Tensor) -> Tensor:
        return self(batch)

    def train_batch(self, batch: Tensor) -> dict[str, Tensor]:
        raise NotImplementedError("its weights are given")

    @staticmethod
    def prepare_inputs(data_dict: dict[str, Any]) -> Any:
        return data_dict["data"]["image"]


def configured(job: dict[str, Any]) -> Hyrax:
    """Hyrax with the job's images and network; what is not named here is as it comes."""
    hyrax = Hyrax()
    settings = {
        "general.results_dir": job["results"],
        "general.log_level": "error",
        "model.name": "InHyrax",
        "model.InHyrax": job["levels"],
        "data_request": {
            "infer": {
                "data": {
                    "dataset_class": "FitsImageDataset",
                    "data_location": job["images"],
                    "fields": ["image"],
                    "primary_id_field": "object_id",
                }
            }
        },
        "data_set.filter_catalog": job["table"],
        "data_set.crop_to": [job["size_px"]] * 2,
        "data_set.transform": False,
        "data_loader.batch_size": job["batch_size"],
        "infer.model_weights_file": job["weights"],
    }
    for key, value in settings.items():
        hyrax.set_config(key, value)
    return hyrax


def nearest(hyrax: Hyrax, results: Path, vector_ND: np.ndarray, k: int) -> tuple[float, list[Any]]:
    """When the database was filled, and the ids of the k nearest of each object, itself first."""
    hyrax.save_to_database(input_dir=results)
    saved_s = time.time()
    database = hyrax.database_connection()
    found: list[Any] = []
    for start in range(0, len(vector_ND), QUERIES):
        answer = database.search_by_vector(vector_ND[start : start + QUERIES], k=k + 1)
        found += [answer[at] for at in range(len(answer))]
    return saved_s, found


def main(path: str) -> None:
    """Does a job and writes its answer."""
    job = json.loads(Path(path).read_text("utf-8"))
    hyrax = configured(job)
    answer: dict[str, Any] = {"error": ""}
    try:
        hyrax.infer()
    except Exception as error:  # noqa: BLE001  # whatever it raises is its answer
        answer["error"] = f"{type(error).__name__}: {error}"
    answer["embedded_s"] = time.time()
    results = max(Path(job["results"]).glob("*-infer-*"))
    stored = load_results_dataset(hyrax.config, results, verb="infer")
    arrays: dict[str, Any] = {"ids": np.array(stored.ids()), "embedding": stored.__get_all__()}
    if job["k"]:
        answer["saved_s"], found = nearest(hyrax, results, arrays["embedding"], job["k"])
        arrays["nearest"] = np.array(found)
    np.savez(f"{job['answer']}.npz", **arrays)
    Path(f"{job['answer']}.json").write_text(json.dumps(answer), "utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
