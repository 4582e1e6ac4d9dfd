"""Evaluation loaders in the hands of RecBole's case study."""

import numpy as np
import pytest
import torch
from recbole.utils.case_study import full_sort_scores, full_sort_topk

from recbole_lite import create_dataset, data_preparation, load_data_and_model


@pytest.mark.parametrize("model", ["BPR", "NeuMF", "Pop", "SASRec", "LightGCN"])
def test_case_study_agrees_with_the_test(model, trained):
    """Lists of the case study give the run's own Recall (NeuMF has no full_sort_predict)."""
    settings = {"eval_exclude_history": model != "SASRec", "seed": 3, "epochs": 1}
    folder = trained(model, **settings)
    config, net, dataset, _, _, test = load_data_and_model(folder)
    users = test.uid_list.numpy()
    _, items = full_sort_topk(users, net, test, k=5, device=config["device"])
    targets = test.dataset.inter_feat["item_id"]
    recall = (items == targets[:, None]).any(1).float().mean()
    from recbole_lite import get_trainer

    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, net)
    found = trainer.evaluate(test, load_best_model=False)["recall@5"]
    assert recall == pytest.approx(found, abs=1e-4)
    scores = full_sort_scores(users, net, test, device=config["device"])
    assert scores.shape == (len(users), dataset.item_num)


def test_history_is_what_came_before_the_target(trained):
    _, _, dataset, _, test, _ = load_data_and_model(trained("BPR", epochs=1))
    windows = test.dataset.inter_feat
    store = windows.store
    users, items = (store.columns[name].numpy() for name in ("user_id", "item_id"))
    repeated = 0
    for user, row, target in zip(
        test.uid_list.numpy(), windows.rows, windows["item_id"], strict=True
    ):
        before = [
            i for r, (u, i) in enumerate(zip(users, items, strict=True)) if u == user and r < row
        ]
        expected = sorted(set(before))
        repeated += int(target) in expected
        assert test.uid2history_item[user].tolist() == expected
    assert repeated == 2  # of the validation part
    assert len(test.uid2history_item) == dataset.user_num
    assert test.uid2history_item[0].dtype == torch.int64
    assert not len(test.uid2history_item[0])  # padding
    assert isinstance(test.uid2history_item, np.ndarray)


@pytest.mark.parametrize("model", ["ItemLM", "BPR"])
def test_a_sample_of_the_users_is_evaluated(config_for, model):
    found = {}
    for count in (None, 7):
        for seed in (1, 2):
            config = config_for(model, eval_users=count, seed=seed)
            loaders = data_preparation(config, create_dataset(config))
            found[count, seed] = [
                loader._dataset.inter_feat.rows.tolist() for loader in loaders[1:]
            ]
    assert found[7, 1] == found[7, 2]
    for some, every in zip(found[7, 1], found[None, 1], strict=True):
        assert len(some) == 7
        assert [row for row in every if row in some] == some  # in their order
