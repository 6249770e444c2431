"""Models whose weights do not matter, for benchmarks that time them."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a fresh process loads torch itself, some of them on the clock
    from astroray.actors.sample import Sample


def make_model(
    sample: "Sample", encoder: str, folder: str, *, latent: int | None = None, num_threads: int = 1
) -> str:
    """A model with the weights it begins with, its frame frozen: speed is not in the weights."""
    import torch

    from astroray.actors.fit import finish_model
    from astroray.actors.sample import network_config
    from astroray.encoders import ENCODERS
    from astroray.encoders.store import build_network

    config = network_config(encoder, sample, latent=latent)
    torch.manual_seed(0)
    is_trained = ENCODERS[encoder].fit == "network"
    path = f"{folder}/{encoder}.safetensors"
    finish_model(
        sample,
        path=path,
        encoder=encoder,
        config=config,
        weights=build_network(encoder, config).state_dict() if is_trained else None,
        num_threads=num_threads,
    )
    return path
