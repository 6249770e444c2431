"""Triton without a GPU: its interpreter in a process of its own, its compiler in this one.

Triton decides when a kernel is decorated whether it is interpreted or compiled, so one process can
hold only one of the two. The child starts with TRITON_INTERPRET=1.
"""

import concurrent.futures
import contextlib
import importlib.util
import multiprocessing
import os
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed"
)
compiled_only = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET", "0") == "1",
    reason="TRITON_INTERPRET=1 is set, so this process cannot compile",
)


@contextlib.contextmanager
def interpreter() -> Iterator[Callable[..., Any]]:
    """What calls a function of a module, with its arguments, where Triton interprets."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, context, _start) as pool:
        yield lambda function, *arguments: pool.submit(function, *arguments).result()


def _start() -> None:
    os.environ["TRITON_INTERPRET"] = "1"  # of the child alone, before it imports triton
    torch.use_deterministic_algorithms(True)  # torch.empty is filled with NaN
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", RuntimeWarning)  # numpy's, where overflow is what is tested
    _give_scaled_products()


def _give_scaled_products() -> None:
    """Block-scaled products of MXFP4 for an interpreter without any, which is one before 3.9."""
    from triton._C.libtriton import ir
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    def create_dot_scaled(
        self: Any, a: Any, a_scale: Any, a_format: Any, b: Any, b_scale: Any, b_format: Any,
        fast_math: bool, a_k_pack: bool, b_k_pack: bool, total: Any,
    ) -> Any:  # fmt: skip
        assert (a_k_pack, b_k_pack) == (True, True)
        assert (a_format, b_format) == (ir.ScaleDotElemTypeTY.E2M1,) * 2
        a_MK, b_NK = _numbers(a.data, a_scale.data), _numbers(b.data.T, b_scale.data)
        return TensorHandle(a_MK @ b_NK.T + total.data, total.dtype.scalar)

    if not hasattr(InterpreterBuilder, "create_dot_scaled"):
        InterpreterBuilder.create_dot_scaled = create_dot_scaled


def _numbers(codes_MK: np.ndarray, scale_MG: np.ndarray) -> np.ndarray:
    """What packed E2M1 codes [M, K / 2] with E8M0 scales [M, K / 32] mean; scale 255 is NaN."""
    size = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
    codes_MK = np.stack([codes_MK & 15, codes_MK >> 4], axis=-1).reshape(len(codes_MK), -1)
    number_MK = np.concatenate([size, -size])[codes_MK]
    scale_MG = np.where(
        scale_MG == 255, np.nan, np.ldexp(np.float32(1), scale_MG.astype(int) - 127)
    )
    return number_MK * np.repeat(scale_MG.astype(np.float32), 32, axis=1)
