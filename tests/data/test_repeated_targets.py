"""Targets that the user has had before: a miss with the mask, an item like others without it.

Every scorer here gives the target the highest score, so that Recall is known by hand.
"""

import logging

import pytest
import torch
from recbole.utils.case_study import full_sort_topk

from recbole_lite import LiteConfig, create_dataset, data_preparation, get_trainer
from recbole_lite.data.repeated_targets import repeated_targets
from recbole_lite.data.windows import CANDIDATES
from recbole_lite.utils.errors import ConfigError, DataError

# In order of time. The test item is repeated for u1 and u3, the one before for u2 and u3.
SEQUENCES = {"u1": "abaca", "u2": "bcdbe", "u3": "cdedd", "u4": "fghij"}
TOPN = {"task": "topn", "topn_negatives": 2, "metrics": ["Hit"], "valid_metric": "Hit@1"}
REPEATED = {"valid": [False, True, True, False], "test": [True, False, True, False]}


def write_again(folder):
    target = folder / "again"
    target.mkdir()
    rows = [
        f"{user}\t{item}\t{time}\n"
        for user, items in SEQUENCES.items()
        for time, item in enumerate(items)
    ]
    head = "user_id:token\titem_id:token\ttimestamp:float\n"
    (target / "again.inter").write_text(head + "".join(rows))
    items = "".join(f"{item}\tthing {item}\n" for item in "abcdefghij")
    (target / "again.item").write_text("item_id:token\ttitle:token_seq\n" + items)


@pytest.fixture
def prepared(quick, data_path):
    """``prepared(model, key=value, ...)`` -> configuration, data set, loaders."""
    write_again(data_path)

    def build(model, **changes):
        inter = {"inter": ["user_id", "item_id", "timestamp"]}
        own = {"topk": [1], "valid_metric": "Recall@1", "metrics": ["Recall"], "load_col": inter}
        config = LiteConfig(model, "again", config_dict=quick(**{**own, **changes}))
        dataset = create_dataset(config)
        return config, dataset, *data_preparation(config, dataset)

    return build


def target_first(batch, n_items):
    scores = torch.zeros(len(batch), n_items)
    scores[torch.arange(len(batch)), batch["item_id"]] = 1.0
    return scores


def measured(prepared, model, **changes):
    """Metric of the validation and of the test part by a scorer that knows the target."""
    config, dataset, train, valid, test = prepared(model, **changes)
    net = config.model_class(config, train._dataset)
    net.full_sort_predict = lambda batch: target_first(batch, dataset.item_num)
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, net)
    return [next(iter(trainer.evaluate(x, load_best_model=False).values())) for x in (valid, test)]


# -- the ranking over all items ---------------------------------------------------------------


def test_which_targets_are_repeated(prepared):
    _, dataset, _, *parts = prepared("SASRec")
    for phase, loader in zip(("valid", "test"), parts, strict=True):
        windows = loader._dataset.inter_feat
        names = dataset.id2token("user_id", windows["user_id"])
        found = dict(zip(names, repeated_targets(windows).tolist(), strict=True))
        assert [found[user] for user in SEQUENCES] == REPEATED[phase]


@pytest.mark.parametrize("model", ["SASRec", "BPR", "LiteLLM4Rec", "FPMC"])
def test_a_repeated_target_is_a_miss_unless_repeatable(model, prepared):
    assert measured(prepared, model) == [0.5, 0.5]
    assert measured(prepared, model, repeatable=True) == [1.0, 1.0]
    assert measured(prepared, model, eval_exclude_history=False) == [1.0, 1.0]


def test_the_mask_gives_no_target_away(prepared):
    """u1 had a, b, c: a model that likes them ranks none of them, so not the target either."""
    _, dataset, _, _, test = prepared("SASRec")
    batch, history, *_ = next(iter(test))
    kept = torch.ones(len(batch), dataset.item_num, dtype=torch.bool)
    kept[history] = kept[:, 0] = False
    users = dataset.id2token("user_id", batch["user_id"])
    left = {
        user: set(dataset.id2token("item_id", row.nonzero().flatten()))
        for user, row in zip(users, kept, strict=True)
    }
    assert left == {user: set("abcdefghij") - set(had[:-1]) for user, had in SEQUENCES.items()}


@pytest.mark.parametrize(("repeatable", "recall"), [(False, 0.5), (True, 1.0)])
def test_beams_that_write_a_repeated_target(repeatable, recall, prepared, llm_folders):
    settings = {"llm": str(llm_folders["writer"]), "llm_init": "pretrained", "llm_config": {}}
    config, _, train, _, test = prepared("P5", num_beams=2, repeatable=repeatable, **settings)
    net = config.model_class(config, train._dataset)
    net.beams = lambda batch: torch.stack([batch["item_id"], torch.zeros(len(batch)).long()], 1)
    trainer = get_trainer(config["MODEL_TYPE"], "P5")(config, net)
    assert trainer.evaluate(test, load_best_model=False)["recall@1"] == recall


# -- candidates -------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["LiteLLM4Rec", "SASRec", "Pop"])
def test_candidates_of_topn(model, prepared):
    assert measured(prepared, model, **TOPN) == [0.5, 0.5]
    assert measured(prepared, model, **TOPN, repeatable=True) == [1.0, 1.0]


@pytest.mark.parametrize("phase", ["train", "valid", "test"])
def test_negatives_of_topn_may_be_seen_items_if_repeatable(phase, prepared):
    """Nine items are not the target; of u1's b and c at most one is missing among eight."""
    settings = {**TOPN, "topn_negatives": 8, "repeatable": True}
    _, dataset, *loaders = prepared("LiteLLM4Rec", **settings)
    loader = loaders[["train", "valid", "test"].index(phase)]
    had = dataset.token2id("item_id", ["b", "c"])
    for batch in [batch[0] if isinstance(batch, tuple) else batch for batch in loader]:
        assert (batch[CANDIDATES] == batch["item_id"][:, None]).sum(1).tolist() == [1] * len(batch)
        assert all(len(set(row)) == 9 for row in batch[CANDIDATES].tolist())
        for user, row in zip(batch["user_id"], batch[CANDIDATES].tolist(), strict=True):
            if dataset.id2token("user_id", int(user)) == "u1":
                assert set(had) & set(row)


def test_too_few_items_for_repeatable_candidates(prepared):
    with pytest.raises(DataError, match="9 items beside the target; 10 negatives cannot be drawn"):
        prepared("LiteLLM4Rec", **{**TOPN, "topn_negatives": 10, "repeatable": True})


@pytest.mark.parametrize(("repeatable", "recall"), [(False, 0.5), (True, 1.0)])
@pytest.mark.parametrize("split", [{"LS": "valid_and_test"}, {"RS": [0.6, 0.2, 0.2]}])
def test_sampled_negatives_of_a_general_model(split, repeatable, recall, prepared):
    eval_args = {"split": split, "mode": "uni3"}
    config, _, train, valid, test = prepared("BPR", eval_args=eval_args, repeatable=repeatable)
    net = config.model_class(config, train._dataset)
    net.predict = lambda batch: batch["label"]
    trainer = get_trainer(config["MODEL_TYPE"], "BPR")(config, net)
    for loader in (valid, test):
        assert trainer.evaluate(loader, load_best_model=False)["recall@1"] == recall


# -- several targets of a user ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "recall"),
    [  # 3 of 5 tested; u1: a, c with a repeated; u2: d, b, e with b; u3: e, d with d
        ({}, (1 / 2 + 2 / 3 + 1 / 2 + 1) / 4),
        ({"repeatable": True}, 1.0),
        ({"eval_exclude_history": False}, 1.0),
    ],
)
def test_a_split_by_ratio(changes, recall, prepared):
    eval_args = {"split": {"RS": [0.2, 0.2, 0.6]}}
    settings = {"topk": [3], "valid_metric": "Recall@3", "eval_args": eval_args, **changes}
    config, dataset, train, _, test = prepared("BPR", **settings)
    scores = torch.zeros(dataset.user_num, dataset.item_num)
    rows = test._dataset.inter_feat
    scores[rows["user_id"], rows["item_id"]] = 1.0
    net = config.model_class(config, train._dataset)
    net.full_sort_predict = lambda batch: scores[batch["user_id"]].clone()
    trainer = get_trainer(config["MODEL_TYPE"], "BPR")(config, net)
    found = trainer.evaluate(test, load_best_model=False)["recall@3"]
    assert found == pytest.approx(recall, abs=1e-4)


# -- RecBole's case study ---------------------------------------------------------------------


@pytest.mark.parametrize(("repeatable", "hits"), [(False, 2), (True, 4)])
def test_case_study(repeatable, hits, prepared):
    config, dataset, train, _, test = prepared("BPR", repeatable=repeatable)
    net = config.model_class(config, train._dataset)
    targets = test._dataset.inter_feat["item_id"]
    scores = torch.nn.functional.one_hot(targets, dataset.item_num).float()
    net.full_sort_predict = lambda batch: scores.clone()
    _, items = full_sort_topk(test.uid_list.numpy(), net, test, k=1)
    assert int((items[:, 0] == targets).sum()) == hits


# -- what is said -----------------------------------------------------------------------------


@pytest.mark.parametrize("eval_args", [{}, {"split": {"RS": [0.6, 0.2, 0.2]}}])
@pytest.mark.parametrize("model", ["SASRec", "BPR"])
def test_a_warning_states_the_share(model, eval_args, prepared, caplog):
    prepared(model, eval_args=eval_args)
    (said,) = [r.getMessage() for r in caplog.records if "had before" in r.getMessage()]
    assert said == (
        "again: 2 of 4 targets of the validation part (50.0%) and 2 of 4 targets of the test part "
        "(50.0%) are items that the user has had before; eval_exclude_history: True excludes the "
        "history from the ranking, so each of them is a miss. If users come back to items, set "
        "repeatable: True, which ranks all items"
    )
    caplog.clear()
    with caplog.at_level(logging.INFO):
        prepared(model, eval_args=eval_args, repeatable=True)
    assert "had before" not in caplog.text


@pytest.mark.parametrize("strategy", ["all", "prefix"])
def test_the_loss_of_a_repeated_target_is_finite(strategy, prepared):
    settings = {"train_strategy": strategy, "rec_llm_causal": True, "loss_exclude_history": True}
    config, _, train, *_ = prepared("LiteLLM4Rec", **settings)
    net = config.model_class(config, train._dataset)
    for batch in train:
        assert net.calculate_loss(batch).isfinite()


# -- settings ---------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["SASRec", "BPR", "ItemLM"])
@pytest.mark.parametrize(
    ("config_dict", "overrides", "masked"),
    [
        ({}, [], True),
        ({"repeatable": True}, [], False),
        ({"repeatable": "True"}, [], False),
        ({"repeatable": False}, [], True),
        ({"eval_exclude_history": False}, [], False),
        ({"repeatable": True, "eval_exclude_history": True}, [], True),  # as settings of a run
        ({"eval_exclude_history": True}, ["--repeatable=True"], False),
        ({"repeatable": True}, ["--repeatable=False"], True),
        ({"repeatable": True}, ["--eval_exclude_history=True"], True),
    ],
)
def test_which_setting_decides(config_dict, overrides, masked, model, quick):
    config = LiteConfig(model, "tiny", config_dict=quick(**config_dict), overrides=overrides)
    assert config["eval_exclude_history"] is masked
    again = LiteConfig(model, "tiny", config_dict=config.settings, typed=True)
    assert again.settings == config.settings
    assert again["eval_exclude_history"] is masked


def test_a_run_with_repeats_trains_on_what_it_ranks(quick):
    assert LiteConfig("ItemLM", "tiny", config_dict=quick())["loss_exclude_history"]
    config = LiteConfig("ItemLM", "tiny", config_dict=quick(repeatable=True))
    assert not config["loss_exclude_history"]


def test_a_contradiction_on_the_command_line(quick):
    given = ["--repeatable=true", "--eval_exclude_history=True"]
    with pytest.raises(ConfigError, match="leave one of the two out"):
        LiteConfig("SASRec", "tiny", config_dict=quick(), overrides=given)
