"""What guessing would score in the Top-N task."""

from __future__ import annotations

import numpy as np

from recbole_lite.evaluator.evaluator import LiteEvaluator, ranked_by


def random_guess(evaluator: LiteEvaluator, config) -> dict[str, float]:
    """Expected top-k metrics of a random order of the candidates.

    Every rank of the right one is as likely, so it is the mean over all ranks; of 100 candidates
    Hit@k is k / 100 and NDCG@k the sum of 1 / log2(1 + r) for r = 1 ... k, over 100.

    Parameters
    ----------
    evaluator : LiteEvaluator
    config : LiteConfig
        Keys ``topn_negatives``, ``topk``.

    Returns
    -------
    dict of str to float
        RecBole's names (``hit@10``).
    """
    ranks = np.arange(1, config["topn_negatives"] + 2)
    values = evaluator.per_user(ranked_by(ranks, max(config["topk"])))
    return {name: float(of_rank.mean()) for name, of_rank in values.items()}
