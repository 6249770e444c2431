"""How many workers a person asks for: auto, N or MIN..MAX."""

from astroray.errors import ConfigError

__all__ = ["parse_workers"]


def parse_workers(workers: str) -> tuple[int, int] | None:
    """Bounds of N or MIN..MAX; None of auto. Raises ConfigError on other text.

    Called where a configuration is made, so that a slip is told before anything starts.
    """
    if workers == "auto":
        return None
    low, dots, high = workers.partition("..")
    try:
        bounds = (int(low), int(high if dots else low))
    except ValueError:
        bounds = (0, 0)
    if not 1 <= bounds[0] <= bounds[1]:
        raise ConfigError(f"workers is {workers!r}, expected auto, N, or MIN..MAX with 1 <= MIN")
    return bounds
