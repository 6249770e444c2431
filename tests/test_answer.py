"""Encoding uploads for several runs at once: each with its own model, in any company."""

import numpy as np
import pytest

from astroray.actors.answer import MAX_MODELS, Answerer
from astroray.actors.run_model import RunModel
from astroray.encoders import read_model_file
from tests.scans import fit_model


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    paths = [
        fit_model(f"sim:galaxies?count=64&seed={seed}", folder / f"m{seed}.safetensors")
        for seed in range(MAX_MODELS + 1)
    ]
    return [RunModel(path=path, model_id=read_model_file(path).model_id) for path in paths]


def test_every_upload_gets_the_answer_of_its_own_model_alone_or_in_company(models):
    image_BCYX = np.random.default_rng(0).random((6, 3, 16, 16), np.float32)
    requests = [(models[i % len(models)], image) for i, image in enumerate(image_BCYX)]
    answerer = Answerer(device="cpu", num_threads=1)
    together = answerer.embed(requests)
    for request, embedding_D in zip(requests, together, strict=True):
        alone = Answerer(device="cpu", num_threads=1).embed([request])[0]
        np.testing.assert_allclose(embedding_D, alone, atol=1e-5)
    assert len({embedding.tobytes() for embedding in together}) == len(requests)


def test_no_more_models_are_held_than_two_runs_need(models):
    answerer = Answerer(device="cpu", num_threads=1)
    for model in models:
        answerer.load(model)
    assert list(answerer._models) == models[-MAX_MODELS:]
