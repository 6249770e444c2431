"""The one table of tile sizes of the Triton kernels."""

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tiles:
    """The shape of one program and of its loop."""

    block_m: int
    block_n: int
    warps: int
    stages: int
    row_sum: str = "ones"


_SHORT = Tiles(block_m=128, block_n=64, warps=8, stages=3)
_LONG = Tiles(block_m=128, block_n=64, warps=8, stages=2)
_LONG_80 = Tiles(block_m=128, block_n=32, warps=8, stages=2)
_FP32_SHORT = Tiles(block_m=32, block_n=32, warps=8, stages=2, row_sum="partial")
_FP32_LONG = Tiles(block_m=16, block_n=32, warps=8, stages=1, row_sum="partial")
_MXFP4 = Tiles(block_m=128, block_n=128, warps=8, stages=2)
_INTERPRETED = Tiles(block_m=64, block_n=64, warps=4, stages=1)
_INTERPRETED_FP32 = Tiles(block_m=64, block_n=32, warps=4, stages=1, row_sum="partial")

TILES: dict[tuple[int, int, str], Tiles] = {
    (80, 32, "bf16"): _SHORT, (80, 64, "bf16"): _SHORT, (80, 128, "bf16"): _LONG_80,
    (90, 32, "bf16"): _SHORT, (90, 64, "bf16"): _SHORT, (90, 128, "bf16"): _LONG,
    (100, 32, "bf16"): _SHORT, (100, 64, "bf16"): _SHORT, (100, 128, "bf16"): _LONG,
    (80, 32, "int8_qk"): _SHORT, (80, 64, "int8_qk"): _SHORT, (80, 128, "int8_qk"): _LONG_80,
    (90, 32, "int8_qk"): _SHORT, (90, 64, "int8_qk"): _SHORT, (90, 128, "int8_qk"): _LONG,
    (100, 32, "int8_qk"): _SHORT, (100, 64, "int8_qk"): _SHORT, (100, 128, "int8_qk"): _LONG,
    (80, 32, "fp32"): _FP32_SHORT, (80, 64, "fp32"): _FP32_SHORT, (80, 128, "fp32"): _FP32_LONG,
    (90, 32, "fp32"): _FP32_SHORT, (90, 64, "fp32"): _FP32_SHORT, (90, 128, "fp32"): _FP32_LONG,
    (100, 32, "fp32"): _FP32_SHORT, (100, 64, "fp32"): _FP32_SHORT, (100, 128, "fp32"): _FP32_LONG,
    (100, 32, "mxfp4"): _MXFP4, (100, 64, "mxfp4"): _MXFP4, (100, 128, "mxfp4"): _MXFP4,
    (0, 32, "mxfp4"): _INTERPRETED, (0, 64, "mxfp4"): _INTERPRETED,
    (0, 128, "mxfp4"): _INTERPRETED,
    (0, 32, "bf16"): _INTERPRETED, (0, 64, "bf16"): _INTERPRETED, (0, 128, "bf16"): _INTERPRETED,
    (0, 32, "int8_qk"): _INTERPRETED, (0, 64, "int8_qk"): _INTERPRETED,
    (0, 128, "int8_qk"): _INTERPRETED, (0, 32, "fp32"): _INTERPRETED_FP32,
    (0, 64, "fp32"): _INTERPRETED_FP32, (0, 128, "fp32"): _INTERPRETED_FP32,
}  # fmt: skip
"""By architecture (0: the interpreter), head dimension padded to a power of two, and precision."""
