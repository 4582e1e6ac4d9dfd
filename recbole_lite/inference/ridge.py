"""Ridge regression with its penalty chosen by leave-one-out errors (scikit-learn's `RidgeCV`)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import RidgeCV

PENALTIES = np.logspace(-6, 3, 28)  # in units of the mean eigenvalue of the features' covariance


@dataclass(frozen=True)
class Ridge:
    """A fitted regression ``[n, p] -> [n, d]``."""

    model: RidgeCV
    r2: float  # explained share of the targets' variance, measured on rows left out of the fit
    left_out: np.ndarray  # [n, d], prediction of each row by a fit without it

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Predict, ``[n, p]`` -> ``[n, d]``."""
        return self.model.predict(x)


def fit_ridge(x: np.ndarray, y: np.ndarray) -> Ridge:
    """Fit with the penalty that has the smallest leave-one-out error.

    Parameters
    ----------
    x : numpy.ndarray
        ``[n, p]`` features.
    y : numpy.ndarray
        ``[n, d]`` targets.

    Raises
    ------
    ValueError
        Fewer than 3 rows.
    """
    n = len(x)
    if n < 3:
        raise ValueError(f"ridge regression needs at least 3 rows, found {n}")
    x, y = x.astype(np.float64), y.astype(np.float64)
    unit = max(np.square(x - x.mean(0)).sum() / x.shape[1], np.finfo(float).tiny)
    penalty = RidgeCV(PENALTIES * unit).fit(x, y).alpha_
    # With a scorer, RidgeCV keeps the left-out predictions instead of their errors.
    model = RidgeCV([penalty], scoring="neg_mean_squared_error", store_cv_results=True).fit(x, y)
    left_out = model.cv_results_[..., 0].reshape(y.shape)
    # A prediction by the mean of the other rows has r2 = 0.
    baseline = float(np.square((y - y.mean(0)) * n / (n - 1)).sum()) or 1.0
    return Ridge(model, 1.0 - float(np.square(y - left_out).sum()) / baseline, left_out)
