"""The benchmark of quantized layers: its rows from known times, and its turns on small inputs."""

import numpy as np
import pytest
import torch

from astroray_kernels import why_not
from benchmarks import osc_speed, osc_turns
from benchmarks.osc_speed import BFLOAT16, INT8, W8A8O, Claim
from benchmarks.rows import MeasurementError

NATIVE = why_not("osc_linear", "native", "cpu")
needs_native = pytest.mark.skipif(bool(NATIVE), reason=NATIVE or "native kernels run")
CLAIM = Claim(what="a claim", ours=W8A8O, peer=INT8, goal=1.0)


def turns(name, ours, peer, error=0.003):
    return osc_turns.Turns(
        name=name,
        operations=2e9,
        seconds={W8A8O: ours, INT8: peer, BFLOAT16: peer},
        error={W8A8O: error, INT8: 0.1, BFLOAT16: 0.002},
        peak_gops=4.0,
    )


def test_a_ratio_is_the_geometric_mean_of_the_layers_in_each_round():
    fields = CLAIM.fields([turns("a", [1.0, 1.0], [2.0, 4.0]), turns("b", [1.0, 2.0], [8.0, 2.0])])
    np.testing.assert_allclose([fields["low"], fields["high"]], [2.0, 4.0])
    assert fields["runs"] == 2
    assert fields["facts"]["a_gops"] == pytest.approx(2.0)
    assert fields["facts"]["a_share_of_peak"] == pytest.approx(0.5)
    assert fields["limit"] == pytest.approx(4.0)  # the peer runs at 1 and 1 of 4


def test_a_layer_that_is_too_wrong_is_not_timed():
    with pytest.raises(MeasurementError, match=r"error of int8 with outliers is 0.0041 in a, exp"):
        CLAIM.fields([turns("a", [1.0], [1.0], error=0.0041)])


def test_a_peer_that_is_not_installed_is_a_reason():
    claim = Claim(what="a claim", ours=W8A8O, peer="onnxruntime int8", goal=None)
    with pytest.raises(MeasurementError, match="onnxruntime int8 is not installed"):
        claim.fields([turns("a", [1.0], [1.0])])


def test_claims_differ_in_words_and_goals_are_of_what_is_claimed():
    found = [*osc_speed.layer_claims(), *osc_speed.block_claims()]
    said = [claim.row(threads)(value=1.0).what for claim in found for threads in (1, 2)]
    assert len(set(said)) == len(said)
    goals = [claim.goal for claim in osc_speed.block_claims() if claim.goal]
    assert sorted(goals) == sorted(2 * list(osc_speed.BLOCK_GOALS.values()))


@needs_native
def test_layers_and_blocks_take_turns_and_are_near_their_originals():
    threads = torch.get_num_threads()
    try:
        (layer,) = osc_turns.linear_turns([(384, 64)], 48, 1, 2)
        (block,) = osc_turns.block_turns([16], 32, 384, 1, 1)
    finally:
        torch.set_num_threads(threads)
    assert all(len(seconds) == 2 for seconds in layer.seconds.values())
    assert layer.error[W8A8O] < 2 * layer.error[BFLOAT16] < layer.error[INT8]
    ours = [name for name in osc_speed.BLOCKS if name in block.seconds]
    assert len(ours) >= 2  # of int8_qk VFA AVX2 has none
    assert all(block.error[name] < osc_speed.BLOCKS[name] for name in ours)
