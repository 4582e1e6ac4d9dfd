"""A few users with titles: what they had, what came next, what was recommended."""

from __future__ import annotations

import random
from typing import Any

import torch

from recbole_lite.data.item_titles import item_titles
from recbole_lite.data.loaders import HistoryMaskLoader
from recbole_lite.data.windows import Windows
from recbole_lite.utils.errors import ReportError

SHOWN_HISTORY = 5
SHOWN_RECOMMENDATIONS = 5


def sample_users(
    trainer,
    test_data,
    dataset,
    config,
    count: int | None = None,
    shown_history: int = SHOWN_HISTORY,
    shown_recommendations: int = SHOWN_RECOMMENDATIONS,
) -> list[dict[str, Any]]:
    """Recommendations for some users of the test set.

    Parameters
    ----------
    trainer : LiteTrainer
        Its model scores; what it masks in evaluation is masked here.
    test_data : DataLoader
    dataset : Dataset
        Gives ids and titles.
    config : LiteConfig
        ``sample_users`` is their number, ``seed`` picks them, ``title_field`` names the titles.
    count : int, optional
        Their number; None: the key's.
    shown_history, shown_recommendations : int
        How many items of each.

    Returns
    -------
    list of dict
        ``user`` (raw id), ``history`` (last titles, oldest first), ``target`` and
        ``recommended`` (titles, best first), ``hits`` (which of them is the target: two items
        can have one title).
    """
    asked = test_data._dataset
    if not isinstance(asked.inter_feat, Windows):
        raise ReportError("eval_args give a user several test items; a sample shows one")
    # A loader of its own: the run's may rank against sampled items only (eval_args, mode).
    loader = HistoryMaskLoader(config, asked, None)
    count = min(config["sample_users"] if count is None else count, len(asked))
    rows = sorted(random.Random(config["seed"]).sample(range(len(asked)), count))
    batch = loader.collate_fn(rows)
    trainer.model.eval()
    with torch.no_grad():
        batch, scores, _, targets = trainer._full_sort_batch_eval(batch)
    ranked = scores.topk(min(shown_recommendations, scores.shape[1] - 1))
    best = [  # a beam search may name fewer items; the others have -inf
        picks[~torch.isneginf(values)].tolist() for values, picks in zip(*ranked, strict=True)
    ]
    titles = item_titles(dataset, config["title_field"])
    history = batch[dataset.iid_field + config["LIST_SUFFIX"]]
    lengths = batch[config["ITEM_LIST_LENGTH_FIELD"]]
    users = dataset.id2token(dataset.uid_field, batch[dataset.uid_field].cpu().numpy())
    return [
        {
            "user": str(user),
            "history": [titles[i] for i in items[max(0, n - shown_history) : n].tolist()],
            "target": titles[target],
            "recommended": [titles[i] for i in picks],
            "hits": [i == target for i in picks],
        }
        for user, items, n, target, picks in zip(
            users, history, lengths.tolist(), targets.tolist(), best, strict=True
        )
    ]
