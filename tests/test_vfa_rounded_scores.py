"""Scores of bfloat16, which the native library forms by AMX alone, by products of any CPU."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from astroray_kernels import library
from astroray_kernels.vfa import _native
from tests.attention_inputs import INPUTS, exact, make_inputs, relative_error, torch_error

NATIVE = Path(library.__file__).parent / "native"
COMPILER = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), "")
FLAGS = ["-std=c++17", "-O2", "-mavx2", "-mfma", "-mf16c", "-fopenmp", "-fPIC", "-shared"]

pytestmark = pytest.mark.skipif(
    not (COMPILER and library.features() & library.HAS_AVX2),
    reason="no C++ compiler, or no AVX2",
)


@pytest.fixture(scope="module")
def attend(tmp_path_factory):
    """The kernel of bfloat16_scores.cpp."""
    built = tmp_path_factory.mktemp("scores") / "scores.so"
    source = Path(__file__).with_name("bfloat16_scores.cpp")
    subprocess.run([COMPILER, *FLAGS, "-iquote", NATIVE, source, "-o", built], check=True)
    return ctypes.CDLL(built).attend


@pytest.fixture
def tried(attend, monkeypatch):
    """The library as on a CPU with AMX, whose products the kernel makes; the kinds that ran."""
    features, run, kinds = library.features(), _native._run, []

    def take(call, score, value):
        kinds.append(score)
        if score == _native._BFLOAT16_SCORES:
            call.score, call.value = score, value
            assert attend(ctypes.byref(call)) == 0
            return list(call.facts)
        with pytest.MonkeyPatch.context() as plain:
            plain.setattr(library, "features", lambda: features)
            return run(call, score, _native._VALUES[library.value_format()])

    monkeypatch.setattr(library, "features", lambda: features | library.HAS_AMX)
    monkeypatch.setattr(_native, "_run", take)
    return kinds


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", INPUTS)
def test_errors_of_rounded_scores_are_at_most_twice_those_of_torch(name, dtype, tried):
    for length, dim in [(320, 64), (65, 128), (130, 32), (40, 96)]:
        made = make_inputs(name, batch=1, length=length, dim=dim, dtype=dtype)
        bar = 2 * torch_error(*made, torch.bfloat16)
        for estimate in (*_native.ESTIMATES, _native.ONLINE):
            got, _ = _native.vfa_attention(*made, scale=dim**-0.5, estimate=estimate)
            assert relative_error(got, exact(*made)) <= bar, (length, dim, estimate)
    assert _native._BFLOAT16_SCORES in tried


def test_keys_that_take_no_part_leave_rounded_scores_as_they_are(tried):
    q, k, v = make_inputs("random", length=100)
    k[:, :, 70:], v[:, :, 70:] = torch.nan, torch.inf
    mask = torch.arange(100).expand(2, 100) < 70
    got, _ = _native.vfa_attention(q, k, v, scale=0.125, mask_BN=mask)
    assert relative_error(got, exact(q, k[:, :, :70], v[:, :, :70])) <= 0.006
    assert tried == [_native._BFLOAT16_SCORES]
