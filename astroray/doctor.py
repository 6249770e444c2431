"""What this machine has for astroray: cores, memory, GPU, FAISS, kernels, Triton, S3."""

import dataclasses
import importlib.metadata
import importlib.util
import os
import shutil
import tempfile

from astroray import provenance
from astroray.execution import session_folder
from astroray.execution.workers import CPUS_PER_WORKER

NEEDED_MEMORY_BYTES = 4 * 2**30
NEEDED_SHM_BYTES = 256 * 2**20
NEEDED_SCRATCH_BYTES = 2**30
COPIES_OF_INDEX = 2
"""Sizes of an index that a machine needs for what it keeps of it."""
EXAMPLE_DIM = 256


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing looked at."""

    what: str
    ok: bool
    required: bool
    """A scan cannot run without it."""
    text: str


def examine() -> list[Finding]:
    """All findings, required ones first."""
    machine = provenance.machine()
    cores, memory_bytes = machine.cores, machine.memory_bytes
    return [
        _finding("processor", True, f"{machine.cpu}, {cores} cores"),
        _finding(
            "workers",
            cores >= 1,
            f"{max(1, int(cores))} at {CPUS_PER_WORKER} CPU each with --workers auto; "
            f"--workers above {int(cores / CPUS_PER_WORKER)} is refused, since Ray would wait",
        ),
        _finding(
            "memory",
            memory_bytes >= NEEDED_MEMORY_BYTES,
            f"{memory_bytes / 2**30:.1f} GiB, a scan wants {NEEDED_MEMORY_BYTES / 2**30:.0f}",
        ),
        _finding("scratch", *_scratch()),
        _optional("temporary files", *_temporary_files()),
        _finding("shared memory", *_shared_memory()),
        _finding("FAISS", *_faiss()),
        _finding("torch", *_package("torch")),
        _finding("Ray", *_package("ray")),
        _optional("GPU", *_gpu()),
        _optional("attention", *_kernel("vfa_attention", _device())),
        _optional("fewer bits", *_kernel("osc_linear", _device())),
        _optional("exact neighbors", *_kernel("nearest_vectors", "cpu")),
        _optional("Triton", *_package("triton")),
        _optional("ONNX Runtime", *_onnx_runtime()),
        _optional("S3", *_s3()),
        _optional("LSDB", *_package("lsdb")),
    ]


def _finding(what: str, ok: bool, text: str) -> Finding:
    return Finding(what=what, ok=ok, required=True, text=text)


def _optional(what: str, ok: bool, text: str) -> Finding:
    return Finding(what=what, ok=ok, required=False, text=text)


def _package(name: str) -> tuple[bool, str]:
    if importlib.util.find_spec(name) is None:
        return False, f"not installed: pip install {name}"
    return True, importlib.metadata.version(name)


def _faiss() -> tuple[bool, str]:
    if importlib.util.find_spec("faiss") is None:
        return False, "not installed: pip install 'astroray[cpu]', or 'astroray[gpu]'"
    versions = provenance.versions()
    names = [name for name in ("faiss-cpu", "faiss-gpu-cu12") if name in versions]
    return True, ", ".join(f"{name} {versions[name]}" for name in names)


def _onnx_runtime() -> tuple[bool, str]:
    if importlib.util.find_spec("onnxruntime") is None:
        return False, "not installed, for networks of your own: pip install 'astroray[onnx]'"
    import onnxruntime

    return True, f"{onnxruntime.__version__}: {', '.join(onnxruntime.get_available_providers())}"


def _gpu() -> tuple[bool, str]:
    import torch

    if not torch.cuda.is_available():
        return False, "none that torch can use; encoders run on the CPU"
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return True, ", ".join(names)


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _kernel(op: str, device: str) -> tuple[bool, str]:
    """Whether the fast code for an operation of `astroray_kernels` runs here, and on what."""
    from astroray_kernels import BackendError, library, resolved, why_not

    fast = {"cuda": "triton", "cpu": "native"}[device]
    try:
        backend = resolved(op, device)
    except BackendError as error:
        return False, str(error)
    if backend == fast:
        path = f" ({library.path(op)})" if backend == "native" else ""
        return True, f"{backend}, on {device}{path}"
    reason = why_not(op, fast, device)
    return False, f"{backend}, on {device}; not {fast}: {reason}"


def _scratch() -> tuple[bool, str]:
    folder = session_folder.parent()
    free_bytes = shutil.disk_usage(folder).free
    return free_bytes > NEEDED_SCRATCH_BYTES, f"{free_bytes / 2**30:.1f} GiB free in {folder}"


def _temporary_files() -> tuple[bool, str]:
    """Whether sorted tables, and a search's copies of an index on S3, have room here."""
    folder = tempfile.gettempdir()
    free_bytes = shutil.disk_usage(folder).free
    objects = free_bytes // (COPIES_OF_INDEX * 4 * EXAMPLE_DIM)
    return free_bytes > NEEDED_SCRATCH_BYTES, (
        f"{free_bytes / 2**30:.1f} GiB free in {folder} (TMPDIR): the index of a run on S3 is "
        f"copied here, of about {objects / 1e6:.0f} million objects at {EXAMPLE_DIM} numbers each"
    )


def _shared_memory() -> tuple[bool, str]:
    if not os.path.isdir("/dev/shm"):
        return True, "no /dev/shm here; Ray uses its scratch folder"
    free_bytes = shutil.disk_usage("/dev/shm").free
    return free_bytes >= NEEDED_SHM_BYTES, (
        f"{free_bytes / 2**20:.0f} MiB free in /dev/shm, Ray wants "
        f"{NEEDED_SHM_BYTES / 2**20:.0f}; give a container --shm-size=1g"
    )


def _s3() -> tuple[bool, str]:
    import boto3

    session = boto3.Session()
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    where = endpoint or "AWS's own endpoint"
    if session.get_credentials() is None:
        return False, f"no credentials for {where}; set them as for boto3 or the AWS CLI"
    return True, f"credentials found for {where}"
