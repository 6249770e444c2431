"""What differs on a GPU: pinned copies, a stream, pieces where memory does not suffice."""

import numpy as np
import pytest
import torch

from astroray import surveys
from astroray.actors.encode import BatchEncoder
from astroray.actors.fit import finish_model
from astroray.actors.sample import SamplePlan, draw_sample
from astroray.preparation import Wishes

pytestmark = pytest.mark.gpu
SURVEY = "sim:galaxies?count=40&size=32&shard_rows=40"


@pytest.fixture(scope="module")
def model_path(tmp_path_factory):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device that torch can use")
    folder = str(tmp_path_factory.mktemp("model"))
    plan = SamplePlan(folder=folder, max_rows=40, wishes=Wishes(size_px=32), seed=0)
    sample = draw_sample(surveys.list_shards(SURVEY).shards, plan)
    path = f"{folder}/model.safetensors"
    torch.manual_seed(0)
    finish_model(sample, path=path, encoder="cae", config={"num_bands": 3, "size_px": 32})
    return path


def encode(model_path, device):
    image_BCYX = np.random.default_rng(0).uniform(0, 1, (21, 3, 32, 32)).astype(np.float32)
    encoder = BatchEncoder(model_path=model_path, batch_size=8, device=device, num_threads=1)
    return np.concatenate([encoder.push(image_BCYX), encoder.flush()])


def test_a_gpu_gives_the_cpu_s_embeddings_within_float32(model_path):
    np.testing.assert_allclose(
        encode(model_path, "cuda"), encode(model_path, "cpu"), rtol=1e-2, atol=1e-3
    )


def test_batches_wait_in_pinned_memory(model_path):
    encoder = BatchEncoder(model_path=model_path, batch_size=8, device="cuda", num_threads=1)
    assert encoder._batch_BCYX.is_pinned()
    assert encoder._stream != torch.cuda.default_stream()
