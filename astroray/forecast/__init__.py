"""Will a star flare in the next 24 hours: networks, baselines, and how honestly they are judged.

What needs no torch, windows and what is known of a star's past, stands in `astroray.flares`.
"""
