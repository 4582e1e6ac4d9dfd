"""Numbers and data at the edge: what happens is defined, and is this."""

import re
import threading
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from tiny_data import write_tiny

from recbole_lite import create_dataset, data_preparation, get_trainer, run
from recbole_lite.trainer import checkpoint
from recbole_lite.utils.errors import ConfigError, DataError, TrainingError


def trainer_of(config):
    loaders = data_preparation(config, create_dataset(config))
    model = config.model_class(config, loaders[0]._dataset)
    return get_trainer(config["MODEL_TYPE"], config["model"])(config, model), loaders


def write(folder, rows, items=None):
    """Data set ``tiny`` of the rows ``(user, item, time)``."""
    target = folder / "tiny"
    target.mkdir(parents=True)
    lines = ["user_id:token\titem_id:token\ttimestamp:float"]
    lines += ["\t".join(map(str, row)) for row in rows]
    (target / "tiny.inter").write_text("\n".join(lines) + "\n", encoding="utf-8")
    items = items or sorted({row[1] for row in rows})
    lines = ["item_id:token\ttitle:token_seq", *(f"{item}\ttoy {item}" for item in items)]
    (target / "tiny.item").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(folder)


@pytest.fixture
def small(quick):
    """Settings for data sets of :func:`write`."""
    load = {"load_col": {"inter": ["user_id", "item_id", "timestamp"]}, "title_field": "title"}
    return lambda **changes: quick(**{**load, "topk": [3], "valid_metric": "NDCG@3", **changes})


# -- numbers that are not finite ----------------------------------------------------------------


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_loss_that_is_not_finite_names_the_batch_and_the_last_good_weights(value, config_for):
    trainer, (train_data, valid_data, _) = trainer_of(config_for("SASRec", epochs=3))
    loss_of, batches = trainer.model.calculate_loss, []

    def spoiled(batch):
        batches.append(batch)
        loss = loss_of(batch)
        return loss * float(value) if len(batches) == len(train_data) + 2 else loss

    trainer.model.calculate_loss = spoiled
    with pytest.raises(TrainingError) as caught:
        trainer.fit(train_data, valid_data)
    message = str(caught.value)
    assert f"the training loss is {value} in epoch 1, batch 1" in message
    dataset = train_data._dataset
    users = dataset.id2token("user_id", batches[-1]["user_id"])
    items = dataset.id2token("item_id", batches[-1]["item_id"])
    assert f"user_id {', '.join(users[:5])} and {len(users) - 5} more" in message
    assert f"item_id {', '.join(items[:5])} and" in message
    best = Path(re.search(r"intact: (.*)$", message).group(1))
    _, facts = checkpoint.load_weights(best)
    assert facts["epoch"] == 0
    assert checkpoint.load_last(best.parent)[1]["epoch"] == 0


def test_a_training_that_diverges_for_real(quick):
    """No loss is made up: the rate is absurd, the weights overflow."""
    with pytest.raises(TrainingError, match=r"NaN or infinit|loss is (nan|inf)"):
        run("SASRec", "tiny", config_dict=quick(learning_rate=1e38, learner="sgd", epochs=9))


def test_weights_that_the_last_step_spoiled_are_not_saved(config_for):
    """The loss of the epoch was finite; without a validation nothing else would notice."""
    trainer, (train_data, *_) = trainer_of(config_for("SASRec", epochs=2, eval_step=0))
    trainer.fit(train_data, None)
    with torch.no_grad():
        trainer.model.item_embedding.weight[3, 0] = torch.inf
    message = r"weights of item_embedding\.weight are NaN or infinite after epoch 1.*are intact: "
    with pytest.raises(TrainingError, match=message):
        trainer._save_checkpoint(1)
    best, _ = checkpoint.load_weights(trainer.run_dir / checkpoint.BEST_FILE)
    assert all(tensor.isfinite().all() for tensor in best.values())


@pytest.mark.parametrize("mode", ["full", "uni5"])
@pytest.mark.parametrize("value, name", [(torch.nan, "NaN"), (torch.inf, "infinity")])
def test_scores_that_have_no_order_are_not_ranked(mode, value, name, config_for):
    """torch.topk puts NaN first, so that a broken model would have figures like any other."""
    config = config_for("SASRec", eval_args={"mode": mode})
    trainer, (_, valid_data, _) = trainer_of(config)
    if mode == "full":
        scores_of = trainer.model.full_sort_predict

        def spoiled(batch):
            scores = scores_of(batch)
            scores[batch["user_id"] == 7, 4] = value
            return scores

        trainer.model.full_sort_predict = spoiled
    else:
        predict = trainer.model.predict
        trainer.model.predict = lambda batch: torch.where(
            batch["user_id"] == 7, value, predict(batch)
        )
    user = valid_data._dataset.id2token("user_id", 7)
    message = rf"scores items with {name} for 1 of \d+ users of a batch \(user_id {user}\)"
    with pytest.raises(TrainingError, match=message):
        trainer.evaluate(valid_data, load_best_model=False)


def test_equal_scores_favour_nobody_and_repeat(config_for):
    """All lists are then the same up to what each user has had; the target is no exception."""
    config = config_for("SASRec", metrics=["Recall", "ItemCoverage"], valid_metric="Recall@5")
    trainer, (train_data, _, test_data) = trainer_of(config)
    n_items = test_data._dataset.item_num
    trainer.model.full_sort_predict = lambda batch: torch.zeros(len(batch), n_items)
    trainer.eval_collector.data_collect(train_data)
    first = trainer.evaluate(test_data, load_best_model=False)
    assert trainer.evaluate(test_data, load_best_model=False) == first
    # With 24 items, 5 of at most 23 open ones: chance is about 0.3 for 30 users.
    assert 0.05 < first["recall@5"] < 0.6


# -- lists that end before K --------------------------------------------------------------------


def test_what_is_scored_minus_infinity_is_no_recommendation(config_for):
    """Beam search: fewer than K items have a score; the rest of RecBole's list is filler."""
    names = ["ItemCoverage", "GiniIndex", "ShannonEntropy", "AveragePopularity", "TailPercentage"]
    config = config_for(
        "SASRec", metrics=["Recall", *names], topk=[3, 5], valid_metric="Recall@5",
        metric_decimal_place=9, eval_exclude_history=False, tail_ratio=0.5,
    )  # fmt: skip
    trainer, (train_data, _, test_data) = trainer_of(config)
    n_items, counts = test_data._dataset.item_num, train_data._dataset.item_counter
    lists = {}

    def few(batch):
        scores = torch.full((len(batch), n_items), -torch.inf)
        for row, user in enumerate(batch["user_id"].tolist()):
            lists[user] = [user % 3 + 1, 4, 9, 10][: user % 5]  # 0 to 4 items
            for rank, item in enumerate(lists[user]):
                scores[row, item] = -rank
        return scores

    trainer.model.full_sort_predict = few
    trainer.eval_collector.data_collect(train_data)
    measured = trainer.evaluate(test_data, load_best_model=False)
    tail = sorted(counts.items(), key=lambda pair: (pair[1], pair[0]))[: len(counts) // 2]
    for k in (3, 5):
        shown = [items[:k] for items in lists.values()]
        flat = np.bincount([item for items in shown for item in items], minlength=n_items)
        assert measured[f"itemcoverage@{k}"] == pytest.approx((flat > 0).sum() / n_items)
        p = flat[flat > 0] / flat.sum()
        assert measured[f"shannonentropy@{k}"] == pytest.approx(-(p * np.log(p)).sum() / len(p))
        place, ordered = np.arange(1, n_items + 1), np.sort(flat)
        gini = ((2 * place - n_items - 1) * ordered).sum() / (n_items * flat.sum())
        assert measured[f"giniindex@{k}"] == pytest.approx(gini)
        popularity = [np.mean([counts[i] for i in items]) if items else 0 for items in shown]
        assert measured[f"averagepopularity@{k}"] == pytest.approx(np.mean(popularity))
        rare = [np.mean([i in dict(tail) for i in items]) if items else 0 for items in shown]
        assert measured[f"tailpercentage@{k}"] == pytest.approx(np.mean(rare))


def test_metrics_over_lists_are_recboles_where_every_list_is_full(config_for):
    from recbole_lite.evaluator.evaluator import LiteEvaluator

    names = ["ItemCoverage", "GiniIndex", "ShannonEntropy", "AveragePopularity", "TailPercentage"]
    config = config_for("SASRec", metrics=["Recall", *names], topk=[5], valid_metric="Recall@5")
    trainer, (train_data, _, test_data) = trainer_of(config)
    trainer.eval_collector.data_collect(train_data)
    trainer.model.eval()
    trainer.tot_item_num = test_data._dataset.item_num
    for batch in test_data:
        _, scores, users, items = trainer._full_sort_batch_eval(batch)
        trainer.eval_collector.eval_batch_collect(scores, batch[0], users, items)
    struct = trainer.eval_collector.get_data_struct()
    for name in names:
        ours = LiteEvaluator.replacements[name.lower()]
        theirs = ours.__bases__[0]
        assert ours(config).calculate_metric(struct) == theirs(config).calculate_metric(struct)


# -- data at the edge ---------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["LiteLLM4Rec", "SASRec", "Pop"])
def test_an_item_that_only_the_test_has(model, small, tmp_path):
    """Never a target in training, still ranked: its text (or a random vector) is all there is."""
    rows = [(f"u{u}", f"i{(u + t) % 8}", t) for u in range(12) for t in range(6)]
    rows = [row for row in rows if row[1] != "i0" or row[2] == 5] + [("u0", "new", 9)]
    result = run(model, "tiny", config_dict=small(data_path=write(tmp_path / "edge", rows)))
    assert result["data"]["items"] == 9
    assert all(0 <= value <= 1 for value in result["test_result"].values())


@pytest.mark.parametrize("model", ["LiteLLM4Rec", "SASRec", "Pop"])
def test_users_with_one_interaction_are_left_alone(model, small, tmp_path):
    rows = [(f"u{u}", f"i{(u + t) % 8}", t) for u in range(12) for t in range(6)]
    alone = [(f"alone{u}", f"i{u % 8}", 1) for u in range(5)]
    two = [("two", "i1", 1), ("two", "i2", 2)]
    settings = small(data_path=write(tmp_path / "edge", rows + alone + two))
    result = run(model, "tiny", config_dict=settings, per_user=True)
    assert result["data"]["users"] == 18
    assert sorted(result["per_user"]["users"]) == sorted(f"u{u}" for u in range(12))


@pytest.mark.parametrize("model", ["LiteLLM4Rec", "SASRec", "Pop"])
def test_nobody_with_more_than_one_interaction_is_an_error(model, small, tmp_path):
    path = write(tmp_path / "edge", [(f"u{u}", f"i{u}", u) for u in range(9)])
    with pytest.raises(DataError, match=r"tiny\.inter: .*no user has 3 interactions or more"):
        run(model, "tiny", config_dict=small(data_path=path))


@pytest.mark.parametrize("model", ["LiteLLM4Rec", "SASRec", "Pop"])
def test_a_data_set_with_one_user(model, small, tmp_path):
    path = write(tmp_path / "edge", [("only", f"i{t}", t) for t in range(9)])
    settings = small(data_path=path, rec_llm_config={"num_layers": 1, "d_model": 16})
    result = run(model, "tiny", config_dict=settings, per_user=True)
    assert result["data"] == {"users": 1, "items": 9, "interactions": 9}
    assert result["per_user"]["users"] == ["only"]
    assert set(result["test_result"].values()) <= set(np.round([0, 0.5, 0.6309, 1], 4))


def test_three_interactions_leave_no_validation(small, tmp_path):
    """RecBole's rule: test first, then training; the last weights are tested."""
    rows = [(f"u{u}", f"i{(u + t) % 5}", t) for u in range(8) for t in range(3)]
    result = run("SASRec", "tiny", config_dict=small(data_path=write(tmp_path / "edge", rows)))
    assert result["best_valid_result"] is None
    assert set(result["test_result"]) == {"recall@3", "ndcg@3"}


STRANGE = [
    "a b",
    " leading",
    "Ünï cödé",
    "名前",
    "🙂",
    "a,b;c",
    '"quoted"',
    "0",
    "00",
    "1e3",
    "nan",
]


@pytest.mark.parametrize("model", ["LiteLLM4Rec", "SASRec"])
def test_ids_with_spaces_and_unicode_stay_what_they_are(model, small, tmp_path):
    n = len(STRANGE)
    rows = [(f"{STRANGE[u]} u", STRANGE[(u + t) % n], t) for u in range(n) for t in range(6)]
    settings = small(data_path=write(tmp_path / "edge", rows, STRANGE), sample_users=2)
    result = run(model, "tiny", config_dict=settings, per_user=True)
    assert result["data"] == {"users": n, "items": n, "interactions": 6 * n}
    assert sorted(result["per_user"]["users"]) == sorted(f"{token} u" for token in STRANGE)
    assert {sample["user"] for sample in result["samples"]} <= {f"{token} u" for token in STRANGE}


# -- sequences longer than the position table ---------------------------------------------------


@pytest.mark.parametrize("kind, most", [("bert", 32), ("gpt2", 32), ("roberta", 31)])
def test_a_window_longer_than_the_position_table_is_refused(kind, most, quick, llm_folders):
    settings = {"rec_llm": str(llm_folders[kind]), "rec_llm_init": "pretrained"}
    settings = quick(**settings, rec_llm_config={}, epochs=1)
    run("LiteLLM4Rec", "tiny", config_dict={**settings, "MAX_ITEM_LIST_LENGTH": most})
    message = f"reads at most {most} positions, MAX_ITEM_LIST_LENGTH is {most + 1}"
    with pytest.raises(ConfigError, match=message):
        run("LiteLLM4Rec", "tiny", config_dict={**settings, "MAX_ITEM_LIST_LENGTH": most + 1})


def test_relative_positions_have_no_limit(quick, llm_folders, tmp_path):
    folder = write_tiny(tmp_path / "long").parent
    user = "".join(f"long\ti{t % 24}\t3\t{t}\n" for t in range(300))
    with (folder / "tiny" / "tiny.inter").open("a") as file:
        file.write(user)
    settings = quick(data_path=str(folder), MAX_ITEM_LIST_LENGTH=250, epochs=1)
    settings["train_strategy"] = "sampling"
    result = run("LiteLLM4Rec", "tiny", config_dict=settings)
    assert result["data"]["users"] == 31


# -- many runs ----------------------------------------------------------------------------------


def test_runs_in_one_process_leave_no_threads_or_files_behind(quick):
    """RecBole's TensorBoard writer has a thread and a file, and is never closed."""
    before = None
    for _ in range(3):
        run("SASRec", "tiny", config_dict=quick(epochs=1))
        now = threading.active_count(), psutil.Process().num_fds()
        before = before or now
    assert now == before


def test_weights_are_saved_where_no_epoch_is_validated(quick):
    """``max_steps`` may end a training before ``eval_step`` epochs."""
    settings = quick(epochs=9, eval_step=5, max_steps=2, train_batch_size=16)
    result = run("SASRec", "tiny", config_dict=settings)
    assert result["best_valid_result"] is None
    assert set(result["test_result"]) == {"recall@3", "recall@5", "ndcg@3", "ndcg@5"}


def test_epochs_between_validations_can_be_continued_from(quick):
    whole = run("SASRec", "tiny", config_dict=quick(epochs=6, eval_step=3))
    half = run("SASRec", "tiny", config_dict=quick(epochs=5, eval_step=3))
    assert checkpoint.load_last(Path(half["run_dir"]))[1]["epoch"] == 4
    settings = quick(epochs=6, eval_step=3, resume=half["run_dir"])
    resumed = run("SASRec", "tiny", config_dict=settings)
    assert resumed["test_result"] == whole["test_result"]
    assert resumed["best_valid_result"] == whole["best_valid_result"]
