"""What a quantized linear layer is made of, as it is stored and as it is handed to a kernel.

Letters: N output channels, K input channels, G groups, O outlier channels.
"""

import dataclasses

import torch
from torch import Tensor

from astroray_kernels.osc import formats
from astroray_kernels.osc.formats import FORMATS


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class PackedWeights:
    """A linear layer in one of `formats.FORMATS`; made by `pack_weights`, or from stored tensors.

    codes         int8 [N, K] or, two codes a byte, uint8 [N, K / 2]; zero at outlier channels
    scale_NG      float32 [N, G]
    outlier_O     int64 [O]: the outlier channels, ascending; O may be 0
    outlier_ON    bfloat16 [O, N]: the columns of the weights that belong to them
    bias_N        float32 [N], or None
    """

    format: str
    codes: Tensor
    scale_NG: Tensor
    outlier_O: Tensor
    outlier_ON: Tensor
    bias_N: Tensor | None = None

    def __post_init__(self) -> None:
        _check(self)

    @property
    def num_in(self) -> int:
        """K."""
        return self.codes.shape[1] * 8 // FORMATS[self.format].bits

    @property
    def num_out(self) -> int:
        """N."""
        return self.codes.shape[0]

    @property
    def num_bytes(self) -> int:
        """Bytes of the weights: codes, scales (a byte each in the floats), outlier rows, table."""
        form = FORMATS[self.format]
        scales = (1 if form.is_float else 4) * self.scale_NG.numel() + 4 * form.has_levels
        return self.codes.nbytes + scales + self.outlier_ON.nbytes + 4 * len(self.outlier_O)

    def to(self, device: torch.device | str) -> "PackedWeights":
        """The layer on another device."""
        return PackedWeights(
            format=self.format,
            codes=self.codes.to(device),
            scale_NG=self.scale_NG.to(device),
            outlier_O=self.outlier_O.to(device),
            outlier_ON=self.outlier_ON.to(device),
            bias_N=None if self.bias_N is None else self.bias_N.to(device),
        )

    def numbers_NK(self) -> Tensor:
        """The weights float32 [N, K] that a kernel multiplies, outlier channels included."""
        whole_NK = formats.integers(self.codes, self.format).float() * formats.unit(self.format)
        whole_NGK = whole_NK.reshape(*self.scale_NG.shape, -1)
        weight_NGK = whole_NGK * self.scale_NG[..., None]
        weight_NK = weight_NGK.flatten(1)
        weight_NK[:, self.outlier_O] = self.outlier_ON.float().T
        return weight_NK


def pack_weights(
    weight_NK: Tensor,
    bias_N: Tensor | None = None,
    *,
    format: str,
    outlier_channels: Tensor | None = None,
) -> PackedWeights:
    """Rounds the weights of a linear layer to `format`, its outlier channels to bfloat16.

    weight_NK         [N, K]  a floating dtype, finite, N and K >= 1, as torch.nn.Linear has it
    bias_N            [N]     finite, or None
    format            of `formats.FORMATS`: int8, int4_g32, int4_g64, int4_g128, mxfp4, nvfp4
    outlier_channels  [O]     whole numbers 0 to K - 1, ascending, none twice; None: none. The
                              paper has one of each group; the kernels take any

    Raises TypeError and ValueError on arguments that cannot work: a K that is not a multiple of
    the group, a NaN or an infinity.
    """
    _check_weights(weight_NK, bias_N, format)
    num_in = weight_NK.shape[1]
    outlier_O = _checked_channels(outlier_channels, num_in, weight_NK.device)
    kept_NK = weight_NK.detach().float()
    outlier_ON = kept_NK[:, outlier_O].T.contiguous().to(torch.bfloat16)
    kept_NK = kept_NK.index_fill(1, outlier_O, 0.0)
    codes, scale_NG = formats.encode(kept_NK, format, is_whole=True)
    return PackedWeights(
        format=format,
        codes=codes,
        scale_NG=scale_NG,
        outlier_O=outlier_O,
        outlier_ON=outlier_ON,
        bias_N=None if bias_N is None else bias_N.detach().float().clone(),
    )


def _check_weights(weight_NK: Tensor, bias_N: Tensor | None, name: str) -> None:
    if name not in FORMATS:
        raise ValueError(f"format is {name!r}, expected one of {', '.join(FORMATS)}")
    for what, x, ndim in (("weight_NK", weight_NK, 2), ("bias_N", bias_N, 1)):
        if x is None and what == "bias_N":
            continue
        if not isinstance(x, Tensor) or not x.is_floating_point():
            got = f"dtype {x.dtype}" if isinstance(x, Tensor) else type(x).__name__
            raise TypeError(f"{what} has {got}, expected a tensor of floating numbers")
        if x.ndim != ndim or not x.numel() or x.shape[0] != weight_NK.shape[0]:
            raise ValueError(
                f"{what} has shape {list(x.shape)}, expected weight_NK [N, K] and bias_N [N] with "
                "N and K of at least 1, as torch.nn.Linear has them"
            )
        if bad := int((~x.isfinite()).sum()):
            raise ValueError(
                f"{what} holds {bad} NaN or infinite numbers of {x.numel()}, expected none; "
                "mend the checkpoint before it is quantized"
            )
    _check_group(weight_NK.shape[1], name)


def _check_group(num_in: int, name: str) -> None:
    group = FORMATS[name].group
    if group is not None and num_in % group:
        fits = [one for one, form in FORMATS.items() if num_in % (form.group or 1) == 0]
        raise ValueError(
            f"the layer has {num_in} input channels, expected a multiple of {group}, the group of "
            f"{name}; formats that fit: {', '.join(fits)}"
        )


def _checked_channels(channels: Tensor | None, num_in: int, device: torch.device) -> Tensor:
    if channels is None:
        return torch.empty(0, dtype=torch.int64, device=device)
    if channels.ndim != 1 or channels.is_floating_point() or channels.dtype == torch.bool:
        raise ValueError(
            f"outlier_channels has shape {list(channels.shape)} and dtype {channels.dtype}, "
            "expected [O] of whole numbers: the places of the channels, not a mask"
        )
    channels = channels.to(device=device, dtype=torch.int64)
    if (
        len(channels)
        and not channels.is_meta
        and not ((channels.diff() > 0).all() and channels[0] >= 0 and channels[-1] < num_in)
    ):
        raise ValueError(
            f"outlier_channels is {channels.tolist()[:8]}{'...' if len(channels) > 8 else ''}, "
            f"expected ascending numbers of 0 to {num_in - 1}, none twice"
        )
    return channels


def _check(packed: PackedWeights) -> None:
    """Stored tensors may be of another layer or program: shapes and dtypes must fit together."""
    if packed.format not in FORMATS:
        raise ValueError(f"format is {packed.format!r}, expected one of {', '.join(FORMATS)}")
    form = FORMATS[packed.format]
    if packed.codes.ndim != 2:
        raise ValueError(f"codes has shape {list(packed.codes.shape)}, expected [N, bytes]")
    num_out, num_in = packed.num_out, packed.num_in
    _check_group(num_in, packed.format)
    num_outliers = len(packed.outlier_O)
    expected = {
        "codes": (
            torch.int8 if form.bits == 8 else torch.uint8,
            [num_out, num_in * form.bits // 8],
        ),
        "scale_NG": (torch.float32, [num_out, form.num_groups(num_in)]),
        "outlier_O": (torch.int64, [num_outliers]),
        "outlier_ON": (torch.bfloat16, [num_outliers, num_out]),
        "bias_N": (torch.float32, [num_out]),
    }
    for name, (dtype, shape) in expected.items():
        tensor = getattr(packed, name)
        if tensor is None and name == "bias_N":
            continue
        if tensor.dtype != dtype or list(tensor.shape) != shape:
            raise ValueError(
                f"{name} is {tensor.dtype} {list(tensor.shape)}, expected {dtype} {shape} of a "
                f"layer of {num_in} to {num_out} channels in {packed.format}"
            )
    _checked_channels(packed.outlier_O, num_in, packed.outlier_O.device)
