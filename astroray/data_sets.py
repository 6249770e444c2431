"""The sets of labelled objects that evaluations read from the folder of `--data`."""

from astroray import storage
from astroray.errors import ConfigError


def expect(path: str) -> None:
    """Raises ConfigError where a file of a set is not there."""
    if not storage.exists(path):
        raise missing(path)


def missing(path: str) -> ConfigError:
    """The error that says what lacks, and how the folder of `--data` has to look."""
    return ConfigError(
        f"{path} is not there; --data DIR must hold the data sets as galaxies/NAME/..., "
        "lightcurves/NAME/... and spectra/NAME/..."
    )
