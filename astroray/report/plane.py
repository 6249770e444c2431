"""Which plane shows most of how embeddings differ, and how far objects are drawn in it."""

import numpy as np

__all__ = ["drawn_nearer", "principal_plane"]


def principal_plane(embedding_MD: np.ndarray) -> tuple[np.ndarray, float]:
    """Coordinates [M, 2] from the median along two principal axes, and their share of variance.

    For the axes, objects beyond three median distances are reined in to that: a few extreme ones
    must not choose the view. Subspace iteration (Halko et al. 2011, arXiv:0909.4061), since D may
    be thousands; signs are fixed by the largest weight.
    """
    centered_MD = embedding_MD - np.median(embedding_MD, axis=0)
    norm_M = np.linalg.norm(centered_MD, axis=1)
    reach = 3 * float(np.median(norm_M)) or 1.0
    reined_MD = centered_MD * np.minimum(1, reach / np.maximum(norm_M, reach))[:, None]
    reined_MD -= reined_MD.mean(axis=0)
    basis_DK = np.random.default_rng(0).standard_normal(
        (embedding_MD.shape[1], min(embedding_MD.shape[1], 12))
    )
    for _ in range(8):
        basis_DK, _ = np.linalg.qr(reined_MD.T @ (reined_MD @ basis_DK))
    _, _, turn_KK = np.linalg.svd(reined_MD @ basis_DK, full_matrices=False)
    axis_2D = (basis_DK @ turn_KK.T).T[:2]
    largest = np.abs(axis_2D).argmax(axis=1)
    axis_2D = axis_2D * np.sign(axis_2D[np.arange(len(axis_2D)), largest])[:, None]
    whole = float((reined_MD**2).sum()) or 1.0
    xy_M2 = centered_MD @ axis_2D.T
    xy_M2 = np.pad(xy_M2, ((0, 0), (0, 2 - xy_M2.shape[1])))
    return xy_M2, float(((reined_MD @ axis_2D.T) ** 2).sum()) / whole


def drawn_nearer(xy_M2: np.ndarray) -> np.ndarray:
    """A distance r from the middle becomes s asinh(r / s), s twice the median of r.

    So a few extreme outliers do not squeeze all others into one spot.
    """
    radius_M = np.hypot(*xy_M2.T)
    soft = 2 * float(np.median(radius_M)) or 1.0
    nearer_M = soft * np.arcsinh(radius_M / soft) / np.maximum(radius_M, 1e-12 * soft)
    return np.asarray(xy_M2 * nearer_M[:, None])
