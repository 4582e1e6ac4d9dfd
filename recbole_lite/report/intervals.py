"""Confidence intervals of means over users."""

from __future__ import annotations

import numpy as np

CONFIDENCE = 0.95
RESAMPLES = 9999
SEED = 0  # the same users are drawn for every row and every metric
_Z = 1.959964  # of a 95% interval
_BLOCK = 1_000_000  # values that are resampled at once


def mean_intervals(values: np.ndarray) -> np.ndarray:
    """Percentile bootstrap of the mean.

    Parameters
    ----------
    values : numpy.ndarray
        ``[n, users]``; the users are drawn for all n at once.

    Returns
    -------
    numpy.ndarray
        ``[n, 2]``, lower and upper end; nan where there are fewer than two users.
    """
    from scipy.stats import bootstrap

    if values.shape[1] < 2:
        return np.full((len(values), 2), np.nan)
    found = bootstrap(
        (values,),
        np.mean,
        axis=1,
        n_resamples=RESAMPLES,
        batch=max(1, _BLOCK // values.size),
        confidence_level=CONFIDENCE,
        method="percentile",
        random_state=np.random.default_rng(SEED),
    )
    return np.column_stack([found.confidence_interval.low, found.confidence_interval.high])


def half_interval(values: np.ndarray) -> float:
    """Half of the 95% interval of a mean, by its standard error; nan for fewer than two values."""
    if len(values) < 2:
        return float("nan")
    return float(_Z * values.std(ddof=1) / np.sqrt(len(values)))
