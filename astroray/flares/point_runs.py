"""Runs of points in a row: where a light curve stands out, or was observed."""

import numpy as np

__all__ = ["find_runs"]


def find_runs(
    is_in_P: np.ndarray, segment_P: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Where each run of points that are in begins [R], and where the points after it do [R].

    is_in_P    [P]  bool
    segment_P  [P]  no run reaches from one segment into the next; None: there is but one
    """
    padded_P2 = np.concatenate([[False], is_in_P, [False]])
    is_edge_P1 = padded_P2[1:] != padded_P2[:-1]
    if segment_P is not None:
        is_edge_P1[1:-1] |= segment_P[1:] != segment_P[:-1]
    return np.flatnonzero(is_in_P & is_edge_P1[:-1]), np.flatnonzero(is_in_P & is_edge_P1[1:]) + 1
