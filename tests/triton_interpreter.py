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
