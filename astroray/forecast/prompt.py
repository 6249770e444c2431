"""In which words a language model is told what is known of a star.

After the textual modules FHR (record of flares) and FSI (statistics of flares) of StarF (Su et al.,
arXiv 2507.10986), and the properties of FLARE's prompt (Zhu et al., IJCAI-25). The words hold the
numbers of flares/history.py and nothing else, so they are as causal as those.
"""

import math
from collections.abc import Callable, Mapping

import numpy as np

from astroray.flares.history import SPANS_D, STATISTICS, WINDOW_D
from astroray.flares.records import PROPERTIES
from astroray.flares.windows import Windows

__all__ = ["write_prompts"]

UNKNOWN = "unknown"
PHRASES: Mapping[str, str] = {
    "teff": "temperature {} K",
    "logg": "log g {}",
    "metallicity": "metallicity {}",
    "radius": "radius {} solar",
    "period": "rotation {} d",
}
"""How each of records.PROPERTIES is said."""


def write_prompts(windows: Windows) -> list[str]:
    """[W] what is known of each window's star at its end, the light curve aside.

    Numbers are rounded to three digits; sizes are log10 of an equivalent duration in s.
    """
    return [
        f"Star: {_properties(property_P)}. {_statistics(statistics_N)}. {_history(history_MC)}. "
        "Flux:"
        for property_P, statistics_N, history_MC in zip(
            windows.property_WP, windows.statistics_WN, windows.history_WMC, strict=True
        )
    ]


def _properties(property_P: np.ndarray) -> str:
    return ", ".join(
        PHRASES[name].format(_number(value))
        for name, value in zip(PROPERTIES, property_P.tolist(), strict=True)
    )


def _statistics(statistics_N: np.ndarray) -> str:
    known = dict(zip(STATISTICS, statistics_N.tolist(), strict=True))

    def say(name: str, back: Callable[[float], float] = math.exp) -> str:
        return _number(back(known[name]))

    lately = ", ".join(f"{say(f'log rate, decaying over {d:g} d')} over {d:g} d" for d in SPANS_D)
    has_flared = known["log flares so far"] > 0
    last = f"{say('log days since the last')} d ago" if has_flared else "never"
    return (
        f"Flares so far: {say('log flares so far', math.expm1)} in "
        f"{say('log days observed so far', math.expm1)} d, {say('log rate so far')} a day; lately "
        f"{lately}; {say('log rate of this season in former years')} in this season; "
        f"{say(f'flares in the last {WINDOW_D:g} d', float)} in {WINDOW_D:g} d; the last {last}; "
        f"mean wait {say('log mean waiting time')} d, mean duration "
        f"{say('mean log10 duration', _power)} d, mean size {say('mean size', float)}, largest "
        f"{say('largest size', float)}, alignment with rotation "
        f"{say('alignment with the rotation', float)}"
    )


def _history(history_MC: np.ndarray) -> str:
    flares = [
        f"{_number(_power(ago))} {_number(_power(duration))} {_number(size)}"
        for ago, duration, size in history_MC.tolist()
        if math.isfinite(ago)
    ]
    return f"Last flares (days ago, days long, size): {'; '.join(flares) or 'none'}"


def _power(exponent: float) -> float:
    return float(10.0**exponent)


def _number(value: float) -> str:
    """Three digits, never in powers of ten: a tokenizer has its way with those."""
    if not math.isfinite(value):
        return UNKNOWN
    digits = 2 - math.floor(math.log10(abs(value))) if value else 0
    text = f"{value:.{min(max(digits, 0), 6)}f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text == "-0" else text
