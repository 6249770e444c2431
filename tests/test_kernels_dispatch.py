"""The table of backends: what it names, what `auto` takes, and what it says where nothing runs."""

import ast
import logging
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

import astroray_kernels
from astroray_kernels import BackendError, Need, dispatch, resolved, select, why_not

PACKAGE = Path(astroray_kernels.__file__).parent
OP = "vfa_attention"
HOMES = [(op, backend) for op, homes in dispatch.BACKENDS.items() for backend in homes]
ARGUMENTS = {
    OP: ["q_BHND", "k_BHND", "v_BHND", "scale", "mask_BN", "precision", "skip", "estimate"],
    "nearest_vectors": ["query_GD", "vector_VD", "k", "exclude_G", "within_G", "cells", "label_V"],
    "osc_linear": ["x_MK", "packed", "activation", "norm"],
    "osc_mlp": ["x_MK", "first", "second", "activation", "norm"],
    "quantize_activations": ["x_MK", "packed", "norm"],
}


@pytest.fixture
def stand_ins(monkeypatch):
    """Makes modules that stand in for backends, by name, and forgets what `auto` became."""

    def make(backend, *, reason="", precisions=("fp32", "bf16"), **limits):
        path = dispatch.BACKENDS[OP][backend].partition(":")[0]
        module = ModuleType(f"astroray_kernels.{path}")
        module.why_not = lambda device: reason
        module.PRECISIONS = precisions
        module.vfa_attention = lambda *tensors, **options: backend
        for name, value in limits.items():
            setattr(module, name.upper(), value)
        monkeypatch.setitem(sys.modules, module.__name__, module)

    dispatch._auto.cache_clear()
    yield make
    dispatch._auto.cache_clear()


def definitions(op, backend):
    """The functions and constants of a backend's module, found without its dependencies."""
    file = PACKAGE / (dispatch.BACKENDS[op][backend].partition(":")[0].replace(".", "/") + ".py")
    if not file.exists():
        pytest.skip(f"{file.name} is not part of this installation")
    found = {}
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.FunctionDef):
            found[node.name] = [a.arg for a in (*node.args.args, *node.args.kwonlyargs)]
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= dict.fromkeys(t.id for t in targets if isinstance(t, ast.Name))
        elif isinstance(node, ast.ImportFrom):
            found |= dict.fromkeys(name.asname or name.name for name in node.names)
    return found


@pytest.mark.parametrize(("op", "backend"), HOMES)
def test_the_table_names_functions_that_exist_and_whose_signatures_begin_alike(op, backend):
    found = definitions(op, backend)
    name = dispatch.BACKENDS[op][backend].partition(":")[2]
    assert found[name][: len(ARGUMENTS[op])] == ARGUMENTS[op]
    assert found["why_not"] == ["device"]
    assert "PRECISIONS" in found


def test_every_op_has_a_reference():
    for homes in dispatch.BACKENDS.values():
        assert "reference" in homes


def test_public_names_are_documented_and_others_are_refused():
    for name in astroray_kernels.__all__:
        assert getattr(astroray_kernels, name).__doc__
    with pytest.raises(AttributeError, match="has no attribute 'nothing', only"):
        _ = astroray_kernels.nothing


def test_importing_the_package_loads_no_torch_and_a_choice_only_the_module_it_needs():
    code = """
import sys
import astroray_kernels
assert "torch" not in sys.modules
astroray_kernels.select("vfa_attention", "cpu", "sdpa")
loaded = sorted(name for name in sys.modules if name.startswith("astroray_kernels.vfa."))
assert loaded == ["astroray_kernels.vfa._sdpa"], loaded
assert "triton" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_auto_on_a_cpu_is_native_then_sdpa_then_the_reference(stand_ins):
    stand_ins("native")
    stand_ins("reference")
    assert resolved(OP, "cpu") == "native"
    assert select(OP, "cpu")() == "native"
    dispatch._auto.cache_clear()
    stand_ins("native", reason="it was not built")
    assert resolved(OP, "cpu") == "sdpa"
    assert resolved(OP, "cpu", need=Need(precision="fp32", skip=2.0)) == "reference"


@pytest.mark.parametrize(
    "need",
    [
        Need(precision="int8"),
        Need(dim=40),
        Need(dtype=torch.float64),
        Need(estimate="exact"),
        Need(skip=4.0),
    ],
    ids=str,
)
def test_auto_goes_on_where_a_backend_lacks_what_a_call_needs(stand_ins, need):
    stand_ins("native", dims=(64,), dtypes=(torch.float32,), estimates=("sink_local",), skips=False)
    stand_ins("sdpa", reason="it stands aside")
    stand_ins("reference", precisions=("bf16", "int8"))
    assert resolved(OP, "cpu", need=Need(dim=64, dtype=torch.float32)) == "native"
    assert resolved(OP, "cpu", need=need) == "reference"


def test_auto_on_cuda_is_triton_or_an_error_and_never_the_reference(stand_ins):
    stand_ins("reference")
    stand_ins("triton")
    assert resolved(OP, "cuda") == "triton"
    dispatch._auto.cache_clear()
    stand_ins("triton", reason="triton is not installed")
    with pytest.raises(BackendError, match="no backend on cuda: triton: triton is not installed"):
        resolved(OP, torch.device("cuda"))
    assert resolved(OP, "cuda", "reference") == "reference"


def test_auto_on_another_kind_of_device_asks_for_a_name():
    with pytest.raises(BackendError, match="on mps: 'auto' knows cpu and cuda; name a backend"):
        resolved(OP, "mps")
    assert resolved(OP, "mps", "sdpa") == "sdpa"


def test_auto_where_nothing_runs_gives_every_reason(stand_ins):
    stand_ins("native", reason="no compiler was found")
    stand_ins("reference", precisions=("bf16",))
    with pytest.raises(BackendError) as caught:
        resolved(OP, "cpu", need=Need(precision="mxfp4"))
    assert "native: no compiler was found; sdpa: precision mxfp4" in str(caught.value)
    assert "reference: precision mxfp4 is not among what it has (bf16)" in str(caught.value)


def test_a_backend_asked_for_by_name_runs_or_says_why_not(stand_ins):
    stand_ins("native", reason="this CPU has no AVX-512")
    assert why_not(OP, "native", "cpu") == "this CPU has no AVX-512"
    with pytest.raises(BackendError, match=r"'native' on cpu: this CPU has no AVX-512; ask for"):
        select(OP, "cpu", "native")


def test_a_module_that_cannot_be_imported_is_a_reason_and_no_crash(monkeypatch):
    monkeypatch.setitem(sys.modules, "astroray_kernels.vfa._triton", None)
    assert "cannot be imported" in why_not(OP, "triton", "cuda")
    with pytest.raises(BackendError, match="cannot be imported"):
        select(OP, "cuda", "triton")


@pytest.mark.parametrize(
    ("need", "reason"),
    [
        (Need(precision="int8"), "precision int8 is not among what it has (fp32, bf16)"),
        (Need(dtype=torch.float64), "dtype torch.float64 is not among what it has"),
        (Need(estimate="exact"), "estimate exact is not among what it has ('auto' only)"),
        (Need(skip=2.0), "it cannot skip tiles (skip=2.0)"),
        (Need(precision="fp32", dim=40), ""),
    ],
    ids=str,
)
def test_torch_s_own_attention_says_what_it_lacks(need, reason):
    got = why_not(OP, "sdpa", "cpu", need)
    assert got.startswith(reason) if reason else not got


def test_what_auto_became_is_logged_once_with_the_reasons(stand_ins, caplog):
    stand_ins("native", reason="it was not built")
    with caplog.at_level(logging.INFO, logger="astroray_kernels.dispatch"):
        for _ in range(3):
            resolved(OP, "cpu", need=Need(dim=64))
        resolved(OP, "cpu", need=Need(dim=32))
    assert [record.getMessage() for record in caplog.records] == [
        f"vfa_attention on cpu, precision bf16, estimate auto, dim {dim}: "
        f"sdpa (native: it was not built)"
        for dim in (64, 32)
    ]


def test_unknown_names_are_the_caller_s_mistake():
    with pytest.raises(ValueError, match="op is 'vfa', expected one of vfa_attention"):
        select("vfa", "cpu", "sdpa")
    with pytest.raises(ValueError, match="backend is 'cuda', expected one of auto, triton"):
        why_not(OP, "cuda", "cpu")
