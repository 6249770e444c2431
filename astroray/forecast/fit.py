"""How a Forecaster is trained: pre-training by masked patches, then tuning on labels.

Every random choice is drawn from the seed, the phase and the number of the pass, so that a fit
that goes on after a kill takes the very steps it would have taken.
"""

import copy
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from astroray.errors import ConfigError
from astroray.fitting.state_file import load_state, save_state
from astroray.flares.windows import Windows
from astroray.forecast.backbone import check_tuning
from astroray.forecast.language_model import (
    LanguageConfig,
    LanguageForecaster,
    Network,
    build_network,
)
from astroray.forecast.lora import Method, adapter_state, attach, load_adapter
from astroray.forecast.loss import RisingRate, forecast_loss
from astroray.forecast.model import STRIDE, Forecaster, ForecasterConfig, ForecastInputs
from astroray.forecast.skill import average_precision

__all__ = ["Crew", "FitPlan", "ForecasterState", "fit_forecaster", "restore"]

HIDDEN, BLOCK = 0.4, 4
"""Share of patches that are hidden, in blocks: neighbors overlap and would give each other away."""
WARM_UP = 0.1
TUNING_RATES: Mapping[Method, float] = {"lora": 6e-3, "adapter": 6e-3, "full": 2e-3}
"""Learning rates of tuning. LoRA's is the best of 2e-3, 6e-3 and 2e-2 in AUPRC on validation stars
of the track of methods, seed 0, before patches were read out by place: .45, .51 and .18; at the
last it learnt nothing. Adapters are as small and take the same."""
LANGUAGE_RATE = 2e-4
"""Of LoRA and norms of a language model: what Hu et al. (arXiv 2106.09685, table 11) tune GPT-2
with. What is not pre-trained beside it is learnt at the rate of full fine-tuning. Not measured."""
LOGITS_AT_ONCE, LANGUAGE_LOGITS_AT_ONCE = 512, 64
"""Windows; a language model has some 300 tokens for each, and is wide."""
PRETRAIN, TUNE = 1, 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitPlan:
    """How a forecaster is pre-trained and tuned."""

    network: ForecasterConfig | LanguageConfig = dataclasses.field(default_factory=ForecasterConfig)
    method: Method = "lora"
    pretrain_passes: int = 10
    """0: from scratch."""
    num_passes: int = 20
    patience: int = 5
    """Tuning ends after so many passes without a better AUPRC on validation."""
    batch_size: int = 128
    """Windows a step, all workers together."""
    pretrain_rate: float = 2e-3
    """Learning rate of pre-training."""
    tuning_rate: float | None = None
    """Learning rate of tuning; None: that of TUNING_RATES, or of a language model."""
    weight_decay: float = 0.02
    use_prior: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.network, LanguageConfig):
            check_tuning(self.method, self.pretrain_passes)
        elif self.network.mixing != "attention" and (self.pretrain_passes or self.method != "full"):
            raise ConfigError(
                f"a network that mixes by {self.network.mixing} is tuned by {self.method} after "
                f"{self.pretrain_passes} passes of pre-training, expected full and 0: it has no "
                "attention to be tuned apart, and a place for each token"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Crew:
    """The workers that share a fit, as one of them sees it."""

    rank: int = 0
    num_workers: int = 1

    def share(self, batch_B: Tensor) -> Tensor:
        """This worker's part of a batch."""
        return batch_B[self.rank :: self.num_workers]

    def gather(self, own_V: np.ndarray, num_V: int) -> np.ndarray:
        """The numbers of `num_V` windows, of which each worker has those of its share."""
        if self.num_workers == 1:
            return own_V
        all_V = torch.zeros(num_V)
        all_V[self.rank :: self.num_workers] = torch.from_numpy(own_V)
        torch.distributed.all_reduce(all_V)
        return all_V.numpy()

    def average(self, model: torch.nn.Module, loss: Tensor, part: float) -> float:
        """Makes gradients those of the whole batch, of which this worker had `part`; returns the
        loss of the whole batch, so that all workers see whether it is finite."""
        if self.num_workers == 1:
            return float(loss)
        gradients = [p.grad for p in model.parameters() if p.requires_grad and p.grad is not None]
        numbers = [*gradients, loss]
        flat = torch.cat([number.flatten() for number in numbers]) * part
        torch.distributed.all_reduce(flat)
        pieces = torch.split(flat, [number.numel() for number in numbers])
        for gradient, piece in zip(gradients, pieces[:-1], strict=True):
            gradient.copy_(piece.view_as(gradient))
        return float(pieces[-1])


@dataclasses.dataclass(kw_only=True)
class ForecasterState:
    """A fit after a pass: all that it needs to go on as if nothing had happened."""

    losses: list[float] = dataclasses.field(default_factory=list)
    """Of the passes of pre-training."""
    auprcs: list[float] = dataclasses.field(default_factory=list)
    """Average precision on validation after each pass of tuning."""
    model: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    """The weights that the phase under way trains."""
    best: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    """The tuned weights after the best pass of tuning."""
    optimizer: dict[str, Any] = dataclasses.field(default_factory=dict)
    base: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    """The weights before tuning; none of a language model, which are in its folder."""

    def save(self, folder: str) -> None:
        """Publishes the state in a folder, whole or absent, in place of the one before."""
        save_state(folder, vars(self))

    @classmethod
    def load(cls, folder: str) -> "ForecasterState":
        """The newest state in a folder; an empty one where a fit begins."""
        return cls(**load_state(folder))


def fit_forecaster(
    train: Windows,
    validation: Windows,
    plan: FitPlan,
    *,
    state: ForecasterState | None = None,
    crew: Crew | None = None,
    keep: Callable[[ForecasterState], None] = lambda state: None,
    show: Callable[[str], None] = lambda text: None,
) -> Network:
    """A forecaster with the weights of its best pass, from `state` on.

    keep  called by the first worker after each pass, to save the state

    Labels are not read in pre-training. The best pass of tuning has the largest AUPRC on the
    validation windows. Raises ConfigError where the loss is no longer finite.
    """
    fit = _Fit(train, plan, state or ForecasterState(), crew or Crew())
    for text in fit.pretrain():
        show(text)
        fit.keep(keep)
    for text in fit.tune(validation):
        show(text)
        fit.keep(keep)
    load_adapter(fit.model, fit.state.best)
    return fit.model.eval()


def restore(state: ForecasterState, plan: FitPlan) -> Network:
    """The forecaster of a finished fit."""
    model = build_network(plan.network)
    model.load_state_dict(state.base, strict=isinstance(model, Forecaster))
    load_adapter(attach(model, plan.method), state.best)
    return model.eval()


def forecast_logits(model: Network, windows: Windows) -> np.ndarray:
    """[W] log odds."""
    inputs = model.read(windows)
    batch_size = LOGITS_AT_ONCE if isinstance(model, Forecaster) else LANGUAGE_LOGITS_AT_ONCE
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        parts = [
            model(inputs.take(index_V))
            for index_V in torch.split(torch.arange(len(windows)), batch_size)
        ]
    model.train(was_training)
    return torch.cat([*parts, torch.zeros(0)]).numpy()


class _Fit:
    """A fit as one worker has it."""

    def __init__(self, train: Windows, plan: FitPlan, state: ForecasterState, crew: Crew) -> None:
        self.plan, self.state, self.crew = plan, state, crew
        self.label_W = torch.from_numpy(train.label_W.astype(np.float32))
        torch.manual_seed(_seed(plan.seed, 0, 0))
        self.model = build_network(plan.network)
        self.inputs = self.model.read(train)
        if isinstance(self.model, Forecaster):
            self.model.measure(ForecastInputs.of(train))

    def pretrain(self) -> Iterator[str]:
        """A sentence after each pass of pre-training that is left."""
        plan, state, model = self.plan, self.state, self.model
        if state.auprcs or not isinstance(model, Forecaster) or not model.config.use_flux:
            return
        optimizer = self._begin(lambda name: plan.pretrain_rate)
        for number in range(len(state.losses), plan.pretrain_passes):
            random = self._seed_pass(PRETRAIN, number)
            total = 0.0
            for batch_B in self._batches(random, optimizer, number, plan.pretrain_passes):
                hidden_BK = _hide(len(batch_B), model.config.num_cadences // STRIDE, random)
                index_B, hidden_BK = self.crew.share(batch_B), self.crew.share(hidden_BK)
                error = model.masked_loss(self.inputs.flux_BTC[index_B], hidden_BK)
                total += self._step(optimizer, error, len(index_B), len(batch_B))
            loss = total / len(self.label_W)
            state.losses.append(loss)
            self._remember(optimizer)
            yield f"pre-training  pass {number + 1} of {plan.pretrain_passes}  loss {loss:.4f}"

    def tune(self, validation: Windows) -> Iterator[str]:
        """A sentence after each pass of tuning that is left."""
        plan, state = self.plan, self.state
        prior = None
        if plan.use_prior and getattr(plan.network, "use_flux", True):
            prior = RisingRate.measure(self.inputs.flux_BTC, self.label_W)
        if not state.auprcs:
            if state.model:
                load_adapter(self.model, state.model)
            state.optimizer = {}
            state.base = adapter_state(self.model) if isinstance(self.model, Forecaster) else {}
        elif isinstance(self.model, Forecaster):
            self.model.load_state_dict(state.base)
        torch.manual_seed(_seed(plan.seed, TUNE))  # for the first weights of LoRA
        attach(self.model, plan.method)
        optimizer = self._begin(self._tuning_rate)
        own = validation.take(self.crew.share(torch.arange(len(validation))).numpy())
        for number in range(len(state.auprcs), plan.num_passes):
            if number - 1 - int(np.argmax(state.auprcs or [0.0])) >= plan.patience:
                return
            random = self._seed_pass(TUNE, number)
            for batch_B in self._batches(random, optimizer, number, plan.num_passes):
                index_B = self.crew.share(batch_B)
                part = self.inputs.take(index_B)
                logit_B = self.model(part)
                loss = forecast_loss(logit_B, self.label_W[index_B], part.flux_BTC, prior)
                self._step(optimizer, loss, len(index_B), len(batch_B))
            logit_V = self.crew.gather(forecast_logits(self.model, own), len(validation))
            if not np.isfinite(logit_V).all():
                raise self._diverged("a forecast of validation is not finite", optimizer)
            auprc = average_precision(logit_V, validation.label_W)
            self._remember(optimizer)
            if not state.auprcs or auprc > max(state.auprcs):
                state.best = copy.deepcopy(state.model)
            state.auprcs.append(auprc)
            yield f"{plan.method}  pass {number + 1} of {plan.num_passes}  AUPRC {auprc:.4f}"

    def keep(self, keep: Callable[[ForecasterState], None]) -> None:
        if self.crew.rank == 0:
            keep(self.state)

    def _tuning_rate(self, name: str) -> float:
        """Learning rate at which a weight is tuned."""
        plan, model = self.plan, self.model
        if plan.tuning_rate:
            return plan.tuning_rate
        if isinstance(model, LanguageForecaster):
            return LANGUAGE_RATE if model.is_pretrained(name) else TUNING_RATES["full"]
        return TUNING_RATES[plan.method]

    def _begin(self, rate_of: Callable[[str], float]) -> torch.optim.Optimizer:
        """The optimizer of a phase, with its memory where a kill interrupted it."""
        by_rate: dict[float, list[torch.nn.Parameter]] = {}
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                by_rate.setdefault(rate_of(name), []).append(parameter)
        groups = [{"params": weights, "rate": rate} for rate, weights in by_rate.items()]
        optimizer = torch.optim.AdamW(groups, weight_decay=self.plan.weight_decay)
        if self.state.optimizer:
            load_adapter(self.model, self.state.model)
            optimizer.load_state_dict(self.state.optimizer)
        return optimizer

    def _batches(
        self, random: torch.Generator, optimizer: torch.optim.Optimizer, number: int, of: int
    ) -> Iterator[Tensor]:
        """Batches of a pass in a new order, with the learning rate set: warm-up, then cosine."""
        batches = torch.split(
            torch.randperm(len(self.label_W), generator=random), self.plan.batch_size
        )
        self.model.train()
        for step, batch_B in enumerate(batches, number * len(batches)):
            done = step / (of * len(batches))
            share = min(1.0, (done + 1e-3) / WARM_UP) * (1 + math.cos(math.pi * done)) / 2
            for group in optimizer.param_groups:
                group["lr"] = group["rate"] * share
            yield batch_B

    def _step(
        self, optimizer: torch.optim.Optimizer, loss: Tensor, num_own: int, num_all: int
    ) -> float:
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        mean = self.crew.average(self.model, loss.detach(), num_own / num_all)
        if not math.isfinite(mean):
            raise self._diverged(f"the loss is {mean}", optimizer)
        optimizer.step()
        return mean * num_all

    def _diverged(self, what: str, optimizer: torch.optim.Optimizer) -> ConfigError:
        """Says where; the same steps would end here again."""
        plan, state = self.plan, self.state
        rate = max(group["rate"] for group in optimizer.param_groups)
        if state.base or isinstance(self.model, LanguageForecaster):
            where = f"tuning by {plan.method}, pass {len(state.auprcs) + 1} of {plan.num_passes}"
            advice = "a lower --tuning-rate"
        else:
            where = f"pre-training, pass {len(state.losses) + 1} of {plan.pretrain_passes}"
            advice = "--pretrain-passes 0"
        return ConfigError(
            f"{what} in {where}, at a learning rate of {rate:g}, expected a finite number; train "
            f"again with {advice} and another --out"
        )

    def _remember(self, optimizer: torch.optim.Optimizer) -> None:
        self.state.model = adapter_state(self.model)
        self.state.optimizer = copy.deepcopy(optimizer.state_dict())

    def _seed_pass(self, phase: int, number: int) -> torch.Generator:
        """Order of the windows, the same in all workers; dropout differs between them."""
        torch.manual_seed(_seed(self.plan.seed, phase, number, 1 + self.crew.rank))
        return torch.Generator().manual_seed(_seed(self.plan.seed, phase, number))


def _hide(num_B: int, num_patches: int, random: torch.Generator) -> Tensor:
    """[B, K] bool, about HIDDEN of the patches, in blocks."""
    block_BJ = torch.rand(num_B, -(-num_patches // BLOCK), generator=random) < HIDDEN
    return block_BJ.repeat_interleave(BLOCK, dim=1)[:, :num_patches]


def _seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
