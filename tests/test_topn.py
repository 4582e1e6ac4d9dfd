"""The Top-N task in whole runs: configuration, result, fine-tuning, refusals; uni99 beside it."""

import hashlib
import json
import math
from pathlib import Path

import pytest

from recbole_lite import (
    LiteConfig,
    create_dataset,
    data_preparation,
    load_data_and_model,
    run,
)
from recbole_lite.cli.main import run_main
from recbole_lite.experiments.ablate import AblationOptions, ablate
from recbole_lite.report.rank_metrics import random_guess
from recbole_lite.report.run_summary import render
from recbole_lite.trainer.initial_weights import load_initial_weights
from recbole_lite.trainer.trainer import LiteTrainer
from recbole_lite.utils.errors import CheckpointError, ConfigError

TOPN = {"task": "topn", "topn_negatives": 6, "metrics": ["Hit", "NDCG"], "valid_metric": "Hit@5"}
P5_TINY = {"llm_init": "pretrained", "llm_config": {}, "num_beams": 5}


@pytest.fixture
def settings(quick, llm_folders):
    def make(model="LiteLLM4Rec", **changes):
        own = {**P5_TINY, "llm": str(llm_folders["writer"])} if model in ("P5", "POD") else {}
        if model == "LightLM":
            tiny = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_decoder_layers": 1}
            own = {"llm_init": "scratch", "llm_config": {**tiny, "num_heads": 2}, "num_beams": 5}
            own |= {"lightlm_clusters": 3}
        return quick(**{"epochs": 1, **TOPN, **own, **changes})

    return make


# -- whole runs -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "model", ["LiteLLM4Rec", "P5", "POD", "LightLM", "SASRec", "BERT4Rec", "Pop"]
)
def test_whole_runs_rank_the_same_stored_candidates(model, settings, data_path):
    result = run(model, "tiny", config_dict=settings(model, sample_users=3))
    assert set(result["test_result"]) == {"hit@3", "hit@5", "ndcg@3", "ndcg@5"}
    assert result["random_guess"]["hit@3"] == pytest.approx(3 / 7)
    test = result["candidates"]["test"]
    content = Path(test["file"]).read_bytes()
    assert hashlib.sha256(content).hexdigest() == test["sha256"]
    rows = {row["user"]: row for row in map(json.loads, content.decode().splitlines())}
    assert len(rows) == 30
    titles = dict(
        line.split("\t")[:2] for line in (data_path / "tiny/tiny.item").read_text().splitlines()[1:]
    )
    for sample in result["samples"]:
        row = rows[sample["user"]]
        assert sample["target"] == titles[row["item"]]
        assert set(sample["recommended"]) <= {titles[item] for item in row["candidates"]}
    assert "random guessing" in render({**result, "baselines": {}})


def test_hits_are_counted_among_the_candidates(settings):
    """Hit@7 of seven candidates is sure; NDCG@7 lies between the last rank's and 1."""
    changes = {"topk": [1, 7], "valid_metric": "Hit@1"}
    result = run("LiteLLM4Rec", "tiny", config_dict=settings(**changes), per_user=True)
    assert result["test_result"]["hit@7"] == 1
    ranks = result["per_user"]["ranks"]
    assert set(ranks) <= set(range(1, 8))
    assert result["test_result"]["hit@1"] == pytest.approx((ranks == 1).mean(), abs=1e-4)


def test_the_history_is_what_tells_users_apart(settings):
    """Items follow one another in the data, which the candidates alone cannot tell."""
    losses = {}
    for shows_history in (False, True):
        changes = {
            "epochs": 15,
            "topn_history": shows_history,
            "rec_llm_config": {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 1},
            "learning_rate": 0.003,
            "item_vector_norm": "standardize",
            "rec_llm_dropout": 0.0,
            "user_dropout": 0.0,
        }
        result = run("LiteLLM4Rec", "tiny", config_dict=settings(**changes))
        losses[shows_history] = result["history"][-1]["train_loss"]
    assert losses[True] < 0.8 * losses[False]


def test_defaults_of_the_task():
    config = LiteConfig("LiteLLM4Rec", "tiny", config_dict={"task": "topn"})
    assert (config["metrics"], config["topk"]) == (["Hit", "NDCG"], [1, 5, 10])
    assert config["valid_metric"] == "Hit@10"
    assert config["topn_negatives"] == 99
    given = LiteConfig("LiteLLM4Rec", "tiny", overrides=["--task=topn", "--topk=[5,10]"])
    assert given["topk"] == [5, 10]
    plain = LiteConfig("LiteLLM4Rec", "tiny")
    assert (plain["task"], plain["topk"]) == ("sequential", [10, 20])


def test_random_guessing_among_a_hundred_by_the_formula():
    config = LiteConfig("Pop", "tiny", config_dict={"task": "topn"})
    guess = random_guess(config)
    assert [guess[f"hit@{k}"] for k in (1, 5, 10)] == pytest.approx([0.01, 0.05, 0.10])
    for k in (1, 5, 10):
        expected = sum(1 / math.log2(1 + rank) for rank in range(1, k + 1)) / 100
        assert guess[f"ndcg@{k}"] == pytest.approx(expected)


def test_a_saved_model_ranks_the_same_again(settings):
    result = run("LiteLLM4Rec", "tiny", config_dict=settings(topn_history=True))
    config, model, *_, test = load_data_and_model(result["run_dir"])
    again = LiteTrainer(config, model).evaluate(test, load_best_model=False)
    assert dict(again) == dict(result["test_result"])


def test_a_resumed_run_ends_with_the_same_numbers(settings):
    whole = run("LiteLLM4Rec", "tiny", config_dict=settings(epochs=3))
    half = run("LiteLLM4Rec", "tiny", config_dict=settings(epochs=1))
    changes = {"epochs": 3, "resume": half["run_dir"]}
    resumed = run("LiteLLM4Rec", "tiny", config_dict=settings(**changes))
    losses = [[epoch["train_loss"] for epoch in r["history"]] for r in (whole, resumed)]
    assert losses[0] == losses[1]
    assert dict(whole["test_result"]) == dict(resumed["test_result"])


def test_baselines_and_the_table(settings):
    changes = {"baselines": ["Pop", "SASRec"], "topn_history": True}
    result = run("LiteLLM4Rec", "tiny", config_dict=settings(**changes))
    shas = {r["candidates"]["test"]["sha256"] for r in (result, *result["baselines"].values())}
    assert len(shas) == 1
    (line,) = (x for x in render(result).splitlines() if x.startswith("random guessing"))
    assert line.split()[2] == "0.4286"  # 3 of 7


def test_ablations_take_the_task(settings, tmp_path):
    rows = tmp_path / "rows"
    rows.mkdir()
    (rows / "history.yaml").write_text("topn_history: True\n")
    values = settings()
    options = AblationOptions(rows_folder=rows, out=tmp_path / "out")
    summary = ablate(dataset="tiny", config_dict=values, options=options)
    assert [row["problem"] for row in summary["rows"]] == [None, None]
    assert "hit@5" in summary["rows"][0]["test"]


# -- fine-tuning ------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["LiteLLM4Rec", "P5"])
def test_fine_tuning_begins_with_the_weights_of_a_sequential_model(model, settings):
    sequential = {"task": "sequential", "metrics": ["Recall", "NDCG"], "valid_metric": "NDCG@5"}
    first = run(model, "tiny", config_dict=settings(model, **sequential))
    trained = load_data_and_model(first["run_dir"])[1].state_dict()
    values = settings(model, init_from=first["run_dir"], seed=7)
    config = LiteConfig(model, "tiny", config_dict=values)
    begun = config.model_class(config, data_preparation(config, create_dataset(config))[0]._dataset)
    load_initial_weights(config, begun)
    own = begun.state_dict()
    assert all(tensor.equal(own[name]) for name, tensor in trained.items())
    new = {name.split(".")[0] for name in set(own) - set(trained)}
    assert new == ({"candidate_prompts", "candidate_words"} if model == "P5" else set())
    fine, scratch = (
        run(model, "tiny", config_dict=settings(model, **changes))
        for changes in ({"init_from": first["run_dir"]}, {})
    )
    assert fine["history"][0]["train_loss"] != scratch["history"][0]["train_loss"]


def test_fine_tuning_a_causal_model_that_was_trained_on_prefixes(settings):
    """As properties/prefix/ml-1m.yaml has it; the candidates take one of its six positions."""
    gpt2 = {
        "rec_llm": "gpt2",
        "rec_llm_config": {"n_layer": 1, "n_embd": 16, "n_head": 2, "n_positions": 6},
        "rec_llm_causal": True,
        "user_pooling": "recency",
        "item_llm_training": "embeddings",
        "loss_exclude_history": True,
    }
    sequential = {"task": "sequential", "train_strategy": "prefix"}
    first = run("LiteLLM4Rec", "tiny", config_dict=settings(**gpt2, **sequential))
    changes = {"init_from": first["run_dir"], "topn_history": True, "MAX_ITEM_LIST_LENGTH": 5}
    second = run("LiteLLM4Rec", "tiny", config_dict=settings(**gpt2, **changes))
    assert second["test_result"]["hit@5"] > 0


def test_fine_tuning_from_what_does_not_fit(settings, tmp_path):
    first = run("LiteLLM4Rec", "tiny", config_dict=settings())
    folder = first["run_dir"]
    cases = [
        ("SASRec", {}, "is a run of LiteLLM4Rec on tiny, this is one of SASRec on tiny"),
        ("LiteLLM4Rec", {"user_inter_num_interval": "[6,inf)"}, "user_id in training, .* missing"),
        ("LiteLLM4Rec", {"tie_head": True}, "head.weight is not part of the model"),
    ]
    for model, changes, message in cases:
        with pytest.raises(CheckpointError, match=message):
            run(model, "tiny", config_dict=settings(init_from=folder, **changes))
    with pytest.raises(CheckpointError, match="no checkpoint here"):
        run("LiteLLM4Rec", "tiny", config_dict=settings(init_from=str(tmp_path / "absent")))


# -- refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"task": "top-n"}, "task must be one of sequential, topn, found 'top-n'"),
        ({"eval_args": {"mode": "uni99"}}, "task: topn draws its own candidates"),
        (
            {"train_strategy": "prefix", "rec_llm_causal": True},
            "set train_strategy to all or sampling",
        ),
        ({"loss_type": "SCE"}, "set loss_type: CE"),
        ({"topn_negatives": 0}, "topn_negatives must be a whole number of at least 1, found 0"),
        ({"topn_seed": None}, "topn_seed must be a whole number of at least 0, found None"),
        ({"topn_history": "some"}, "topn_history must be true or false"),
        (
            {"eval_args": {"split": {"RS": [0.8, 0.1, 0.1]}}, "model": "Pop"},
            "leave eval_args split",
        ),
    ],
)
def test_what_is_refused_before_training(changes, message, settings, workdir):
    model = changes.pop("model", "LiteLLM4Rec")
    with pytest.raises(ConfigError, match=message):
        run(model, "tiny", config_dict=settings(**changes))
    assert not (workdir / "saved").exists()


def test_the_command_line_prints_one_line(capsys, data_path):
    arguments = ["--model=Pop", "--dataset=tiny", f"--data_path={data_path}", "--task=topn"]
    assert run_main(arguments) == 2
    printed = capsys.readouterr().err
    assert "99 negatives cannot be drawn. Set a smaller topn_negatives" in printed
    assert "Traceback" not in printed
    assert run_main([*arguments, "--topn_negatives=9"]) == 0
    assert "random guessing" in capsys.readouterr().out


# -- RecBole's own sampled evaluation ---------------------------------------------------------


@pytest.mark.parametrize(
    "model", ["LiteLLM4Rec", "P5", "POD", "LightLM", "SASRec", "BERT4Rec", "FDSA", "Pop"]
)
def test_recboles_sampled_evaluation(model, settings):
    changes = {"task": "sequential", "eval_args": {"mode": "uni5"}, "topk": [3, 6]}
    result = run(model, "tiny", config_dict=settings(model, **changes, valid_metric="Hit@3"))
    hits = result["test_result"]
    assert 0 <= hits["hit@3"] <= hits["hit@6"] <= 1
    if model not in ("P5", "POD", "LightLM"):  # a beam search names some items only
        assert hits["hit@6"] == 1
