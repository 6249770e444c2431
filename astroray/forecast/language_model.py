"""The network that forecasts flares by a language model: a prompt and patches of flux, one answer.

B windows of a batch, L tokens of the longest prompt, K patches, S = L + K + 1 tokens in all, D the
language model's width; other letters as in model.py.
"""

import dataclasses
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from astroray.errors import ConfigError
from astroray.flares.windows import Windows
from astroray.forecast.backbone import check_backbone, load_backbone
from astroray.forecast.model import CHANNELS, PATCH, STRIDE, Forecaster, ForecasterConfig, patches
from astroray.forecast.prompt import write_prompts

__all__ = ["LanguageConfig", "LanguageForecaster", "LanguageInputs", "Network", "build_network"]

PROJECTIONS = (
    *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),  # Llama, Qwen
    *("c_attn", "c_proj", "c_fc"),  # GPT-2
)
"""Names of the projections of attention and perceptron that LoRA is put beside."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LanguageConfig:
    """Which language model is the backbone of a LanguageForecaster."""

    folder: str
    fingerprint: str
    """Of its files; see backbone.py."""

    @classmethod
    def of(cls, folder: str) -> "LanguageConfig":
        """Raises ConfigError where the folder holds no language model that can be used."""
        return cls(folder=folder, fingerprint=check_backbone(folder))


@dataclasses.dataclass(frozen=True, kw_only=True)
class LanguageInputs:
    """What a window holds: its flux, and its prompt in tokens, aligned at the right."""

    flux_BTC: Tensor
    token_BL: Tensor
    """int32; 0 where a prompt is shorter."""
    said_BL: Tensor
    """bool: a token of the prompt."""

    def take(self, index_V: Tensor) -> "LanguageInputs":
        """Those of some windows, no wider than the longest of their prompts."""
        said_VL = self.said_BL[index_V]
        width = int(said_VL.sum(dim=1).amax()) if len(index_V) else 0
        first = said_VL.shape[1] - width
        return LanguageInputs(
            flux_BTC=self.flux_BTC[index_V],
            token_BL=self.token_BL[index_V, first:],
            said_BL=said_VL[:, first:],
        )

    def __len__(self) -> int:
        return len(self.flux_BTC)


class LanguageForecaster(nn.Module):
    """Windows in, log odds of a flare within the horizon out.

    A causal language model reads what is known of the star in words, then the 64 patches of its
    flux as soft tokens: projected to its width and scaled to the size of its word embeddings. A
    learned token stands last, where all before it can be seen; the answer is read off there.
    """

    has_lora_in_weights = False
    """Whether LoRA is added to the projections' weights, whose gradients are dear here."""
    backbone_scale: Tensor

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone, self.tokenizer = load_backbone(config.folder)
        embedding_VD = self.backbone.get_input_embeddings().weight
        width = embedding_VD.shape[1]
        scale = embedding_VD.detach().square().mean().sqrt()
        self.register_buffer("backbone_scale", scale, persistent=False)
        self.flux_projection = nn.Linear(PATCH * CHANNELS, width)
        self.flux_norm = nn.LayerNorm(width)
        self.record_readout = nn.Parameter(float(scale) * torch.randn(width))
        self.head = nn.Linear(width, 1)

    @property
    def projections(self) -> list[str]:
        """The ends of the names of modules that LoRA is put beside; raises ConfigError if none."""
        linear = {
            name.rpartition(".")[2]
            for name, module in self.backbone.named_modules()
            if isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
        }
        found = [name for name in PROJECTIONS if name in linear]
        if not found:
            raise ConfigError(
                f"{self.config.folder} has no projection that LoRA is put beside: its linear "
                f"layers are {', '.join(sorted(linear)) or 'none'}, expected some of "
                f"{', '.join(PROJECTIONS)}, as Llama, Qwen and GPT-2 have them"
            )
        return found

    @property
    def is_transposed(self) -> bool:
        """Whether the projections hold their weights the other way around, as GPT-2's do."""
        return any(type(module).__name__ == "Conv1D" for module in self.backbone.modules())

    def is_always_tuned(self, name: str) -> bool:
        """Whether a weight is tuned whatever the method: norms, and all that is not pre-trained."""
        owner = self.get_submodule(name.rpartition(".")[0])
        return not self.is_pretrained(name) or "Norm" in type(owner).__name__

    def is_pretrained(self, name: str) -> bool:
        """Whether a weight is the language model's, or stands beside one of it."""
        return name.startswith("backbone.")

    def read(self, windows: Windows) -> LanguageInputs:
        """Windows as tensors; raises ConfigError where their prompts do not fit the model."""
        tokens = self.tokenizer(write_prompts(windows))["input_ids"] if len(windows) else []
        width = max(map(len, tokens), default=0)
        token_BL = np.zeros((len(tokens), width), np.int32)
        said_BL = np.zeros((len(tokens), width), bool)
        for number, token_L in enumerate(tokens):
            token_BL[number, width - len(token_L) :] = token_L
            said_BL[number, width - len(token_L) :] = True
        self._check_prompts(int(token_BL.max(initial=0)), width, windows.flux_WTC.shape[1])
        return LanguageInputs(
            flux_BTC=torch.from_numpy(windows.flux_WTC),
            token_BL=torch.from_numpy(token_BL),
            said_BL=torch.from_numpy(said_BL),
        )

    def forward(self, inputs: LanguageInputs) -> Tensor:
        """Log odds [B]."""
        num_B = len(inputs)
        word_BLD = self.backbone.get_input_embeddings()(inputs.token_BL.long())
        soft_BKD = self.flux_norm(self.flux_projection(patches(inputs.flux_BTC)))
        readout_B1D = self.record_readout.expand(num_B, 1, -1)
        token_BSD = torch.cat([word_BLD, self.backbone_scale * soft_BKD, readout_B1D], dim=1)
        said_BS = torch.ones(token_BSD.shape[:2], dtype=torch.long)
        said_BS[:, : inputs.said_BL.shape[1]] = inputs.said_BL
        out_BSD = self.backbone(
            inputs_embeds=token_BSD,
            attention_mask=said_BS,
            position_ids=(said_BS.cumsum(dim=1) - 1).clamp(min=0),
            use_cache=False,
        ).last_hidden_state
        return self.head(out_BSD[:, -1])[:, 0]

    def _check_prompts(self, largest: int, width: int, num_cadences: int) -> None:
        num_words = self.backbone.get_input_embeddings().weight.shape[0]
        if largest >= num_words:
            raise ConfigError(
                f"the tokenizer of {self.config.folder} gives token {largest}, the model knows "
                f"{num_words}: they are not of one language model; copy the folder anew"
            )
        needed = width + num_cadences // STRIDE + 1
        limit = getattr(self.backbone.config, "max_position_embeddings", None) or needed
        if needed > limit:
            raise ConfigError(
                f"{self.config.folder} reads at most {limit} tokens, expected at least {needed}: "
                f"{width} of the longest prompt and {needed - width} of the light curve; give a "
                "language model with a longer context, or with a tokenizer of whole words"
            )


Network: TypeAlias = Forecaster | LanguageForecaster
"""What forecasts flares."""


def build_network(config: ForecasterConfig | LanguageConfig) -> Network:
    """The network of a configuration, all but a language model's weights at random."""
    if isinstance(config, LanguageConfig):
        return LanguageForecaster(config)
    return Forecaster(config)
