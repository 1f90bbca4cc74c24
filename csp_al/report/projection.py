"""The pool on a plane: principal components of what the potentials make of each candidate."""

from __future__ import annotations

import numpy as np
import pandas as pd

from csp_al.select.cluster import standardise
from csp_al.select.ranking import rows_of
from csp_al.structures import Floats, Relaxed


def projected(ranking: pd.DataFrame, relaxed: Relaxed) -> pd.DataFrame:
    """The rows of a ranking, with the first two principal components of their features as ``x`` and ``y``.

    ``x_share`` and ``y_share`` are the shares of the variance of the two components, the same in all rows. Rows whose
    features are not finite are left out.
    """
    features = relaxed.prediction.features[rows_of(relaxed.structures, ranking["id"])]
    finite = np.isfinite(features).all(axis=1)
    points, shares = principal_components(features[finite])
    places = {"x": points[:, 0], "y": points[:, 1], "x_share": shares[0], "y_share": shares[1]}
    return ranking.iloc[np.flatnonzero(finite)].assign(**places).reset_index(drop=True)


def principal_components(features: Floats) -> tuple[Floats, Floats]:
    """The first two principal components (n, 2) of standardise features (n, d), and their shares of the variance (2,).

    The sign is such that the largest value of a component is positive. Fewer than two directions leave zeros.
    """
    if not len(features):
        return np.zeros((0, 2)), np.zeros(2)
    u, values, _ = np.linalg.svd(standardise(features), full_matrices=False)
    found = min(2, len(values))
    points, shares = np.zeros((len(features), 2)), np.zeros(2)
    points[:, :found] = (u * values)[:, :found]
    signs = np.sign(np.take_along_axis(points, np.abs(points).argmax(axis=0)[None], axis=0))
    if (values**2).sum() > 0:
        shares[:found] = values[:found] ** 2 / (values**2).sum()
    return np.where(signs == 0, 1, signs) * points, shares
