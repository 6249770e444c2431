"""How weights follow their gradients: warm-up, clipping, AdamW, the running average."""

import copy
from typing import Any

import torch
from torch import nn

from astroray.encoders.recipe import Recipe

__all__ = ["Descent"]


class Descent:
    """The optimizer of a network by its recipe; its steps are the same in all training workers.

    `published` is the network whose weights are the result of the fit: the running average of
    the trained one, or, where the recipe has none, the trained one itself. The average keeps
    `min(average, (1 + n) / (10 + n))` of itself after n steps, so that it soon forgets the first
    weights. Buffers are not averaged but copied. A fit that goes on sets `num_steps`.
    """

    def __init__(self, network: nn.Module, recipe: Recipe) -> None:
        self.network, self.recipe = network, recipe
        self.num_steps = 0
        self.published = network
        if recipe.average:
            self.published = copy.deepcopy(network).requires_grad_(False)
        matrices = [weight for weight in network.parameters() if weight.ndim > 1]
        others = [weight for weight in network.parameters() if weight.ndim <= 1]
        groups: list[dict[str, Any]] = [
            {"params": matrices},
            {"params": others, "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(
            groups,
            lr=recipe.learning_rate,
            betas=recipe.betas,
            weight_decay=recipe.weight_decay,
            fused=True,
        )

    @property
    def learning_rate(self) -> float:
        """Rate of the next step."""
        rise = (self.num_steps + 1) / max(1, self.recipe.warmup_steps)
        return self.recipe.learning_rate * min(1.0, rise)

    def step(self) -> None:
        """Takes one step along the gradients that are there."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate
        if self.recipe.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.clip_norm)
        self.optimizer.step()
        if self.recipe.average:
            self._average(min(self.recipe.average, (1 + self.num_steps) / (10 + self.num_steps)))
        self.num_steps += 1

    @torch.no_grad()
    def _average(self, kept: float) -> None:
        pairs = zip(self.published.parameters(), self.network.parameters(), strict=True)
        for average, weight in pairs:
            average.lerp_(weight, 1 - kept)
        for copied, buffer in zip(self.published.buffers(), self.network.buffers(), strict=True):
            copied.copy_(buffer)
