"""The linear encoders: coordinates along the principal components of what is measured."""

import torch
from torch import Tensor, nn

from astroray.preparation.light_curves import WINDOW

MAX_FIT_ROWS = 5000
FEATURES_AT_ONCE = 256
NUM_POWER_ITERATIONS = 4
NARROWEST = 0.01
"""Share of the widest component's spread below which none counts as narrower: of a small sample
the last components vary too little by chance."""


class Components(nn.Module):
    """Projects what `measure` gives of an input to its first `latent` principal components."""

    has_units = False
    """Whether the features have different units: then each counts by its own spread."""
    evenness = 0.0
    """Power of its spread that a component is divided by: 0, as they are; 1, all of one spread."""

    def __init__(self, *, num_features: int, latent: int) -> None:
        super().__init__()
        self.embedding_dim = latent
        self.register_buffer("mean", torch.zeros(num_features))
        self.register_buffer("components", torch.zeros(latent, num_features))

    def forward(self, input_BCYX: Tensor) -> Tensor:
        mean = self.get_buffer("mean")
        return (self.measure(input_BCYX) - mean) @ self.get_buffer("components").T

    def measure(self, input_BCYX: Tensor) -> Tensor:
        """What is projected, [B, F]."""
        return input_BCYX.flatten(1)


class Pca(Components):
    """Projects [B, C, S, S] to the first `latent` principal components, [B, latent].

    Of the pixels themselves; a subclass measures something else of them first.
    """

    def __init__(self, *, num_bands: int, size_px: int, latent: int = 32) -> None:
        super().__init__(num_features=self.count_features(num_bands, size_px), latent=latent)

    def count_features(self, num_bands: int, size_px: int) -> int:
        """Numbers that `measure` gives of an image."""
        return num_bands * size_px * size_px


class FluxPca(Components):
    """Projects the flux of light curves [B, 2, W, 512] to its first principal components."""

    def __init__(self, *, num_windows: int, latent: int = 32) -> None:
        super().__init__(num_features=num_windows * WINDOW, latent=latent)

    def measure(self, input_BCYX: Tensor) -> Tensor:
        """The flux of all bins, [B, F]."""
        return input_BCYX[:, 0].flatten(1)


@torch.inference_mode()
def fit_pca(network: Components, sample_NCYX: Tensor, *, seed: int) -> dict[str, float]:
    """Sets mean and components from a sample; returns the share of variance they explain.

    sample_NCYX  [N, C, Y, X]  prepared objects; at most MAX_FIT_ROWS of them are used
    Randomized SVD after Halko, Martinsson & Tropp 2011, SIAM Rev. 53, 217; seeded, signs fixed
    by the largest weight of each component. Components beyond the sample's rank are zero.
    """
    order_N = torch.randperm(len(sample_NCYX), generator=torch.Generator().manual_seed(seed))
    chosen_NCYX = sample_NCYX[order_N[:MAX_FIT_ROWS].sort().values]
    batches = torch.split(chosen_NCYX, FEATURES_AT_ONCE)
    features_NF = torch.cat([network.measure(batch.float()) for batch in batches])
    mean = features_NF.mean(dim=0)
    centered_NF = features_NF - mean
    spread_F = torch.ones_like(mean)
    if network.has_units:
        deviation_F = centered_NF.square().mean(0).sqrt()
        is_live_F = deviation_F > 1e-6 * mean.abs().clamp(min=1.0)
        spread_F = torch.where(is_live_F, deviation_F, torch.inf)
        centered_NF = centered_NF / spread_F
    latent = network.embedding_dim
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        rank = min(latent + 10, *centered_NF.shape)
        _, sigma, v = torch.svd_lowrank(centered_NF, q=rank, niter=NUM_POWER_ITERATIONS)
    components = v.T[:latent]
    largest = components.abs().argmax(dim=1, keepdim=True)
    components = components * torch.sign(components.gather(1, largest))
    widest = sigma[0].clamp(min=1e-30)
    gain_K = (sigma[:latent] / widest).clamp(min=NARROWEST) ** -network.evenness
    components = components * gain_K[:, None]
    network.get_buffer("mean").copy_(mean)
    network.get_buffer("components")[: len(components)] = components / spread_F
    total = float(centered_NF.square().sum())
    explained = float(sigma[:latent].square().sum()) / total if total > 0 else 0.0
    return {"explained_variance": min(explained, 1.0)}
