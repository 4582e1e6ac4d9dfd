"""Ridge regression with its penalty chosen by exact leave-one-out errors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import eigh

PENALTIES = np.logspace(-6, 3, 28)  # in units of the mean eigenvalue of the features' covariance


@dataclass(frozen=True)
class Ridge:
    """A fitted map ``x -> x @ coefficients + intercept``.

    Attributes
    ----------
    coefficients : numpy.ndarray
        ``[p, d]``.
    intercept : numpy.ndarray
        ``[d]``.
    penalty : float
        The one with the smallest leave-one-out error.
    r2 : float
        Share of the targets' variance that is explained on rows left out of the fit.
    left_out : numpy.ndarray
        ``[n, d]``, prediction of each row by a fit without it.
    """

    coefficients: np.ndarray
    intercept: np.ndarray
    penalty: float
    r2: float
    left_out: np.ndarray

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Predict, ``[n, p]`` -> ``[n, d]``."""
        return x @ self.coefficients + self.intercept


def fit_ridge(x: np.ndarray, y: np.ndarray, penalties: np.ndarray = PENALTIES) -> Ridge:
    r"""Minimise :math:`\|Y - XB - 1b^T\|^2 + \lambda\|B\|^2`; the intercept is not penalised.

    The error on row i of a fit without row i is :math:`e_i / (1 - h_{ii})`, with the residual
    :math:`e_i` of the fit on all rows and the diagonal of its hat matrix (Hastie, Tibshirani,
    Friedman, "The Elements of Statistical Learning", equation 7.64), so that one
    eigendecomposition of :math:`X^TX` serves all penalties.

    Parameters
    ----------
    x : numpy.ndarray
        ``[n, p]`` features.
    y : numpy.ndarray
        ``[n, d]`` targets.
    penalties : numpy.ndarray
        Tried penalties, times the mean eigenvalue of :math:`X^TX`.

    Returns
    -------
    Ridge

    Raises
    ------
    ValueError
        Fewer than 3 rows.
    """
    n = len(x)
    if n < 3:
        raise ValueError(f"ridge regression wants at least 3 rows, found {n}")
    x, y = x.astype(np.float64), y.astype(np.float64)
    mean_x, mean_y = x.mean(0), y.mean(0)
    x, y = x - mean_x, y - mean_y
    values, vectors = eigh(x.T @ x)
    values = values.clip(min=0)
    rotated = x @ vectors  # [n, p]
    moments = rotated.T @ y  # [p, d]
    unit = max(values.mean(), np.finfo(float).tiny)
    errors = [
        float(np.square(_left_out_residuals(rotated, moments, y, values, p * unit)).sum())
        for p in penalties
    ]
    best = int(np.argmin(errors))
    penalty = float(penalties[best] * unit)
    coefficients = vectors @ (moments / (values + penalty)[:, None])
    # The mean of the other rows is the prediction that r2 = 0 stands for.
    baseline = float(np.square(y * n / (n - 1)).sum()) or 1.0
    r2 = 1.0 - errors[best] / baseline
    left_out = y + mean_y - _left_out_residuals(rotated, moments, y, values, penalty)
    return Ridge(coefficients, mean_y - mean_x @ coefficients, penalty, r2, left_out)


def _left_out_residuals(rotated, moments, y, values, penalty) -> np.ndarray:
    shrunk = 1.0 / (values + penalty)
    residuals = y - rotated @ (moments * shrunk[:, None])
    leverage = np.square(rotated) @ shrunk + 1.0 / len(y)  # 1 / n: the intercept's
    return residuals / (1.0 - leverage)[:, None]
