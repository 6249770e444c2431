"""How flares are forecast from history and statistics alone: RecordNet and its fit.

W counts windows, B those of a batch, X inputs, P properties, A members of the ensemble.
"""

import copy
import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from astroray.flares.history import STATISTICS
from astroray.flares.records import PROPERTIES
from astroray.flares.windows import Windows
from astroray.forecast.baselines import draw_windows
from astroray.forecast.skill import average_precision

__all__ = ["RecordConfig", "RecordNet", "fit_record_net", "record_logits"]

CLIP = 5.0
"""Inputs are cut at so many standard deviations."""
RIDGE = 1e-4
NUM_NEWTON = 30
CONTRASTS = (
    ("log rate so far", "log days since the last", 1.0),
    ("log rate, decaying over 300 d", "log days since the last", 1.0),
    ("log rate of this season in former years", "log rate so far", -1.0),
    ("log rate, decaying over 100 d", "log rate so far", -1.0),
)
"""Sums and differences of statistics: flares expected since the last one, and whether the star
flares more than it used to."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecordConfig:
    """How a RecordNet is trained."""

    num_members: int = 2
    """Networks of other seeds whose logits are averaged."""
    width: int = 64
    num_passes: int = 12
    batch_size: int = 2048
    learning_rate: float = 5e-3
    weight_decay: float = 0.05
    forget: float = 0.3
    """Share of windows of a batch whose star's properties are hidden, and likewise its history:
    there are few stars, and a network that can tell them apart learns them by heart."""
    blur: float = 0.15
    """Noise on the properties, in standard deviations, for the same reason."""
    seed: int = 0


class RecordNet(nn.Module):
    """Windows' numbers to the log odds of a flare: a linear path, and a perceptron beside it.

    The linear path carries what is near to linear, the log rates, to stars beyond those of the
    training; the perceptron starts at zero and learns what is not.
    """

    mean_X: Tensor
    spread_X: Tensor

    def __init__(self, num_inputs: int, width: int) -> None:
        super().__init__()
        self.register_buffer("mean_X", torch.zeros(num_inputs))
        self.register_buffer("spread_X", torch.ones(num_inputs))
        self.linear = nn.Linear(2 * num_inputs, 1)
        self.perceptron = nn.Sequential(
            nn.Linear(2 * num_inputs, width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Linear(width, 1),
        )
        last = self.perceptron[-1]
        for parameter in (*last.parameters(), *self.linear.parameters()):
            nn.init.zeros_(parameter)

    def scale(self, input_BX: Tensor) -> Tensor:
        """Standard deviations from the mean, cut at CLIP, and beside them 1 where unknown."""
        known_BX = torch.isfinite(input_BX)
        scaled_BX = torch.where(known_BX, (input_BX - self.mean_X) / self.spread_X, 0.0)
        return torch.cat([scaled_BX.clamp(-CLIP, CLIP), (~known_BX).float()], dim=1)

    def forward(self, input_BX: Tensor) -> Tensor:
        """Log odds [B]; NaN in the inputs means unknown."""
        both_BX = self.scale(input_BX)
        return (self.linear(both_BX) + self.perceptron(both_BX))[:, 0]


def record_inputs(windows: Windows) -> np.ndarray:
    """[W, X] float32: properties, history, statistics and their contrasts, in this order."""
    column = {name: windows.statistics_WN[:, at] for at, name in enumerate(STATISTICS)}
    contrasts = [column[left] + sign * column[right] for left, right, sign in CONTRASTS]
    return np.concatenate(
        [
            windows.property_WP,
            windows.history_WMC.reshape(len(windows), -1),
            windows.statistics_WN,
            np.stack(contrasts, axis=1),
        ],
        axis=1,
    )


def fit_record_net(train: Windows, validation: Windows, config: RecordConfig) -> list[RecordNet]:
    """The members of an ensemble, each with the weights of its best pass.

    All windows with a flare are used and a draw of those without, weighted to the natural rate.
    The best pass is that of the largest AUPRC on the validation windows.
    """
    index_V, weight_V = draw_windows(train, np.arange(len(train)), config.seed)
    input_VX = torch.from_numpy(record_inputs(train.take(index_V)))
    label_V = torch.from_numpy(train.label_W[index_V].astype(np.float32))
    members = []
    for member in range(config.num_members):
        torch.manual_seed(1000 * config.seed + member)
        net = RecordNet(input_VX.shape[1], config.width)
        net.mean_X.copy_(input_VX.nanmean(dim=0))
        spread_X = (input_VX - net.mean_X).square().nanmean(dim=0).sqrt()
        net.spread_X.copy_(torch.where(spread_X > 1e-6, spread_X, 1.0).nan_to_num(1.0))
        net.mean_X.nan_to_num_(0.0)
        weight = torch.from_numpy(weight_V.astype(np.float32))
        members.append(_train(net, input_VX, label_V, weight, validation, config))
    return members


def record_logits(members: Sequence[RecordNet], windows: Windows) -> np.ndarray:
    """[W] mean log odds of the members."""
    input_WX = torch.from_numpy(record_inputs(windows))
    with torch.inference_mode():
        logits = [
            torch.cat([member(part_BX) for part_BX in torch.split(input_WX, 1 << 16)])
            for member in members
        ]
    return torch.stack(logits).mean(dim=0).numpy()


def _train(
    net: RecordNet,
    input_VX: Tensor,
    label_V: Tensor,
    weight_V: Tensor,
    validation: Windows,
    config: RecordConfig,
) -> RecordNet:
    _fit_linear(net, input_VX, label_V, weight_V)
    rates = [config.learning_rate / 10, config.learning_rate]
    groups = [
        {"params": part.parameters(), "lr": rate}
        for part, rate in zip((net.linear, net.perceptron), rates, strict=True)
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=config.weight_decay)
    num_steps = config.num_passes * -(-len(label_V) // config.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=num_steps)
    best, best_state = -1.0, copy.deepcopy(net.state_dict())
    for _ in range(config.num_passes):
        for batch_B in torch.split(torch.randperm(len(label_V)), config.batch_size):
            input_BX = _forget(net, input_VX[batch_B], config)
            loss = F.binary_cross_entropy_with_logits(
                net(input_BX), label_V[batch_B], weight=weight_V[batch_B]
            )
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
        score_W = record_logits([net], validation)
        auprc = average_precision(score_W, validation.label_W)
        if auprc > best:
            best, best_state = auprc, copy.deepcopy(net.state_dict())
    net.load_state_dict(best_state)
    return net


def _fit_linear(net: RecordNet, input_VX: Tensor, label_V: Tensor, weight_V: Tensor) -> None:
    """Logistic regression: where the linear path begins, while the perceptron is still zero."""
    optimizer = torch.optim.LBFGS(
        net.linear.parameters(), max_iter=NUM_NEWTON, line_search_fn="strong_wolfe"
    )
    both_VX = net.scale(input_VX)

    def closure() -> Tensor:
        optimizer.zero_grad()
        logit_V = net.linear(both_VX)[:, 0]
        loss = F.binary_cross_entropy_with_logits(logit_V, label_V, weight=weight_V)
        loss = loss + RIDGE * net.linear.weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]


def _forget(net: RecordNet, input_BX: Tensor, config: RecordConfig) -> Tensor:
    """A copy in which properties are blurred, and they or the history are hidden at random."""
    num_properties = len(PROPERTIES)
    first_statistic = input_BX.shape[1] - len(STATISTICS) - len(CONTRASTS)
    changed_BX = input_BX.clone()
    noise_BP = config.blur * torch.randn(len(input_BX), num_properties)
    changed_BX[:, :num_properties] += noise_BP * net.spread_X[:num_properties]
    for part in (slice(0, num_properties), slice(num_properties, first_statistic)):
        hidden_B = torch.rand(len(input_BX)) < config.forget
        changed_BX[hidden_B, part] = torch.nan
    return changed_BX
