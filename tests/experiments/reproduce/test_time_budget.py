"""Training for a given time."""

import itertools
import json

import pytest
import torch

from recbole_lite.experiments.reproduce import baselines, protocol, time_budget
from recbole_lite.experiments.reproduce.baselines import MODELS, ModelSpec
from recbole_lite.experiments.reproduce.protocol import Request, Rows
from recbole_lite.experiments.reproduce.time_budget import measure, plan


@pytest.fixture
def half_a_second_each(monkeypatch):
    """Every step takes half a second by the clock."""
    ticks = itertools.count()
    # A step reads the clock before and after it.
    monkeypatch.setattr(time_budget, "clock", lambda: next(ticks) * 0.5)


@pytest.fixture
def common(quick):
    """Settings of all sides on the data set ``tiny``."""
    settings = quick(train_batch_size=32)
    return {key: value for key, value in settings.items() if key != "epochs"}


def test_steps_fill_the_budget(half_a_second_each, common):
    planned = plan(ModelSpec("SASRec", "SASRec"), "tiny", common, 10.4)
    assert planned["step_seconds"] == 0.5
    assert planned["steps"] == planned["settings"]["max_steps"] == 20
    epoch = planned["steps_per_epoch"]
    assert planned["settings"]["epochs"] == -(-20 // epoch)
    assert "eval_step" not in planned["settings"]


@pytest.mark.parametrize("seconds, reads", [(900, 2 * 18), (10, 2 * 5), (0.1, 2 * 2)])
def test_timing_takes_a_fifth_of_the_budget(seconds, reads, common, monkeypatch):
    """Steps of half a second, each between two readings of the clock; two at the least."""
    ticks = itertools.count()
    monkeypatch.setattr(time_budget, "clock", lambda: next(ticks) * 0.5)
    assert plan(ModelSpec("SASRec", "SASRec"), "tiny", common, seconds)["step_seconds"] == 0.5
    assert next(ticks) == reads


def test_what_counts_once_has_no_steps_to_plan(common):
    planned = plan(ModelSpec("Pop", "Pop"), "tiny", common, 60)
    assert planned["settings"]["epochs"] == 1
    assert "max_steps" not in planned["settings"]
    assert planned["steps"] == planned["steps_per_epoch"]


def test_of_many_short_epochs_a_few_are_validated_the_last_among_them(half_a_second_each, common):
    planned = plan(ModelSpec("s", "SASRec", {"train_batch_size": 2048}), "tiny", common, 50)
    assert planned["steps_per_epoch"] == 1
    settings = planned["settings"]
    # 100 epochs: every 20th is validated, five times.
    assert (settings["epochs"], settings["eval_step"], planned["steps"]) == (100, 20, 100)


def test_stages_share_the_steps(half_a_second_each, common):
    side = ModelSpec("two", "LiteLLM4Rec", {}, two_stages=True)
    first, second = plan(side, "tiny", common, 10)["settings"]["stages"]
    assert (first["max_steps"], second["max_steps"]) == (12, 8)
    assert (first["item_llm_training"], second["item_llm_training"]) == ("frozen", "embeddings")


def test_a_model_of_two_phases_shares_the_time(half_a_second_each, common, tmp_path):
    side = ModelSpec("S3Rec", "S3Rec", pretrain=0.3)
    result = measure(side, "tiny", {**common, "checkpoint_dir": str(tmp_path)}, 0.5, "typed")
    settings = result["config_dict"]
    assert settings["train_stage"] == "finetune"
    assert result["steps"] == settings["max_steps"] == 42  # 0.7 of 30 s
    first = torch.load(settings["pre_model_path"], weights_only=True)
    epoch = result["steps_per_epoch"]
    assert first["epoch"] + 1 == -(-18 // epoch)  # 0.3 of 30 s
    assert len(result["ranks"]) == 30


def test_a_result_is_made_once(common, request_for, tmp_path, monkeypatch):
    monkeypatch.setattr(Request, "settings_of", lambda self, model: common)
    lines = []
    rows = Rows(request_for(command="typed", log=lines.append), tmp_path / "out")
    side = ModelSpec("SASRec, small", "SASRec", {"hidden_size": 8})
    path = rows.path(side)
    result = rows.train(side)
    assert lines == [f"SASRec, small: written to {path}"]
    assert result == json.loads(path.read_text())
    assert result["config_dict"]["hidden_size"] == 8
    assert len(result["ranks"]) == 30
    assert result["command"] == "typed"
    hits = sum(0 < rank <= 5 for rank in result["ranks"].values())
    assert result["test"]["recall@5"] == pytest.approx(hits / 30, abs=1e-4)
    assert sum(e["valid_result"] is not None for e in result["history"]) >= 1
    again = rows.train(side)
    assert lines[1:] == [f"SASRec, small: reused from {path}"]
    assert again == result
    other = ModelSpec("SASRec, small", "SASRec", {"hidden_size": 16})
    rows.train(other)
    assert lines[2:] == [f"SASRec, small: written to {path}"]  # other settings: made anew
    file = tmp_path / "row.yaml"
    for size in (16, 16, 24):
        file.write_text(f"inner_size: {size}\n")
        rows.train(ModelSpec("SASRec, file", "SASRec", files=[file]))
    path = rows.path(ModelSpec("SASRec, file", "SASRec"))
    done = ["written to", "reused from", "written to"]  # an edited file: made anew
    assert lines[3:] == [f"SASRec, file: {how} {path}" for how in done]


def test_a_result_that_cannot_be_written_is_not_lost(request_for, tmp_path, monkeypatch, caplog):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(protocol, "write_json", full)
    rows = Rows(request_for(), tmp_path)
    assert rows.train(ModelSpec("a", "Pop"), by=lambda *_: {"test": {}}) == {"test": {}}
    assert "a-2020.json: cannot be made: OSError: [Errno 28]" in caplog.text


def test_files_of_the_project_are_named_without_the_machine():
    assert time_budget.portable(baselines.PREFIX[0]) == "properties/prefix/ml-1m.yaml"
    assert time_budget.portable("mine/a.yaml") == "mine/a.yaml"


def test_every_side_is_a_valid_configuration(common):
    from recbole_lite import LiteConfig

    for side in MODELS.values():
        data_path = {"data_path": common["data_path"]}
        LiteConfig(side.model, "tiny", side.files, config_dict={**data_path, **side.settings})
