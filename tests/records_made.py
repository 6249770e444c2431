"""Made records of flares: stars of known rates, or whose flares are announced by others."""

import numpy as np

from astroray.flares.records import StarRecord


def star_record(name="KIC 1", *, start=(), days=600.0, duration=0.1, size=33.0, **changes):
    """A star that was observed without pause, with flares at the given days."""
    start_F = np.sort(np.asarray(start, np.float64))
    facts = {
        "object_id": name,
        "start_F": start_F,
        "stop_F": start_F + duration,
        "size_F": np.full(len(start_F), size),
        "observed_S2": np.array([[0.0, days]]),
        "property_P": np.array([3500.0, 4.8, 0.0, 0.4, 5.0]),
    }
    return StarRecord(**(facts | changes))


def poisson_stars(num_stars, *, days=600.0, seed=0):
    """Stars whose flares come at random, each at its own rate of 0.003 to 0.3 a day."""
    random = np.random.default_rng(seed)
    stars = []
    for number in range(num_stars):
        rate = 10 ** random.uniform(-2.5, -0.5)
        start = random.uniform(0, days, random.poisson(rate * days))
        stars.append(star_record(f"KIC {number:04d}", start=start, days=days))
    return stars
