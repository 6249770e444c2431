"""Workers that share a fit of a forecaster learn what one alone does, and agree when it ends."""

import multiprocessing

import numpy as np
import pytest
import torch

from astroray.forecast.fit import Crew, FitPlan, ForecasterState, fit_forecaster
from astroray.forecast.model import ForecasterConfig
from astroray.forecast.simulated_stars import SimulatedStars
from tests.forecasters_made import split_windows

STARS = SimulatedStars(has_precursor=True, num_stars=6, days=40.0, max_rate=0.5)
SMALL = ForecasterConfig(width=16, num_layers=1, num_heads=2, dropout=0.0)
PLAN = FitPlan(network=SMALL, pretrain_passes=1, num_passes=2, batch_size=32)


def fit_as(rank, num_workers, meeting, results):
    """One worker of a crew puts its state into the results, and how many windows it judged."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=rank, world_size=num_workers
    )
    train, validation = split_windows(STARS)
    asked = []  # windows of validation that this worker was asked for
    taken = type(validation).take

    def take(windows, index_V):
        asked.append(len(index_V))
        return taken(windows, index_V)

    state = ForecasterState()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(validation), "take", take)
        fit_forecaster(train, validation, PLAN, state=state, crew=Crew(rank=rank, num_workers=2))
    torch.distributed.destroy_process_group()
    weights = {name: value.numpy() for name, value in state.best.items()}
    results.put((rank, state.losses, state.auprcs, weights, sum(asked), len(validation)))


@pytest.mark.timeout(60)
def test_two_workers_learn_what_one_alone_does_and_judge_each_window_once(tmp_path):
    """One of them is this process, which is spared a start and the imports of another."""
    context = multiprocessing.get_context("spawn")
    results, num_threads = context.Queue(), torch.get_num_threads()
    other = context.Process(target=fit_as, args=(1, 2, tmp_path / "meeting", results))
    other.start()
    fit_as(0, 2, tmp_path / "meeting", results)
    first, second = sorted((results.get(timeout=50) for _ in range(2)), key=lambda found: found[0])
    other.join()
    torch.set_num_threads(num_threads)
    alone = ForecasterState()
    fit_forecaster(*split_windows(STARS), PLAN, state=alone)
    assert first[2] == second[2] == pytest.approx(alone.auprcs, abs=0.01)
    assert first[1] == pytest.approx(alone.losses, rel=0.02)
    for name, value in first[3].items():
        assert np.array_equal(value, second[3][name])
        assert value == pytest.approx(alone.best[name].numpy(), abs=0.02)
    assert first[4] + second[4] == first[5]
