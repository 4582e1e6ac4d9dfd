"""Calibrated probabilities: the temperature of a model's softmax, fitted on the validation part.

The probability of an item is ``softmax(scores / T)`` over the items that may be recommended. T
minimises the mean negative log-likelihood of the validation targets (Guo et al. 2017), which is
convex in 1/T. Its derivative by 1/T is the expected score minus the target's score, so that the
root is bracketed on a grid, twice, and interpolated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recbole_lite.data.loaders import HistoryMaskLoader
from recbole_lite.inference.model_folder import SECTION, is_packed, read_bundle, write_config
from recbole_lite.inference.saved_run import load_data_and_model
from recbole_lite.trainer.checkpoint import load_config
from recbole_lite.utils.errors import RequestError

TOP = 10
_MOST_ROWS = 5000  # for one parameter
_RANGE = 1e-3, 1e3  # of 1/T
_POINTS = 25
_Batches = Iterable[tuple[torch.Tensor, torch.Tensor]]


def calibrate(folder: str | Path, data_path: str | Path | None = None) -> dict[str, Any]:
    """Fit the temperature of a finished run, and store it in its ``config.json``.

    Parameters
    ----------
    folder : str or Path
        Folder of the run.
    data_path : str or Path, optional
        Where the data set is now; default: where it was.

    Returns
    -------
    dict
        ``value``, the temperature; ``valid`` and ``test``: :func:`reliability` of each part,
        None where the run has no such part. At most 5,000 rows of a part are read.

    Raises
    ------
    RequestError
        The folder is packed, the model has no scores, or the run does not rank all items.
    CheckpointError, DataError
        The run or its data cannot be read.
    """
    folder = Path(folder)
    settings = read_bundle(folder).settings
    if is_packed(folder):
        raise RequestError(f"{folder}: a packed model; calibrate the run's folder, then pack it")
    if settings.get("decoder") is True or settings.get("task") == "topn":
        raise RequestError(f"{folder}: calibration needs scores of all items, this model has none")
    _, model, _, _, *parts = load_data_and_model(folder, data_path)
    if not all(isinstance(part, HistoryMaskLoader) for part in parts):
        raise RequestError(f"{folder}: calibration needs a ranking of all items (eval_args: mode)")
    valid, test = (part if len(part._dataset) else None for part in parts)
    if valid is None:
        raise RequestError(f"{folder}: the run has no validation part to calibrate on")
    model.eval()
    found: dict[str, Any] = {"value": fit_temperature(lambda: _scored(model, valid))}
    for name, part in (("valid", valid), ("test", test)):
        found[name] = part and reliability(_scored(model, part), found["value"])
    content = load_config(folder)
    write_config(folder, content, {**content[SECTION], "temperature": found})
    return found


def fit_temperature(batches: Callable[[], _Batches]) -> float:
    """Temperature with the smallest mean negative log-likelihood.

    Parameters
    ----------
    batches : callable
        Each call gives all batches: scores ``[B, n_items]``, -inf for items that cannot be
        recommended, and targets ``[B]``. It is called twice.

    Returns
    -------
    float
        Between 0.001 and 1,000.
    """
    grid = np.geomspace(*_RANGE, _POINTS)
    for _ in range(2):
        slopes = np.zeros(_POINTS)
        for scores, targets in batches():
            slopes += [_slope(scores, targets, inverse) for inverse in grid]
        place = int(np.clip(np.searchsorted(slopes, 0), 1, _POINTS - 1))
        low, high = grid[place - 1], grid[place]
        bracket = slopes[place - 1 : place + 1]
        grid = np.geomspace(low, high, _POINTS)
    return 1 / float(np.interp(0, bracket, [low, high]))


def reliability(batches: _Batches, temperature: float) -> dict[str, Any]:
    """What probabilities promise and what happens.

    Returns
    -------
    dict
        ``rows``; ``nll``: mean negative log-likelihood without and with the temperature;
        ``expected``: mean sum of the probabilities of the first ten items, likewise; ``hits``:
        share of targets among them.
    """
    rows, hits, sums = 0, 0.0, np.zeros((2, 2))
    for scores, targets in batches:
        best = scores.topk(min(TOP, scores.shape[1] - 1)).indices
        rows, hits = rows + len(targets), hits + float((best == targets[:, None]).sum())
        for place, value in enumerate((1.0, temperature)):
            logs = (scores / value).log_softmax(1)
            sums[0, place] -= float(logs.gather(1, targets[:, None]).sum())
            sums[1, place] += float(logs.gather(1, best).exp().sum())
    nll, expected = (sums / rows).tolist()
    return {"rows": rows, "nll": nll, "expected": expected, "hits": hits / rows}


def _slope(scores: torch.Tensor, targets: torch.Tensor, inverse: float) -> float:
    """Derivative of the negative log-likelihood by 1/T, summed over the rows."""
    shares = (scores * inverse).softmax(1)
    means = (shares * scores.clamp(min=torch.finfo(scores.dtype).min)).sum(1)
    return float((means - scores.gather(1, targets[:, None])[:, 0]).sum())


def _scored(model, loader: HistoryMaskLoader) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Scores and targets of a part's rows, without targets that cannot be recommended."""
    step = ceil(len(loader._dataset) / _MOST_ROWS)
    device = next(model.parameters()).device
    for number, (batch, history, rows, targets) in enumerate(loader):
        if number % step:
            continue
        with torch.no_grad():
            scores = model.full_sort_predict(batch.to(device)).view(len(batch), -1)
        scores = scores.double().cpu()
        scores[:, 0] = -torch.inf
        if history is not None:
            scores[history] = -torch.inf
        scores = scores[rows]
        kept = scores.gather(1, targets[:, None])[:, 0].isfinite()
        yield scores[kept], targets[kept]
