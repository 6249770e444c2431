"""How an encoder's weights follow their gradients: numbers that stand beside its name."""

import dataclasses

from astroray.errors import ConfigError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """Numbers of AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101) and of what is around it.

    The defaults are Adam at a constant rate. The rate never falls, so a fit needs not know when
    it ends; where `average` is set, the running average of the weights does what a falling rate
    would do (Morales-Brotons et al. 2024, arXiv 2411.18704). Raises ConfigError on numbers that
    cannot work.
    """

    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    """Acts on matrices and kernels only, never on biases or gains."""
    warmup_steps: int = 0
    """Steps over which the rate rises in a line from 0; 0: it starts whole."""
    clip_norm: float | None = None
    """Longest gradient of all weights together; a longer one is shortened to it. None: any."""
    average: float = 0.0
    """Share that the published weights keep of themselves in each step, they being a running
    average of the trained ones; 0: the trained weights themselves."""

    def __post_init__(self) -> None:
        for name in ("learning_rate", "clip_norm"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"{name} of a recipe is {value}, expected more than 0")
        for name in ("weight_decay", "warmup_steps"):
            if not getattr(self, name) >= 0:
                raise ConfigError(
                    f"{name} of a recipe is {getattr(self, name)}, expected at least 0"
                )
        if not 0 <= self.average < 1:
            raise ConfigError(f"average of a recipe is {self.average}, expected a share 0..1")
