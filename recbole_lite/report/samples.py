"""A few users with titles: what they had, what came next, what was recommended."""

from __future__ import annotations

import random
from typing import Any

import torch

from recbole_lite.data.item_titles import item_titles
from recbole_lite.data.loaders import HistoryMaskLoader
from recbole_lite.data.windows import Windows
from recbole_lite.utils.errors import ReportError

SHOWN = 5


def sample_users(
    trainer, test_data, dataset, count: int, shown: int = SHOWN
) -> list[dict[str, Any]]:
    """Recommendations for some users of the test set, whom ``seed`` picks.

    Parameters
    ----------
    trainer : LiteTrainer
        Its model scores; what it masks in evaluation is masked here.
    test_data : DataLoader
    dataset : Dataset
        Gives ids and titles; ``title_field`` names these.
    count : int
        Number of users.
    shown : int
        How many items of the history, and how many recommendations.

    Returns
    -------
    list of dict
        ``user`` (raw id), ``history`` (last titles, oldest first), ``target`` and
        ``recommended`` (titles, best first), ``hits`` (which of them is the target: two items
        can have one title).
    """
    config = trainer.config
    batch, best, targets = _recommend(trainer, test_data._dataset, count, shown)
    titles = item_titles(dataset, config["title_field"])
    history = batch[dataset.iid_field + config["LIST_SUFFIX"]]
    lengths = batch[config["ITEM_LIST_LENGTH_FIELD"]].tolist()
    users = dataset.id2token(dataset.uid_field, batch[dataset.uid_field].cpu().numpy())
    return [
        {
            "user": str(user),
            "history": [titles[i] for i in items[max(0, n - shown) : n].tolist()],
            "target": titles[target],
            "recommended": [titles[i] for i in picks],
            "hits": [i == target for i in picks],
        }
        for user, items, n, target, picks in zip(
            users, history, lengths, targets, best, strict=True
        )
    ]


def check_sampled(asked) -> None:
    """Refuse a test part of which no sample can be taken."""
    if not isinstance(asked.inter_feat, Windows):
        raise ReportError(
            "sample_users: eval_args give a user several test items, and a sample shows one; set "
            "sample_users: 0, or split {LS: valid_and_test}"
        )


def _recommend(trainer, asked, count: int, shown: int):
    """Batch of `count` users of a test set, the best items of each, and their test items."""
    check_sampled(asked)
    # A loader of its own: the run's may rank against sampled items only (eval_args, mode).
    loader = HistoryMaskLoader(trainer.config, asked, None)
    draw = random.Random(trainer.config["seed"])
    rows = sorted(draw.sample(range(len(asked)), min(count, len(asked))))
    trainer.model.eval()
    with torch.no_grad():
        batch, scores, _, targets = trainer._full_sort_batch_eval(loader.collate_fn(rows))
    trainer.check_scores(scores.amax(1), batch)
    ranked = scores.topk(min(shown, scores.shape[1] - 1))
    best = [  # a beam search may name fewer items; the others have -inf
        picks[~torch.isneginf(values)].tolist() for values, picks in zip(*ranked, strict=True)
    ]
    return batch, best, targets.tolist()
