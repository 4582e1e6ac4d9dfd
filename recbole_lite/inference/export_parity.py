"""Comparison of an exported model with the trained one: scores, top lists and test metrics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from recbole_lite.inference.onnx_runtime import OnnxRuntime
from recbole_lite.inference.torch_runtime import TorchRuntime

Score = Callable[[np.ndarray], np.ndarray]  # ids [B, L], padded on the right -> [B, n_items]
TOP = 20
TIE = 1e-4  # items whose scores differ by less than this share of the spread may swap ranks


@dataclass
class Parity:
    """Differences between the scores of an exported model and those of torch."""

    users: int  # number of histories compared
    max_difference: float  # largest of two scores
    spread: float  # standard deviation of the scores, as the scale of the difference
    same_top: float  # share of users with the same items in the same order among the first TOP
    same_top_but_for_ties: float  # if items whose scores differ by less than TIE may swap


def compare_scores(reference: TorchRuntime, exported: OnnxRuntime, histories: np.ndarray) -> Parity:
    """Compare scores of histories ``[B, L]``, internal ids padded with 0 on the right."""
    parts = [histories[begin : begin + 64] for begin in range(0, len(histories), 64)]
    expected, found = (
        np.concatenate([runtime.scores(part)[:, 1:] for part in parts])
        for runtime in (reference, exported)
    )
    spread = float(expected.std())
    k = min(TOP, expected.shape[1])
    best = _best(expected, k), _best(found, k)
    same = (best[0] == best[1]).all(1)
    # Torch's score of the item at each rank of both lists: equal up to ties.
    ranked = [np.take_along_axis(expected, ids, 1) for ids in best]
    tied = (np.abs(ranked[0] - ranked[1]) <= TIE * spread).all(1)
    difference = float(np.abs(expected - found).max())
    return Parity(len(expected), difference, spread, float(same.mean()), float(tied.mean()))


def _best(scores: np.ndarray, k: int) -> np.ndarray:
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


class _Scorer(nn.Module):
    """Adapter: a function that scores, as a model for ``Trainer.evaluate``."""

    def __init__(self, score: Score, field: str):
        super().__init__()
        self.score, self.field = score, field

    def full_sort_predict(self, interaction) -> torch.Tensor:
        """Scores of all items, ``[B, n_items]``."""
        return torch.from_numpy(self.score(interaction[self.field].cpu().numpy()))


def evaluate_scores(config, model, test_data, score: Score) -> dict[str, float]:
    """Metrics of scores on the test split, computed by the trainer's evaluation.

    `score` is ``scores`` of a runtime; `model` is the trained model that was exported.
    """
    from recbole_lite.config.registry import get_trainer

    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    trainer.model, trainer.device = _Scorer(score, model.ITEM_SEQ), torch.device("cpu")
    result = trainer.evaluate(test_data, load_best_model=False)
    return {name: float(value) for name, value in result.items()}
