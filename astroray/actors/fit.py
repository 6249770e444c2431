"""What a fit leaves: the network's closed form, the frame, the model file."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from astroray import storage
from astroray.actors.sample import Sample
from astroray.encoders import kind_of
from astroray.encoders.own_errors import ran_by
from astroray.encoders.pca import Components, fit_pca
from astroray.encoders.pretrained import load_pretrained
from astroray.encoders.store import Model, build_network, save_model
from astroray.errors import ConfigError
from astroray.preparation import Preparation
from astroray.scores.statistics import Moments

FRAME_ROWS = 2048
FRAME_BATCH = 32
LEAST_FINITE = 0.1
"""Share of the sample of which a network has to make finite numbers."""
COMPANY_TOLERANCE = 0.01
"""Of the largest number of a batch: what sums in another order change, in bfloat16 too."""


def finish_model(
    sample: Sample,
    *,
    path: str,
    encoder: str,
    config: Mapping[str, Any],
    weights: Mapping[str, Tensor] | None = None,
    fit: Mapping[str, Any] = MappingProxyType({}),
    seed: int = 0,
    num_threads: int = 1,
) -> str:
    """Closes the fit: fits what has a closed form, freezes the frame, publishes the model file.

    weights  the trained network's state; None where the encoder is not trained, or where the
             weights are those that come with astroray
    fit      facts about the training, for the record
    Returns the model_id.
    """
    torch.set_num_threads(num_threads)
    torch.manual_seed(seed)  # a class of the user's own may draw weights, and keep them
    network = build_network(encoder, config)
    facts = dict(fit)
    name = facts.get("program", encoder)
    if weights is None and (shipped := load_pretrained(encoder)) is not None:
        weights = shipped.weights(cast(Preparation, sample.preparation).bands)
        facts |= {"pretrained": dict(shipped.story)}
    with storage.local_copy(sample.path) as local:
        sample_NCYX = torch.from_numpy(np.load(local, mmap_mode="c"))
        if isinstance(network, Components):
            facts |= fit_pca(network, sample_NCYX, seed=seed)
        if weights is not None:
            network.load_state_dict(dict(weights))
        output_ND = _outputs(network, sample_NCYX, name)
    finite_MD = _finite(output_ND, name)
    center_D, scale_D, live_D = freeze_frame(finite_MD, standardize=kind_of(encoder).standardize)
    facts |= {"num_rows": sample.num_rows, "num_live": len(live_D)}
    model = Model(
        encoder=encoder,
        preparation=sample.preparation,
        network=network,
        network_config=config,
        center_D=center_D,
        scale_D=scale_D,
        live_D=live_D,
        fit=facts,
    )
    return save_model(path, model)


def freeze_frame(output_ND: Tensor, *, standardize: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Center, scale and live dimensions of the network's outputs over the sample.

    output_ND  [N, D]  outputs of the network
    Returns center [D], scale [D] (ones without `standardize`) and the indices of the dimensions
    that vary, at least one.
    """
    moments = Moments.of(output_ND.float().numpy())
    center_D = torch.from_numpy(moments.mean_D)
    spread_D = torch.from_numpy(moments.covariance).sqrt()
    live_D = torch.nonzero(spread_D > 1e-6 * spread_D.max()).flatten()
    if not len(live_D):
        live_D = torch.zeros(1, dtype=torch.int64)
    scale_D = torch.ones_like(spread_D)
    if standardize:
        scale_D[live_D] = torch.where(spread_D[live_D] > 0, spread_D[live_D], 1.0)
    return center_D.float(), scale_D.float(), live_D


@torch.inference_mode()
def _outputs(network: nn.Module, sample_NCYX: Tensor, name: str) -> Tensor:
    """The network's outputs over evenly spaced rows of the sample, [M, D]; errors name it."""
    step = max(1, -(-len(sample_NCYX) // FRAME_ROWS))
    batches = torch.split(sample_NCYX[::step], FRAME_BATCH)
    outputs = [_vectors(network, batch, name) for batch in batches]
    for place in torch.nonzero(_is_finite(outputs[0])).flatten().tolist()[:1]:
        alone_1D = _vectors(network, batches[0][place : place + 1], name)
        _check_alone(alone_1D, outputs[0][place:], name)
    return torch.cat(outputs)


def _is_finite(output_BD: Tensor) -> Tensor:
    """[B] bool, of which objects all numbers are finite."""
    return torch.isfinite(output_BD).all(dim=1)


def _vectors(network: nn.Module, batch_BCYX: Tensor, name: str) -> Tensor:
    """[B, D] of a batch. Raises ConfigError where the network makes something else of it."""
    with ran_by(name):
        made: Any = network(batch_BCYX.float().to(memory_format=torch.channels_last))
    is_real = isinstance(made, Tensor) and not made.is_complex()
    if not is_real or made.ndim != 2 or len(made) != len(batch_BCYX) or not made.shape[1]:
        found = f"a {type(made).__name__}"
        if isinstance(made, Tensor):
            found = f"{tuple(made.shape)}{'' if is_real else f' {made.dtype}'}"
        raise ConfigError(
            f"{name} makes {found} of {len(batch_BCYX)} objects, expected "
            "[B, D]: a vector of real numbers of each, as one tensor; mend what it returns"
        )
    return made.float()


def _check_alone(alone_1D: Tensor, beside_BD: Tensor, name: str) -> None:
    """Raises ConfigError where the first object's vector alone is another than beside others."""
    largest = float(beside_BD[_is_finite(beside_BD)].abs().max())
    apart = float((alone_1D - beside_BD[:1]).abs().max())
    if not apart <= COMPANY_TOLERANCE * largest:
        raise ConfigError(
            f"{name} makes other numbers of an object alone than beside others, "
            f"or when asked again: they differ by {apart:.2g}, the largest is {largest:.2g}, "
            "expected those of the object itself, so that a scan can be repeated; look for random "
            "numbers, and for a mean over the batch"
        )


def _finite(output_ND: Tensor, encoder: str) -> Tensor:
    """The outputs that are finite, [M, D]; the objects of others will be rejects of the scan.

    Raises ConfigError where hardly any is.
    """
    finite_MD = output_ND[_is_finite(output_ND)]
    if len(finite_MD) < LEAST_FINITE * len(output_ND):
        raise ConfigError(
            f"the encoder {encoder} makes NaN or infinite numbers of "
            f"{len(output_ND) - len(finite_MD)} of {len(output_ND)} objects of the sample, "
            f"expected finite ones of at least {LEAST_FINITE:.0%}; look for a division by a "
            "spread, or a logarithm, of images that have no contrast"
        )
    return finite_MD
