"""The network that forecasts flares: a patch transformer over light curve, history, statistics.

B windows of a batch, T cadences, C channels, K patches, E numbers of a patch, D width, H heads,
L layers; M, N, P as in windows.py.
"""

import dataclasses
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from astroray.flares.history import HISTORY, NUM_FLARES, STATISTICS
from astroray.flares.records import PROPERTIES
from astroray.flares.windows import Windows

__all__ = ["ForecastInputs", "Forecaster", "ForecasterConfig"]

PATCH, STRIDE, CHANNELS = 16, 8, 3
ALWAYS_TUNED = ("norm", "head", "record_")
"""Parts of the names of weights that every method tunes."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ForecasterConfig:
    """The size of a Forecaster, and which of its inputs are left out for an ablation."""

    width: int = 64
    num_layers: int = 3
    num_heads: int = 4
    num_cadences: int = 512
    dropout: float = 0.1
    use_flux: bool = True
    use_difference: bool = True
    use_history: bool = True
    use_statistics: bool = True
    mixing: Literal["attention", "perceptron"] = "attention"
    """What mixes tokens; a perceptron makes it PatchTSMixer, a peer that is not pre-trained."""

    @property
    def num_tokens(self) -> int:
        """Tokens of a window."""
        num_patches = self.num_cadences // STRIDE if self.use_flux else 0
        return 2 + self.use_statistics + self.use_history + num_patches


@dataclasses.dataclass(frozen=True, kw_only=True)
class ForecastInputs:
    """What a window holds, as tensors; NaN means unknown in all but the flux."""

    flux_BTC: Tensor
    history_BMC: Tensor
    statistics_BN: Tensor
    property_BP: Tensor

    @classmethod
    def of(cls, windows: Windows) -> "ForecastInputs":
        """Windows as tensors, which share their memory."""
        return cls(
            flux_BTC=torch.from_numpy(windows.flux_WTC),
            history_BMC=torch.from_numpy(windows.history_WMC),
            statistics_BN=torch.from_numpy(windows.statistics_WN),
            property_BP=torch.from_numpy(windows.property_WP),
        )

    def take(self, index_V: Tensor) -> "ForecastInputs":
        """Those of some windows."""
        parts = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return ForecastInputs(**{name: value[index_V] for name, value in parts.items()})

    def __len__(self) -> int:
        return len(self.statistics_BN)


class Forecaster(nn.Module):
    """Windows in, log odds of a flare within the horizon out.

    Tokens: one that is read out, one each of statistics, history and properties, 64 patches of 16
    cadences with flux, first difference and mask. The patches are read out beside it, each with
    weights of its place: what announces a flare stands at the end of the window, and attention
    has to learn where that is before it can learn what.
    """

    projections = ("query", "key", "value", "out", "up", "down")
    """The ends of the names of modules that LoRA is put beside."""
    is_transposed = False
    """Whether they hold their weights the other way around."""
    has_lora_in_weights = True
    """Whether LoRA is added to their weights, which are small beside the tokens of a batch."""

    def __init__(self, config: ForecasterConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        num_patches = config.num_cadences // STRIDE
        self.patch_embedding = nn.Linear(PATCH * CHANNELS, width)
        self.position = nn.Parameter(0.02 * torch.randn(num_patches, width))
        self.masked = nn.Parameter(0.02 * torch.randn(width))
        self.record_readout = nn.Parameter(0.02 * torch.randn(width))
        self.record_statistics = _Numbers(len(STATISTICS), width)
        self.record_history = _Numbers(NUM_FLARES * len(HISTORY), width)
        self.record_properties = _Numbers(len(PROPERTIES), width)
        block = _Block if config.mixing == "attention" else _MixerBlock
        self.blocks = nn.ModuleList(block(config) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 1)
        self.head_places = nn.Linear(num_patches * width, 1, bias=False)
        self.head_statistics = nn.Linear(len(STATISTICS), 1)
        self.reconstruct = nn.Linear(width, PATCH * 2)
        nn.init.zeros_(self.head_places.weight)
        nn.init.zeros_(self.head_statistics.weight)
        nn.init.zeros_(self.head_statistics.bias)

    def is_always_tuned(self, name: str) -> bool:
        """Whether a weight is tuned whatever the method."""
        return any(part in name for part in ALWAYS_TUNED)

    def read(self, windows: Windows) -> ForecastInputs:
        """Windows as tensors."""
        return ForecastInputs.of(windows)

    def forward(self, inputs: ForecastInputs) -> Tensor:
        """Log odds [B]."""
        config, num_B = self.config, len(inputs)
        tokens = [
            self.record_readout.expand(num_B, 1, -1),
            self.record_properties(inputs.property_BP),
        ]
        if config.use_statistics:
            tokens.append(self.record_statistics(inputs.statistics_BN))
        if config.use_history:
            tokens.append(self.record_history(inputs.history_BMC.flatten(1)))
        if config.use_flux:
            tokens.append(self._embed(patches(inputs.flux_BTC)) + self.position)
        out_BKD = self._transform(torch.cat(tokens, dim=1))
        logit_B = self.head(out_BKD[:, 0])[:, 0]
        if config.use_flux:
            patch_BKD = out_BKD[:, -len(self.position) :]
            logit_B = logit_B + self.head_places(patch_BKD.flatten(1))[:, 0]
        if config.use_statistics:
            known_BN = self.record_statistics.scale(inputs.statistics_BN)[:, : len(STATISTICS)]
            logit_B = logit_B + self.head_statistics(known_BN)[:, 0]
        return logit_B

    def masked_loss(self, flux_BTC: Tensor, hidden_BK: Tensor) -> Tensor:
        """Mean squared error of flux and difference in hidden patches, where they were observed.

        hidden_BK  bool: patches whose token says nothing but where it stands
        """
        patch_BKE = patches(flux_BTC)
        tokens_BKD = torch.where(hidden_BK[..., None], self.masked, self._embed(patch_BKE))
        out_BKE = self.reconstruct(self._transform(tokens_BKD + self.position))
        target_BKEC = patch_BKE.unflatten(-1, (PATCH, CHANNELS))  # type: ignore[no-untyped-call]
        seen_BKE = (target_BKEC[..., 2] > 0) & hidden_BK[..., None]
        error_BKEC = out_BKE.unflatten(-1, (PATCH, 2)) - target_BKEC[..., :2]
        weight_BKE = seen_BKE.float()
        total = (error_BKEC.square().mean(-1) * weight_BKE).sum()
        return total / weight_BKE.sum().clamp(min=1)

    def measure(self, inputs: ForecastInputs) -> None:
        """Takes means and spreads of the numbers of a record from training windows."""
        self.record_statistics.measure(inputs.statistics_BN)
        self.record_history.measure(inputs.history_BMC.flatten(1))
        self.record_properties.measure(inputs.property_BP)

    def _embed(self, patch_BKE: Tensor) -> Tensor:
        if not self.config.use_difference:
            patch_BKEC = patch_BKE.unflatten(-1, (PATCH, CHANNELS))  # type: ignore[no-untyped-call]
            patch_BKE = (patch_BKEC * patch_BKE.new_tensor([1.0, 0.0, 1.0])).flatten(-2)
        return self.patch_embedding(patch_BKE)

    def _transform(self, tokens_BKD: Tensor) -> Tensor:
        for block in self.blocks:
            tokens_BKD = block(tokens_BKD)
        return self.norm(tokens_BKD)


def patches(flux_BTC: Tensor) -> Tensor:
    """[B, K, E] 16 cadences every 8, the last one repeated beyond the end."""
    beyond_BTC = flux_BTC[:, -1:].expand(-1, STRIDE, -1)
    patch_BKCE = torch.cat([flux_BTC, beyond_BTC], dim=1).unfold(1, PATCH, STRIDE)
    return patch_BKCE.transpose(2, 3).flatten(2)


class _Numbers(nn.Module):
    """Numbers of which some are unknown, as one token."""

    mean_N: Tensor
    spread_N: Tensor

    def __init__(self, num_numbers: int, width: int) -> None:
        super().__init__()
        self.register_buffer("mean_N", torch.zeros(num_numbers))
        self.register_buffer("spread_N", torch.ones(num_numbers))
        self.perceptron = nn.Sequential(
            nn.Linear(2 * num_numbers, width), nn.GELU(), nn.Linear(width, width)
        )

    def measure(self, number_BN: Tensor) -> None:
        known_BN = torch.isfinite(number_BN)
        count_N = known_BN.sum(0).clamp(min=1)
        zeroed_BN = torch.where(known_BN, number_BN, 0.0)
        self.mean_N.copy_(zeroed_BN.sum(0) / count_N)
        off_BN = torch.where(known_BN, number_BN - self.mean_N, 0.0)
        spread_N = (off_BN.square().sum(0) / count_N).sqrt()
        self.spread_N.copy_(torch.where(spread_N > 1e-6, spread_N, 1.0))

    def scale(self, number_BN: Tensor) -> Tensor:
        known_BN = torch.isfinite(number_BN)
        scaled_BN = torch.where(known_BN, (number_BN - self.mean_N) / self.spread_N, 0.0)
        return torch.cat([scaled_BN.clamp(-5, 5), (~known_BN).float()], dim=1)

    def forward(self, number_BN: Tensor) -> Tensor:
        return self.perceptron(self.scale(number_BN))[:, None]


class _Block(nn.Module):
    """Attention and perceptron with norms before them (Xiong et al., arXiv 2002.04745)."""

    def __init__(self, config: ForecasterConfig) -> None:
        super().__init__()
        width = config.width
        self.num_heads = config.num_heads
        self.norm_attention, self.norm_perceptron = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.value, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.adapter: nn.Module | None = None
        """A bottleneck beside the perceptron; see lora.py."""
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, tokens_BKD: Tensor) -> Tensor:
        normed_BKD = self.norm_attention(tokens_BKD)
        q, k, v = (
            projection(normed_BKD).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for projection in (self.query, self.key, self.value)
        )
        mixed_BKD = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        tokens_BKD = tokens_BKD + self.dropout(self.out(mixed_BKD))
        normed_BKD = self.norm_perceptron(tokens_BKD)
        change_BKD = self.down(F.gelu(self.up(normed_BKD)))
        if self.adapter is not None:
            change_BKD = change_BKD + self.adapter(normed_BKD)
        return tokens_BKD + self.dropout(change_BKD)


class _MixerBlock(nn.Module):
    """Perceptrons over tokens, then over channels (Ekambaram et al., KDD 2023, PatchTSMixer)."""

    def __init__(self, config: ForecasterConfig) -> None:
        super().__init__()
        width = config.width
        self.norm_tokens, self.norm_channels = nn.LayerNorm(width), nn.LayerNorm(width)
        self.over_tokens = _perceptron(config.num_tokens, 2 * config.num_tokens, config.dropout)
        self.over_channels = _perceptron(width, 4 * width, config.dropout)

    def forward(self, tokens_BKD: Tensor) -> Tensor:
        mixed_BDK = self.over_tokens(self.norm_tokens(tokens_BKD).transpose(1, 2))
        tokens_BKD = tokens_BKD + mixed_BDK.transpose(1, 2)
        return tokens_BKD + self.over_channels(self.norm_channels(tokens_BKD))


def _perceptron(width: int, hidden: int, dropout: float) -> nn.Module:
    return nn.Sequential(
        nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width), nn.Dropout(dropout)
    )
