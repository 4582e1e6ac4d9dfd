"""Weights & Biases (a small stand-in) and TensorBoard: one run, one record."""

import importlib.util
import sys
import types
from pathlib import Path

import pytest

from recbole_lite import create_dataset, data_preparation, get_trainer, run
from recbole_lite.cli.main import run_main
from recbole_lite.trainer import trackers
from recbole_lite.utils.errors import ConfigError, MissingDependencyError


class Run:
    def __init__(self, project, config):
        self.id, self.project, self.config = f"run{id(self)}", project, config
        self.summary, self.lines, self.metrics, self.is_over = {}, [], [], False


class Wandb(types.ModuleType):
    """What RecBole uses of wandb, with wandb's rule: there is one run at a time."""

    def __init__(self):
        super().__init__("wandb")
        self.run, self.runs, self.problem = None, [], None

    def init(self, project=None, config=None):
        if self.problem:
            raise self.problem
        assert self.run is None
        self.run = Run(project, dict(config))
        self.runs.append(self.run)
        return self.run

    def define_metric(self, name, step_metric=None):
        self.run.metrics.append((name, step_metric))

    def log(self, metrics, commit=True):
        if self.problem:
            raise self.problem
        self.run.lines.append(dict(metrics))

    def finish(self):
        self.run.is_over = True
        self.run = None


@pytest.fixture
def wandb(monkeypatch):
    module = Wandb()
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.setattr(trackers.LiteWandbLogger, "_open", None)
    monkeypatch.setattr(trackers.LiteWandbLogger, "has_started", False)
    return module


def named(result):
    return {f"eval/{name}": value for name, value in result["test_result"].items()}


def test_without_the_package_one_line_comes_before_the_data(quick, monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "wandb" else find(name, *a)
    )
    with pytest.raises(MissingDependencyError, match="pip install wandb"):
        run("SASRec", "tiny", config_dict=quick(log_wandb=True, data_path="nowhere"))
    assert run_main(["--model=SASRec", "--dataset=tiny", "--log_wandb=True"]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "error: log_wandb needs wandb; type: pip install wandb"


def test_a_run_and_its_baselines_have_a_record_each(quick, wandb):
    settings = quick(log_wandb=True, wandb_project="mine", baselines=["Pop"])
    first = run("SASRec", "tiny", config_dict=settings)
    second = run("SASRec", "tiny", config_dict={**settings, "baselines": [], "seed": 1})
    assert [r.config["model"] for r in wandb.runs] == ["SASRec", "Pop", "SASRec"]
    results = (first, first["baselines"]["Pop"], second)
    for record, result in zip(wandb.runs, results, strict=True):
        assert record.is_over
        assert record.project == "mine"
        assert record.summary == named(result)
    lines = [line for line in wandb.runs[0].lines if "valid_step" in line]
    scores = [entry["valid_score"] for entry in first["history"]]
    assert [line["valid/ndcg@5"] for line in lines] == scores
    losses = [line["train/train_loss"] for line in wandb.runs[0].lines if "train_step" in line]
    assert losses == [entry["train_loss"] for entry in first["history"]]
    assert wandb.runs[2].config["seed"] == 1


def test_a_record_of_the_users_own_takes_several_runs_and_stays_open(quick, wandb):
    mine = wandb.init("hers", {})
    settings = quick(epochs=1, log_wandb=True, baselines=["Pop"])
    result = run("SASRec", "tiny", config_dict=settings)
    again = run("SASRec", "tiny", config_dict={**settings, "baselines": [], "seed": 1})
    assert wandb.run is mine
    assert not mine.is_over
    pop = {f"Pop-2/{k}": v for k, v in named(result["baselines"]["Pop"]).items()}
    third = {f"SASRec-3/{k}": v for k, v in named(again).items()}
    assert mine.summary == {**named(result), **pop, **third}


def test_a_validation_is_never_in_the_tests_place(quick, wandb):
    settings = quick(epochs=1, log_wandb=True, eval_args={"split": {"LS": "valid_only"}})
    run("SASRec", "tiny", config_dict=settings)
    assert wandb.runs[0].summary == {}
    assert any("valid/ndcg@5" in line for line in wandb.runs[0].lines)


def test_trainers_used_as_recboles_have_a_record_each(config_for, wandb):
    for _ in range(2):
        config = config_for("SASRec", epochs=1, log_wandb=True)
        loaders = data_preparation(config, create_dataset(config))
        model = config.model_class(config, loaders[0]._dataset)
        trainer = get_trainer(config["MODEL_TYPE"], "SASRec")(config, model)
        trainer.fit(*loaders[:2])
        trainer.evaluate(loaders[2])
    assert [bool(record.summary) for record in wandb.runs] == [True, True]


def test_a_tracker_that_cannot_start_stops_the_first_run_alone(quick, wandb, caplog):
    settings = quick(epochs=1, log_wandb=True)
    wandb.problem = RuntimeError("no API key")
    with pytest.raises(ConfigError, match=r"cannot start: RuntimeError: no API key\. Type"):
        run("SASRec", "tiny", config_dict=settings)
    wandb.problem = None
    run("SASRec", "tiny", config_dict=settings)
    wandb.problem = RuntimeError("no network")
    assert run("Pop", "tiny", config_dict=settings)["test_result"]
    assert "RuntimeError: no network; Pop is not recorded" in caplog.text


def test_a_tracker_that_fails_says_so_once(quick, wandb, monkeypatch, caplog):
    from torch.utils.tensorboard import SummaryWriter

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(SummaryWriter, "add_scalar", fail)
    monkeypatch.setattr(SummaryWriter, "close", fail)
    monkeypatch.setattr(wandb, "log", fail)
    assert run("SASRec", "tiny", config_dict=quick(log_wandb=True))["test_result"]
    for name in ("TensorBoard", "log_wandb"):
        assert caplog.text.count(f"{name} failed and is disabled from here on: OSError") == 1


def test_tensorboard_has_a_folder_a_run(quick, data_path, workdir):
    for name in ("tiny.inter", "tiny.item"):
        path = data_path / "tiny" / name
        target = data_path / "v1.1" / name.replace("tiny", "v1.1")
        target.parent.mkdir(exist_ok=True)
        target.write_text(path.read_text())
    for _ in range(2):  # RecBole names both v1: what stands before the first dot
        run("SASRec", "v1.1", config_dict=quick(epochs=1, baselines=["Pop"]))
    folders = sorted(path.name for path in Path("log_tensorboard").iterdir())
    assert len(folders) == 4
    assert [name.startswith("SASRec-v1_1-") for name in folders] == [False, False, True, True]
    for folder in Path("log_tensorboard").iterdir():
        assert len(list(folder.glob("events.*"))) == 1
