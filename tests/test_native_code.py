"""The native library as a file: why it cannot run somewhere, and the machine code of its loops.

A compiler that spills the sums of a register tile costs 40 % of its speed and says nothing.
"""

import _ctypes
import hashlib
import re
import shutil
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from astroray_kernels import BackendError, dispatch, library
from astroray_kernels.vfa import _native

PRODUCTS = {
    "vfmadd231ps": library.HAS_AVX512,
    "vpmaddwd": library.HAS_AVX2,
    "vpmaddubsw": library.HAS_AVX2,
    "vpdpwssd": library.HAS_AVX512,
    "vpdpbusd": library.HAS_AVX512,
    "vdpbf16ps": library.HAS_BFLOAT16,
    "vfmadd231ph": library.HAS_FLOAT16,
}
"""The instruction of each product, and the feature of a CPU that it belongs to."""

INTERFACE_DIGEST = "52df939198d93bc5"
"""Of the headers that Python's structures and layouts follow, at the present number."""

WHY_NOT = _native.why_not(torch.device("cpu"))
needs_library = pytest.mark.skipif(bool(WHY_NOT), reason=f"backend native: {WHY_NOT}")
needs_code = pytest.mark.skipif(
    not library.LIBRARY.is_file() or shutil.which("objdump") is None,
    reason="objdump is missing (it comes with binutils), or the library was not built",
)


class Instruction(NamedTuple):
    """One line of a listing."""

    address: int
    name: str
    operands: str
    function: str


@pytest.fixture(scope="module")
def code():
    """All instructions of the library, in order."""
    listing = subprocess.run(
        ["objdump", "-d", "--no-show-raw-insn", library.LIBRARY],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    found, function = [], ""
    for line in listing.splitlines():
        if header := re.match(r"[0-9a-f]+ <(.*)>:$", line):
            function = header[1]
        elif parts := re.match(r" *([0-9a-f]+):\s+(\S+) *([^#]*)", line):
            found.append(Instruction(int(parts[1], 16), parts[2], parts[3].strip(), function))
    return found


@pytest.fixture(scope="module")
def loops(code):
    """The innermost loops: from where a jump leads back to, to the jump; no other in between."""
    place = {instruction.address: i for i, instruction in enumerate(code)}
    found, latest = [], -1
    for end, instruction in enumerate(code):
        target = re.match(r"([0-9a-f]+)( |$)", instruction.operands)
        if not instruction.name.startswith("j") or target is None:
            continue
        begin = place.get(int(target[1], 16), end + 1)
        if begin > end or code[begin].function != instruction.function:
            continue
        if begin > latest:
            found.append(code[begin : end + 1])
            latest = begin
    return found


def names(loop):
    return Counter(instruction.name for instruction in loop)


def weighs(loop):
    """Whether a loop computes exponentials, of which vscalefps is the last step, or, on AVX2, the
    power of two that is made of an integer."""
    return "vscalefps" in names(loop) or {"vroundps", "vpslld"} <= names(loop).keys()


def scales_groups(loop):
    """Whether a loop scales the sums that AMX's tiles left of groups of 4-bit numbers."""
    return names(loop)["vbroadcastss"] >= 8 and names(loop)["vmulps"] >= 16


def adds_excess(loop):
    """Whether a loop multiplies what was taken off the weights of a layer of 8 bits on AVX2."""
    return "add_excess" in loop[0].function


def packs_rows(loop):
    """Whether a loop takes a row of q, k or v at once: up to 128 numbers, which are all registers
    of AVX2, once for each row."""
    return "with_row" in loop[0].function


@pytest.fixture(scope="module")
def stack_uses(code):
    """A function that gives the instructions of a loop which read or write the stack."""
    framed = {
        one.function for one in code if (one.name, one.operands) == ("mov", "%rsp,%rbp")
    }  # in other functions rbp is a register like any other

    def uses(loop):
        stack = "%rsp|%rbp" if loop[0].function in framed else "%rsp"
        return [one for one in loop if re.search(rf"\(({stack})|,({stack}),\d\)", one.operands)]

    return uses


@needs_code
def test_register_tiles_hold_their_sums_in_registers(loops, stack_uses):
    features = library.features()
    sizes = {name: set() for name, feature in PRODUCTS.items() if features & feature}
    for loop in loops:
        counts = names(loop)
        products = {name: counts[name] for name in PRODUCTS if counts[name]}
        if products.get("vpmaddubsw") == 2 * products.get("vpmaddwd", 0):
            products.pop("vpmaddwd", None)  # which adds what vpmaddubsw has multiplied
        if sum(products.values()) < 8 or packs_rows(loop):
            continue
        if weighs(loop) or scales_groups(loop) or adds_excess(loop):
            continue
        where = f"{loop[0].function} at {loop[0].address:#x}: {counts}"
        assert len(products) == 1, where
        name, count = products.popitem()
        assert count in (8, 12, 16, 18, 24), where
        assert not stack_uses(loop), where
        others = counts.keys() - {name}
        assert not any(other.startswith(("vmax", "vmul", "vfm", "vpdp")) for other in others), where
        assert not any(re.match(r"%.mm\d+,.*\)$", one.operands) for one in loop), where  # stores
        sizes.setdefault(name, set()).add(count)
    for name, counts in sizes.items():
        # int16 is for scores alone, whose tiles are 6 rows by 64 keys. AVX2 takes 16 at a time; of
        # layers 4 rows, 6 where products have 16 bits, both two steps in a turn, and of 4 bits 3
        # rows, four in a turn. Its loops that measure peaks have 12.
        only = {
            "vpdpwssd": {24}, "vpmaddwd": {12, 24}, "vpmaddubsw": {12, 16, 24},
            "vfmadd231ps": {8, 12, 18, 24},
        }  # fmt: skip
        assert counts == only.get(name, {12, 18, 24}), name


@needs_code
def test_exponentials_are_computed_without_the_stack(loops, stack_uses):
    found = [loop for loop in loops if weighs(loop)]
    assert len(found) >= 4  # one at least of each kernel that every CPU with AVX-512 has
    for loop in found:
        where = f"{loop[0].function} at {loop[0].address:#x}"
        is_avx2 = "vroundps" in names(loop)  # 16 registers, too few for what a row needs
        assert is_avx2 or not [one for one in stack_uses(loop) if "mm" in one.operands], where
        assert not names(loop).keys() & {"call", "callq"}, where
        assert is_avx2 or "vmaxps" not in names(loop), where


@needs_code
def test_weights_are_looked_up_without_the_stack_and_among_products(code, loops, stack_uses):
    if not library.features() & library.HAS_BFLOAT16:
        pytest.skip("this CPU, or the compiler of the library, has no AVX-512 BF16")
    look_ups = [one for one in code if one.name in ("vpermi2b", "vpermt2b")]
    for product in ("vpdpwssd", "vpdpbusd"):
        tiles = [loop for loop in loops if names(loop)[product] == 24]
        between = [
            sum(first[-1].address < one.address < second[0].address for one in look_ups)
            for first, second in pairwise(tiles)
        ]
        assert [3, 3, 3] in [between[i : i + 3] for i in range(len(between))], product
    for loop in loops:
        if names(loop).keys() & {"vpermi2b", "vpermt2b"}:
            assert not [one for one in stack_uses(loop) if "mm" in one.operands], loop[0]


@needs_code
def test_groups_are_scaled_without_the_stack(loops, stack_uses):
    found = [loop for loop in loops if scales_groups(loop)]
    if not library.features() & library.HAS_AMX:
        pytest.skip("this CPU, or the compiler of the library, has no AMX")
    assert found
    for loop in found:
        where = f"{loop[0].function} at {loop[0].address:#x}"
        spilled = [one for one in stack_uses(loop) if re.search(r"%zmm\d+,.*\(%rsp", one.operands)]
        assert not spilled, where


@needs_code
def test_tokens_are_normalized_and_rounded_without_the_stack(loops, stack_uses):
    rounding = [
        loop
        for loop in loops
        if {"vcvtps2dq", "vpackssdw"} <= names(loop).keys() and not packs_rows(loop)
    ]
    squaring = [
        loop
        for loop in loops
        if names(loop)["vsubps"] == names(loop)["vmulps"] == names(loop)["vaddps"] == 4
    ]  # AVX2's would be 8, of 64 sums and their masks: more than it has registers for
    assert len(rounding) >= 3  # of AVX2, and with outliers as float32 and as bfloat16
    assert len(squaring) >= 2
    for loop in rounding + squaring:
        where = f"{loop[0].function} at {loop[0].address:#x}"
        used = [one for one in stack_uses(loop) if "mm" in one.operands]
        if not any("zmm" in one.operands for one in loop):  # AVX2 may read constants there
            used = [one for one in used if one.operands.endswith(")")]
        assert not used, where
        assert not names(loop).keys() & {"call", "callq"}, where


@needs_code
@pytest.mark.parametrize(
    "function",
    ["astroray_features", "astroray_attention", "astroray_linear", "astroray_nearest"],
)
def test_what_every_cpu_runs_has_no_wide_registers(code, function):
    body = [instruction for instruction in code if instruction.function == function]
    assert len(body) > 10
    assert not [one for one in body if re.search(r"%[yz]mm|%k[0-7]", one.operands)]
    assert not [one for one in body if one.name.startswith("v")]


def test_the_number_of_the_interface_changes_with_what_python_and_cpp_agree_on():
    native = library.LIBRARY.parent / "native"
    said = re.search(r"kInterface = (\d+)", (native / "features.h").read_text())[1]
    assert int(said) == library.INTERFACE
    digest = hashlib.sha256()
    for name in ("knn.h", "osc.h", "peak.h", "vfa.h"):
        digest.update((native / name).read_bytes())
    assert digest.hexdigest()[:16] == INTERFACE_DIGEST, (
        "a header of the interface changed: raise INTERFACE in library.py and kInterface in "
        "native/features.h where a structure, a code or a layout did, and note the digest here"
    )


@needs_code
def test_a_library_of_another_version_is_refused_and_says_what_to_do(monkeypatch, forgetful):
    monkeypatch.setattr(library, "INTERFACE", library.INTERFACE + 1)
    x = torch.zeros(1, 1, 7, 32)
    with pytest.raises(BackendError, match=r"its interface is \d+, expected \d+; run pip install"):
        _native.vfa_attention(x, x, x, scale=1.0)
    assert "python setup.py build_ext --inplace" in dispatch.why_not("osc_linear", "native", "cpu")
    older = Path(_ctypes.__file__)  # a library without a number
    monkeypatch.setattr(library, "LIBRARY", older)
    library._loaded.cache_clear()
    library._interface.cache_clear()
    assert "its interface is older" in dispatch.why_not("nearest_vectors", "native", "cpu")


def test_it_says_why_it_cannot_run_there():
    assert _native.why_not(torch.device("cuda")) == "native code runs on a CPU, not on cuda"
    assert dispatch.why_not("vfa_attention", "native", "meta").endswith("not on meta")


def test_a_library_that_was_not_built_is_a_reason_and_an_error(monkeypatch, tmp_path):
    monkeypatch.setattr(library, "LIBRARY", tmp_path / "missing.so")
    reason = _native.why_not(torch.device("cpu"))
    assert "was not built when astroray was installed" in reason
    assert "install g++ and run pip install again" in reason
    x = torch.zeros(1, 1, 7, 32)
    with pytest.raises(BackendError, match=r"'native' cannot run: it was not built.*; ask"):
        _native.vfa_attention(x, x, x, scale=1.0)


def test_another_kind_of_cpu_is_named_where_nothing_was_built(monkeypatch, tmp_path):
    monkeypatch.setattr(library, "LIBRARY", tmp_path / "missing.so")
    monkeypatch.setattr(library.platform, "machine", lambda: "aarch64")
    said = "the native code is for x86-64 CPUs, and this one is aarch64"
    assert _native.why_not(torch.device("cpu")) == said
    assert library.path() == "none"
    dispatch._auto.cache_clear()
    assert dispatch.resolved("nearest_vectors", "cpu") == "reference"
    dispatch._auto.cache_clear()


@needs_library
@pytest.mark.parametrize(
    ("what", "said"),
    [
        ({"dtype": torch.float64}, "dtype is torch.float64, expected one of torch.float32, "),
        ({"dim": 40}, "head dimension is 40, expected one of 32, 64, 96, 128"),
        ({"precision": "mxfp4"}, "precision is mxfp4, expected one of fp32, bf16, int8_qk, int8"),
    ],
)
def test_what_it_lacks_is_refused_with_what_it_has(what, said):
    x = torch.zeros(1, 1, 7, what.get("dim", 32), dtype=what.get("dtype", torch.float32))
    with pytest.raises(BackendError, match=f"backend 'native' cannot run: {said}.*; ask for"):
        _native.vfa_attention(x, x, x, scale=1.0, precision=what.get("precision", "bf16"))


@needs_library
def test_no_kernel_for_a_pair_of_formats_is_an_error_that_names_it():
    x = torch.zeros(1, 1, 7, 32)
    with pytest.raises(BackendError, match="no kernel of score 0 and value 1 for this CPU"):
        _native.vfa_attention(x, x, x, scale=1.0, precision="fp32", values="bfloat16")


@pytest.fixture
def forgetful():
    """What is known of the library is looked up anew, in the test and after it."""
    known = (library._loaded, library._interface, library.function, library.features)
    for one in known:
        one.cache_clear()
    yield
    for one in known:
        one.cache_clear()


def test_a_cpu_without_the_instructions_is_a_reason(monkeypatch, tmp_path):
    (tmp_path / "there.so").touch()
    monkeypatch.setattr(library, "LIBRARY", tmp_path / "there.so")
    monkeypatch.setattr(library, "_interface", lambda: library.INTERFACE)
    monkeypatch.setattr(library, "features", lambda: 0)
    assert "has no AVX2 with FMA and F16C" in _native.why_not(torch.device("cpu"))


def test_a_library_that_cannot_be_loaded_is_not_the_fault_of_the_cpu(
    monkeypatch, tmp_path, forgetful
):
    (tmp_path / "broken.so").write_bytes(b"of another machine")
    monkeypatch.setattr(library, "LIBRARY", tmp_path / "broken.so")
    reason = _native.why_not(torch.device("cpu"))
    assert "broken.so" in reason
    assert "AVX-512" not in reason


@pytest.mark.parametrize(
    ("features", "format_"),
    [
        (1, "float32"),
        (3, "float32"),
        (5, "float16"),
        (7, "float16"),
        (11, "bfloat16"),
        (9, "float32"),
    ],
)
def test_values_are_weighed_in_what_the_cpu_is_fast_in(monkeypatch, features, format_):
    monkeypatch.setattr(library, "features", lambda: features)
    assert library.value_format() == format_


FORKED = """
import os, signal, torch
from astroray_kernels import vfa_attention
x = torch.randn(1, 8, 65, 32)  # few enough for torch to compare by one thread
torch.set_num_threads(2)
expected = vfa_attention(x, x, x, backend="native")
child = os.fork()
if not child:
    signal.alarm(60)  # a child that waits for its parent's threads waits forever
    os._exit(0 if torch.equal(vfa_attention(x, x, x, backend="native"), expected) else 1)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@needs_library
def test_a_forked_process_does_not_wait_for_threads_that_it_has_not():
    subprocess.run([sys.executable, "-W", "ignore", "-c", FORKED], check=True)
