"""Stellar flares in light curves: what a flare is, how it is found, and how many are missed.

Everything here works on arrays of one light curve; none of it knows Ray, torch or a cluster.
T counts the cadences of a light curve, F its flares, J injected flares, E bins of equivalent
duration.
"""
