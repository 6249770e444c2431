"""Which code runs an operation: the one table of backends, and the choice among them.

A new backend is one module and one entry of `BACKENDS`. The module holds the function and says
what it can do:

    why_not(device)   the reason why it cannot run on that device, in words; "" where it can
    PRECISIONS        the precisions, or number formats, that it has
    DIMS              the head dimensions that it takes; any, where the constant is left out
    DTYPES            the dtypes that it takes; any, where left out
    ESTIMATES         the estimates of the row maximum that it has; any, where left out
    SKIPS             False where it cannot skip tiles; True, where left out
    refuses(precision)  the reason why this machine lacks one of PRECISIONS; none, where left out
"""

import dataclasses
import functools
import importlib
import logging
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch

BACKENDS = {
    "vfa_attention": {
        "triton": "vfa._triton:vfa_attention",
        "native": "vfa._native:vfa_attention",
        "sdpa": "vfa._sdpa:vfa_attention",
        "reference": "vfa.reference:vfa_attention",
    },
    "nearest_vectors": {
        "native": "knn._native:nearest_vectors",
        "reference": "knn.reference:nearest_vectors",
    },
    "osc_linear": {
        "triton": "osc._triton:osc_linear",
        "native": "osc._native:osc_linear",
        "reference": "osc.reference:osc_linear",
    },
    "osc_mlp": {
        "triton": "osc._triton:osc_mlp",
        "native": "osc._native:osc_mlp",
        "reference": "osc.reference:osc_mlp",
    },
    "quantize_activations": {
        "triton": "osc._triton:quantize_activations",
        "native": "osc._native:quantize_activations",
        "reference": "osc.reference:quantize_activations",
    },
}

# On a GPU nothing stands in for Triton: the reference would be a hundred times slower there and
# look like a slow cluster.
_AUTO = {"cuda": ("triton",), "cpu": ("native", "sdpa", "reference")}

_log = logging.getLogger(__name__)


class BackendError(Exception):
    """This machine lacks the backend that was asked for; takes one message."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Need:
    """What a call asks of a backend. None means not known yet, and is not looked at."""

    precision: str = "bf16"
    skip: float | None = None
    """The threshold of VSA in nats; None is VFA, which any backend can do."""
    estimate: str = "auto"
    dim: int | None = None
    dtype: torch.dtype | None = None


def select(
    op: str, device: torch.device | str, backend: str = "auto", need: Need | None = None
) -> Callable[..., Any]:
    """The function that runs `op`; imports the one module that holds it, with "auto" those asked.

    Without `need` only the device counts. A backend's function takes checked arguments, all of
    them explicit, as `vfa.reference` describes; what it takes beyond those is for tests and
    benchmarks. Users call `vfa_attention`.
    Raises BackendError with the reason where the machine cannot run it.
    """
    name = resolved(op, device, backend, need)
    _, _, attribute = _home(op, name).partition(":")
    function: Callable[..., Any] = getattr(_module(op, name), attribute)
    return function


def resolved(
    op: str, device: torch.device | str, backend: str = "auto", need: Need | None = None
) -> str:
    """The name of the backend that runs `op`: what "auto" becomes here, or `backend` itself.

    A model asks once when it loads, keeps the name in its run record and passes it on, so a
    machine that cannot run it fails in its first second. On CUDA "auto" is Triton; on a CPU the
    native code, else torch's scaled_dot_product_attention, else the reference, the first of them
    that has what `need` asks for.
    Raises BackendError with the reason where the machine cannot run it.
    """
    device = torch.device(device)
    if backend == "auto":
        return _auto(op, device, need)
    if reason := why_not(op, backend, device, need):
        raise BackendError(
            f"{op} cannot run with backend {backend!r} on {device}: {reason}; "
            f"ask for backend='auto' to get what this machine can run"
        )
    return backend


def why_not(op: str, backend: str, device: torch.device | str, need: Need | None = None) -> str:
    """Why `backend` cannot run `op` on that device, in words; "" where it can."""
    _home(op, backend)  # a name that the table lacks is a mistake, not a property of the machine
    try:
        module = _module(op, backend)
    except ImportError as error:
        return f"its module cannot be imported ({error})"
    reason: str = module.why_not(torch.device(device))
    return reason or ("" if need is None else _lacks(module, need))


@functools.cache  # so each choice is made, and logged, once in a process
def _auto(op: str, device: torch.device, need: Need | None) -> str:
    if device.type not in _AUTO:
        raise BackendError(
            f"{op} on {device}: 'auto' knows {' and '.join(sorted(_AUTO))}; "
            f"name a backend: {', '.join(BACKENDS[op])}"
        )
    passed: list[str] = []
    for backend in _AUTO[device.type]:
        if backend not in BACKENDS[op]:
            continue
        reason = why_not(op, backend, device, need)
        if not reason:
            because = f" ({'; '.join(passed)})" if passed else ""
            _log.info("%s on %s%s: %s%s", op, device, _words(need), backend, because)
            return backend
        passed.append(f"{backend}: {reason}")
    advice = ""
    if device.type == "cuda":
        advice = "; the reference runs here, slowly, when asked for by name: backend='reference'"
    raise BackendError(f"{op} has no backend on {device}: {'; '.join(passed)}{advice}")


def _words(need: Need | None) -> str:
    known = {} if need is None else dataclasses.asdict(need)
    return "".join(f", {name} {value}" for name, value in known.items() if value is not None)


def _lacks(module: ModuleType, need: Need) -> str:
    estimate = None if need.estimate == "auto" else need.estimate
    for what, wanted, has in (
        ("precision", need.precision, module.PRECISIONS),
        ("head dimension", need.dim, getattr(module, "DIMS", None)),
        ("dtype", need.dtype, getattr(module, "DTYPES", None)),
        ("estimate", estimate, getattr(module, "ESTIMATES", None)),
    ):
        if wanted is not None and has is not None and wanted not in has:
            choices = ", ".join(str(one) for one in has) or "'auto' only"
            return f"{what} {wanted} is not among what it has ({choices})"
    if refuses := getattr(module, "refuses", None):
        reason: str = refuses(need.precision)
        if reason:
            return reason
    if need.skip is not None and not getattr(module, "SKIPS", True):
        return f"it cannot skip tiles (skip={need.skip})"
    return ""


def _home(op: str, backend: str) -> str:
    if op not in BACKENDS:
        raise ValueError(f"op is {op!r}, expected one of {', '.join(BACKENDS)}")
    if backend not in BACKENDS[op]:
        raise ValueError(
            f"{op}: backend is {backend!r}, expected one of auto, {', '.join(BACKENDS[op])}"
        )
    return BACKENDS[op][backend]


def _module(op: str, backend: str) -> ModuleType:
    path, _, _ = _home(op, backend).partition(":")
    return importlib.import_module(f"astroray_kernels.{path}")
