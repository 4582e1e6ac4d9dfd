"""Every wrong input of a sweep: one line, exit status 2, before the first trial."""

import importlib.util
import re
import sys

import pytest

from recbole_lite.cli.main import run_main
from recbole_lite.experiments.tune.cluster import plan_resources
from recbole_lite.experiments.tune.space import Parameter, Space
from recbole_lite.experiments.tune.sweep_spec import SweepSpec, check_same
from recbole_lite.experiments.tune.tune_settings import read_settings
from recbole_lite.utils.errors import ConfigError


@pytest.fixture
def refused(quick, tmp_path, capsys):
    """``refused(space, *flags)`` -> the error's text."""

    def run(space, *flags, model="GRU4Rec"):
        path = tmp_path / "space.yaml"
        path.write_text(space)
        arguments = [f"--model={model}", "--dataset=tiny", f"--tune={path}"]
        arguments += [f"--data_path={quick()['data_path']}", "--epochs=1"]
        assert run_main([*arguments, *flags]) == 2
        error = capsys.readouterr().err.strip()
        assert error.startswith("error: ")
        assert "Traceback" not in error
        assert len(error.splitlines()) == 1
        return error

    return run


LR = "learning_rate: {choice: [0.1]}\n"


@pytest.mark.parametrize(
    "space, flags, message",
    [
        ("learing_rate: {choice: [1]}", [], "line 1: unknown key 'learing_rate'; did you mean lea"),
        ("# none", [], "the search space is empty"),
        (LR, ["--learning_rate=1"], "every parameter is fixed"),
        ("learning_rate: {uniform: [1, 0]}", [], "low is not below high"),
        ("learning_rate: {choice: [fast]}", [], "line 1: learning_rate: .*must be a positive"),
        ("dropout_prob: {uniform: [0, 2]}", [], "dropout_prob must be a probability"),
        ("model: {choice: [Pop]}", [], "model cannot be a parameter"),
        ("end_epoch: {choice: [1]}", [], "last_epoch cannot be a parameter"),
        (LR, ["--valid_metric=Hit@10"], "valid_metric 'Hit@10' is not measured: metrics are"),
        (LR, ["--nproc=2"], "nproc: a trial is one process"),
        (LR, ["--num_workers=2"], "num_workers: a trial is one process"),
        (LR, ["--eval_step=0"], "a sweep compares validations"),
        (LR, ["--eval_args={split: {LS: test_only}}"], "eval_args: a sweep selects by validation"),
        (LR, ["--eval_args={split: {RS: [1, 0, 0]}}"], "and {'RS': .* has no validation part"),
        (LR, ["--ray-address=127.0.0.1:9"], "no Ray cluster answers at '127.0.0.1:9'"),
        (LR, ["--ray-address=here"], "'here' is neither auto nor HOST:PORT"),
        (LR, ["--ray_address=ray://h:1"], "start the command on a machine of the cluster"),
        (LR, ["--num_samples=0"], "--num_samples: must be a whole number of at least 1, found 0"),
        (LR, ["--scheduler=hyper"], "--scheduler: must be one of asha, none"),
        (LR, ["--searcher=tpe"], "--searcher: must be one of random, optuna, grid"),
        (LR, ["--cpus_per_trial=0"], "--cpus_per_trial: must be a positive number"),
        (LR, ["--num_sample=3"], "unknown key 'num_sample'"),
        ("learning_rate: {uniform: [1, 2]}", ["--searcher=grid"], "learning_rate is uniform"),
        (LR, ["--num_samples"], "write --num_samples=value"),
        (LR, ["--resume=nowhere"], "resume: nowhere: no sweep to continue"),
    ],
)
def test_one_line_each(space, flags, message, refused):
    assert re.search(message, refused(space, *flags))


def test_a_missing_ray_names_the_command(refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert 'pip install "ray[tune]"' in refused(LR)


def test_a_missing_optuna_names_the_command(refused, monkeypatch):
    find = importlib.util.find_spec
    hidden = lambda name, *more: None if name == "optuna" else find(name, *more)  # noqa: E731
    monkeypatch.setattr("importlib.util.find_spec", hidden)
    assert "pip install optuna" in refused(LR, "--searcher=optuna")


class Nodes:
    """Ray with machines of given resources."""

    def __init__(self, *resources):
        self._nodes = [{"Alive": True, "Resources": node} for node in resources]

    def nodes(self):
        return self._nodes


def plan(nodes, use_gpu=True, **given):
    planned = plan_resources(Nodes(*nodes), read_settings(given), use_gpu)
    return planned.cpus, planned.gpus, planned.concurrent


def test_resources_are_detected():
    assert plan([{"CPU": 2}]) == (1, 0, 2)
    assert plan([{"CPU": 16, "GPU": 4}]) == (4, 1, 4)
    assert plan([{"CPU": 16, "GPU": 4}], use_gpu=False) == (1, 0, 16)
    assert plan([{"CPU": 16, "GPU": 1}], gpus_per_trial=0.5) == (8, 0.5, 2)
    assert plan([{"CPU": 4}, {"CPU": 4}, {}]) == (1, 0, 8)
    assert plan([{"CPU": 4}, {"CPU": 6}], cpus_per_trial=3) == (3, 0, 3)
    assert plan([{"CPU": 2}], max_concurrent=1) == (1, 0, 1)
    assert plan([{"CPU": 2}], max_concurrent=9) == (1, 0, 2)


@pytest.mark.parametrize(
    "given, message",
    [
        ({"gpus_per_trial": 1}, "gpus_per_trial: 1 requested, but .* has 0 GPUs"),
        ({"cpus_per_trial": 3}, "cpus_per_trial: 3 requested, but .* has 2 CPUs"),
        ({"gpus_per_trial": 1.5}, "above 1 it must be a whole number"),
    ],
)
def test_more_than_there_is_is_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        plan([{"CPU": 2}, {"CPU": 2}], **given)


def test_a_sweep_goes_on_where_its_files_have_moved_and_not_with_other_values():
    space = Space((Parameter("learning_rate", "choice", (0.1,), "s"),), "s")
    settings = read_settings({})
    before = SweepSpec("M", "d", {"data_path": "/gone", "epochs": 3}, space, settings)
    check_same(SweepSpec("M", "d", {"data_path": "/here", "epochs": 3}, space, settings), before)
    with pytest.raises(ConfigError, match=r"values was .*'epochs': 3.*, is .*'epochs': 4"):
        check_same(SweepSpec("M", "d", {"epochs": 4}, space, settings), before)
