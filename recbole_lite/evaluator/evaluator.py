"""RecBole's evaluator with this project's metrics, which also gives the values of each user."""

from __future__ import annotations

from collections import OrderedDict
from copy import copy
from typing import Any, ClassVar

import numpy as np
import torch
from recbole.evaluator import DataStruct, Evaluator, TopkMetric

from recbole_lite.evaluator.metrics import (
    LiteAveragePopularity,
    LiteGiniIndex,
    LiteItemCoverage,
    LiteMAP,
    LiteMRR,
    LiteNDCG,
    LiteShannonEntropy,
    LiteTailPercentage,
)

NO_USERS: dict[str, Any] = {"users": [], "metrics": {}, "ranks": np.zeros(0, int)}


class LiteEvaluator(Evaluator):
    """RecBole's evaluator; MRR, NDCG and MAP read ``np.float``, gone from NumPy 1.24 on.

    Attributes
    ----------
    ranked : torch.Tensor or None
        Of the last evaluation, RecBole's ``rec.topk``: ``[users, K + 1]``, whether the item at
        ranks 1 ... K is relevant, then the number of relevant items. None before an evaluation,
        and where no metric ranks.
    """

    replacements: ClassVar = {
        "mrr": LiteMRR,
        "ndcg": LiteNDCG,
        "map": LiteMAP,
        "itemcoverage": LiteItemCoverage,
        "shannonentropy": LiteShannonEntropy,
        "giniindex": LiteGiniIndex,
        "averagepopularity": LiteAveragePopularity,
        "tailpercentage": LiteTailPercentage,
    }

    def __init__(self, config):
        super().__init__(config)
        self.ranked: torch.Tensor | None = None
        for name in self.metrics:
            if name in self.replacements:
                self.metric_class[name] = self.replacements[name](config)

    def evaluate(self, dataobject):
        """Compute all metrics; :attr:`ranked` is kept for :meth:`per_user`."""
        self.ranked = dataobject.get("rec.topk") if "rec.topk" in dataobject else None
        found = super().evaluate(dataobject)
        # Some of RecBole's metrics give NumPy's numbers, which JSON and others do not take.
        return OrderedDict((name, float(value)) for name, value in found.items())

    def per_user(self, ranked: torch.Tensor | None) -> dict[str, np.ndarray]:
        """Values of the top-k metrics before they are averaged.

        Parameters
        ----------
        ranked : torch.Tensor or None
            As :attr:`ranked`.

        Returns
        -------
        dict of str to numpy.ndarray
            RecBole's names (``recall@10``) -> ``[users]``, in the order of the loader that was
            evaluated; metrics of the whole list (``ItemCoverage`` ...) have no such values.
        """
        if ranked is None:
            return {}
        struct = DataStruct()
        struct.set("rec.topk", ranked)
        values = {}
        for metric in self.metric_class.values():
            if isinstance(metric, TopkMetric):
                # Each metric hands its [users, K] to topk_result, which takes the mean; on this
                # copy it does not, so that these are the very values of RecBole's mean.
                unaveraged = copy(metric)
                unaveraged.topk_result = lambda name, value, topk=metric.topk: {
                    f"{name}@{k}": value[:, k - 1].astype(np.float64) for k in topk
                }
                values.update(unaveraged.calculate_metric(struct))
        return values


def first_ranks(ranked: torch.Tensor) -> np.ndarray:
    """Rank of each user's first relevant item, ``[users]``, from 1; 0: not among the first K.

    With one relevant item per user (leave-one-out) this says all that `ranked` does.
    """
    hits = ranked[:, :-1].bool().numpy()
    return np.where(hits.any(axis=1), hits.argmax(axis=1) + 1, 0)


def ranked_by(ranks: np.ndarray, k: int) -> torch.Tensor:
    """Inverse of :func:`first_ranks` for one relevant item per user: ``[users, k + 1]``."""
    ranks = np.asarray(ranks)
    hits = ranks[:, None] == np.arange(1, k + 1)
    return torch.from_numpy(np.column_stack([hits, np.ones(len(ranks), bool)])).int()


def per_user_results(evaluator: LiteEvaluator, loader, dataset) -> dict[str, Any]:
    """Raw ids, metrics and ranks of the last evaluation's users; empty where no metric ranks."""
    if evaluator.ranked is None:
        return dict(NO_USERS)
    ids = getattr(loader, "uid_list", None)  # a loader of RecBole's that groups rows by user
    if ids is None:
        ids = loader._dataset.inter_feat[dataset.uid_field]
    return {
        "users": [str(user) for user in dataset.id2token(dataset.uid_field, np.asarray(ids))],
        "metrics": evaluator.per_user(evaluator.ranked),
        "ranks": first_ranks(evaluator.ranked),
    }
