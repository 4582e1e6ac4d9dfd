"""Whether an exported model recommends what the trained one does, and what int8 costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import nn

from recbole_lite.inference.onnx_runtime import OnnxRuntime
from recbole_lite.inference.torch_runtime import TorchRuntime

Score = Callable[[np.ndarray], np.ndarray]
TOP = 20
TIE = 1e-4  # of the scores' spread: items nearer to each other may swap places


@dataclass
class Parity:
    """Scores of an exported model against torch's.

    Attributes
    ----------
    users : int
        Number compared.
    max_difference : float
        Largest difference of two scores.
    spread : float
        Standard deviation of the scores, to judge the difference by.
    same_top : float
        Share of users with the same items in the same order among the first `TOP`.
    same_top_but_for_ties : float
        The same where items whose scores differ by less than 1e-4 of the spread may swap.
    """

    users: int
    max_difference: float
    spread: float
    same_top: float
    same_top_but_for_ties: float

    def as_dict(self) -> dict[str, float]:
        """Plain data."""
        return asdict(self)


def compare(reference: TorchRuntime, exported: OnnxRuntime, histories: np.ndarray) -> Parity:
    """Compare scores over histories.

    Parameters
    ----------
    reference : TorchRuntime
    exported : OnnxRuntime
    histories : numpy.ndarray
        ``[B, L]`` internal ids, 0 behind.

    Returns
    -------
    Parity
    """
    parts = [histories[begin : begin + 64] for begin in range(0, len(histories), 64)]
    expected, found = (
        np.concatenate([runtime.scores(part)[:, 1:] for part in parts])
        for runtime in (reference, exported)
    )
    spread = float(expected.std())
    k = min(TOP, expected.shape[1])
    best = _best(expected, k), _best(found, k)
    same = (best[0] == best[1]).all(1)
    # What stands at each rank, both times by torch's scores: equal but for ties.
    ranked = [np.take_along_axis(expected, ids, 1) for ids in best]
    tied = (np.abs(ranked[0] - ranked[1]) <= TIE * spread).all(1)
    difference = float(np.abs(expected - found).max())
    return Parity(len(expected), difference, spread, float(same.mean()), float(tied.mean()))


def _best(scores: np.ndarray, k: int) -> np.ndarray:
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


class _Scorer(nn.Module):
    """Something that scores in a trainer's hands, for its ``evaluate``."""

    def __init__(self, score: Score, field: str):
        super().__init__()
        self.score, self.field = score, field

    def full_sort_predict(self, interaction) -> torch.Tensor:
        """Scores of all items, ``[B, n_items]``."""
        return torch.from_numpy(self.score(interaction[self.field].cpu().numpy()))


def evaluate(config, model, test_data, score: Score) -> dict[str, float]:
    """Metrics of scores on the test split, by the code that evaluates any model.

    Parameters
    ----------
    config : LiteConfig
    model : NextItemModel
        Where the scores come from in the end.
    test_data : DataLoader
    score : callable
        Ids ``[B, L]``, 0 behind -> scores ``[B, n_items]``: ``scores`` of a runtime.

    Returns
    -------
    dict
        ``recall@10`` and what else ``metrics`` and ``topk`` ask for.
    """
    from recbole_lite.config.registry import get_trainer

    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    trainer.model, trainer.device = _Scorer(score, model.ITEM_SEQ), torch.device("cpu")
    result = trainer.evaluate(test_data, load_best_model=False)
    return {name: float(value) for name, value in result.items()}
