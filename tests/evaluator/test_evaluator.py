"""Metrics against a brute-force reference on random scores."""

import math
import random

import numpy as np
import pytest
import torch
from recbole.evaluator import Collector

from recbole_lite import create_dataset, data_preparation, get_trainer
from recbole_lite.evaluator.collector import LiteCollector


def reference(scores, targets, histories, ks):
    """Rank each user's target among the items that are neither padding nor history.

    A target from the history is a miss.
    """
    sums = {f"{name}@{k}": 0.0 for name in ("recall", "ndcg", "mrr", "map") for k in ks}
    for row, target, history in zip(scores, targets, histories, strict=True):
        better = [i for i in range(1, len(row)) if i not in history and row[i] > row[target]]
        rank = len(better) + 1 if target not in history else math.inf
        for k in ks:
            if rank <= k:
                sums[f"recall@{k}"] += 1
                sums[f"ndcg@{k}"] += 1 / math.log2(rank + 1)
                sums[f"mrr@{k}"] += 1 / rank
                sums[f"map@{k}"] += 1 / rank
    return {name: total / len(targets) for name, total in sums.items()}


@pytest.mark.parametrize("exclude", [True, False])
@pytest.mark.parametrize("phase", ["valid", "test"])
def test_metrics_equal_brute_force(config_for, exclude, phase):
    config = config_for(
        "SASRec",
        metrics=["Recall", "NDCG", "MRR", "MAP"],
        topk=[1, 3, 10],
        valid_metric="MRR@3",
        eval_exclude_history=exclude,
        metric_decimal_place=9,
        MAX_ITEM_LIST_LENGTH=4,
    )
    dataset = create_dataset(config)
    train_data, valid_data, test_data = data_preparation(config, dataset)
    data = valid_data if phase == "valid" else test_data
    model = config.model_class(config, train_data._dataset)
    scores = torch.from_numpy(np.random.default_rng(3).random((dataset.user_num, dataset.item_num)))
    model.full_sort_predict = lambda batch: scores[batch["user_id"]].clone()
    trainer = get_trainer(config["MODEL_TYPE"], "SASRec")(config, model)

    rows, targets, histories = [], [], []
    store = data._dataset.inter_feat.store
    users, items = store.columns["user_id"].tolist(), store.columns["item_id"].tolist()
    left_out = 1 if phase == "test" else 2
    for user in sorted(set(users)):
        sequence = [item for u, item in zip(users, items, strict=True) if u == user]
        rows.append(scores[user].tolist())
        targets.append(sequence[-left_out])
        histories.append(set(sequence[:-left_out]) if exclude else set())
    expected = reference(rows, targets, histories, [1, 3, 10])
    measured = trainer.evaluate(data, load_best_model=False)
    assert measured == pytest.approx(expected, abs=1e-8)


def test_several_targets_per_user_equal_the_definitions():
    from recbole_lite.evaluator.metrics import LiteMAP, LiteMRR, LiteNDCG

    rng = random.Random(1)
    hits = np.array([[rng.random() < 0.3 for _ in range(6)] for _ in range(50)])
    relevant = hits.sum(1) + np.array([rng.randrange(1, 4) for _ in range(50)])
    config = {"topk": [6], "metric_decimal_place": 4}
    ndcg = LiteNDCG(config).metric_info(hits, relevant)
    ap = LiteMAP(config).metric_info(hits, relevant)
    mrr = LiteMRR(config).metric_info(hits)
    for user in range(50):
        for k in range(1, 7):
            ranks = [r for r in range(1, k + 1) if hits[user, r - 1]]
            ideal = sum(1 / math.log2(r + 1) for r in range(1, min(k, relevant[user]) + 1))
            dcg = sum(1 / math.log2(r + 1) for r in ranks)
            assert ndcg[user, k - 1] == pytest.approx(dcg / ideal)
            precision = sum(hits[user, :r].sum() / r for r in ranks)
            assert ap[user, k - 1] == pytest.approx(precision / min(k, relevant[user]))
            assert mrr[user, k - 1] == pytest.approx(1 / ranks[0] if ranks else 0)


@pytest.mark.parametrize("metrics", [["Recall"], ["Recall", "ItemCoverage"]])
@pytest.mark.parametrize("n_items, n_values", [(20, 6), (2000, 6), (2000, 300), (2000, 2**24)])
def test_lists_are_those_of_recboles_collector(metrics, n_items, n_values, config_for):
    config = config_for("BPR", metrics=metrics, topk=[4], valid_metric="Recall@4")
    generator = torch.Generator().manual_seed(5)
    ours, theirs = LiteCollector(config), Collector(config)
    for n in (90, 30):
        scores = torch.randint(n_values, (n, n_items), generator=generator).float()  # with ties
        items = torch.randint(n_items, (n,), generator=generator)
        places = torch.arange(n // 3)
        items[::3] = scores[::3].topk(8).indices[places, places % 8]
        users = torch.tensor([*range(n), 0, 0])  # the first has several right items, one twice
        items = torch.cat([items, torch.tensor([3, 3])])
        for collector in (ours, theirs):
            collector.eval_batch_collect(scores, None, users, items)
    ours, theirs = ours.get_data_struct(), theirs.get_data_struct()
    assert 0 < theirs.get("rec.topk")[:, :-1].sum() < 100
    for name in ("rec.topk", "rec.items")[: len(metrics)]:
        assert torch.equal(ours.get(name), theirs.get(name))


def test_few_rows_are_ranked_completely(config_for, monkeypatch):
    config = config_for("BPR", metrics=["Recall"], topk=[4], valid_metric="Recall@4")
    collector, ranked, topk = LiteCollector(config), [], torch.topk
    monkeypatch.setattr(
        torch, "topk", lambda x, *a, **k: (ranked.append(len(x)), topk(x, *a, **k))[1]
    )
    scores = torch.arange(6400.0).expand(5, -1)
    targets = torch.tensor([6399, 6396, 6395, 0, 3000])  # ranks 1, 4, 5, 6400, 3400
    collector.eval_batch_collect(scores, None, torch.arange(5), targets)
    assert collector.get_data_struct().get("rec.topk")[:, :-1].sum(1).tolist() == [1, 1, 0, 0, 0]
    assert ranked == [2]


@pytest.mark.parametrize("model", ["ItemLM", "SASRec"])
def test_users_ranked_by_length_are_in_the_order_of_the_data(model, config_for):
    found = []
    for by_length in (True, False):
        config = config_for(
            model, cut_padding=by_length, eval_batch_size=4, metric_decimal_place=12
        )
        train, _, test = data_preparation(config, create_dataset(config))
        torch.manual_seed(1)
        net = config.model_class(config, train._dataset)
        trainer = get_trainer(config["MODEL_TYPE"], model)(config, net)
        figures = trainer.evaluate(test, load_best_model=False)
        with torch.no_grad():  # nothing of the evaluation is kept
            for parameter in net.parameters():
                parameter.normal_()
        again = trainer.evaluate(test, load_best_model=False)
        lengths = [batch[0]["item_length"].tolist() for batch in test]
        ordered = [n for batch in lengths for n in batch]
        assert (ordered == sorted(ordered, reverse=True)) == by_length
        found.append((figures, again, trainer.evaluator.ranked.tolist(), test.uid_list.tolist()))
    assert found[0] == found[1]
    assert found[0][0] != found[0][1]
