"""Whole sweeps on Ray: two nodes of which one is killed, an interruption, shared item vectors."""

import json
import os
import signal
from pathlib import Path

import psutil
import pytest
import torch
import yaml
from counting import count_encodings

from recbole_lite import LiteConfig, run
from recbole_lite.experiments.tune.runner import SweepOptions, sweep
from recbole_lite.utils.errors import ConfigError

pytest.importorskip("ray")
from local_ray import importable, local_ray, two_nodes
from ray.tune.result import AUTO_RESULT_KEYS, DEBUG_METRICS
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler

pytestmark = pytest.mark.integration


@pytest.fixture(autouse=True)
def _importable():
    with importable(Path(__file__).parent):
        yield


@pytest.fixture
def space(tmp_path):
    def write(text):
        path = tmp_path / "space.yaml"
        path.write_text(text)
        return path

    return write


@pytest.fixture
def cluster(_importable):
    with two_nodes() as both:
        yield both


@pytest.fixture
def local(_importable):
    with local_ray():
        yield


class Watcher:
    """Everything that a scheduler is told; `do` is called with each trial and result."""

    def __init__(self, monkeypatch, scheduler, do):
        self.results = []
        told = scheduler.on_trial_result

        def watched(this, controller, trial, result):
            self.results.append(dict(result))
            decision = told(this, controller, trial, result)
            do(trial, result)
            return decision

        monkeypatch.setattr(scheduler, "on_trial_result", watched)


@pytest.mark.cluster
def test_a_node_dies_a_trial_fails_and_the_sweep_completes(
    cluster, space, quick, monkeypatch, workdir
):
    torch.set_num_threads(1)  # as each trial has
    raylet = cluster.second.all_processes["raylet"][0].process.pid
    on_second = []

    def kill(trial, result):
        """The first trial on the second node reports its first epoch: kill the node."""
        if not on_second and psutil.Process(result["pid"]).ppid() == raylet:
            assert result["epoch"] == 1
            on_second.append(trial.trial_id)
            cluster.remove_node(cluster.second, allow_graceful=False)

    watcher = Watcher(monkeypatch, ASHAScheduler, kill)
    settings = {"max_retries": 3, "sweep_dir": "swept", "ray_address": cluster.address}
    settings["grace_period"] = 2
    # 16 is no multiple of 3 heads: those trials raise an error of the model's own.
    text = "n_heads: {grid: [1, 2, 3]}\nlearning_rate: {grid: [0.01, 0.001]}\n"
    values = quick(epochs=5, hidden_size=16, hidden_dropout_prob=0.3, loss_type="CE")
    values["state"] = "INFO"  # "Resuming" is to stand in the log
    options = SweepOptions(space(text), settings, command="typed")
    result = sweep("SASRec", "tiny", config_dict=values, options=options)
    assert not result["interrupted"]
    trials = result["trials"]
    assert len(trials) == 6

    # The failing trials are in the table with their error; they were not tried again.
    failed = [t for t in trials if t["status"] == "failed"]
    assert [t["params"]["n_heads"] for t in failed] == [3, 3]
    assert all("multiple" in t["error"] for t in failed)
    assert trials[-2:] == failed
    table = (workdir / "swept" / "trials.md").read_text()
    assert failed[0]["error"] in table

    # Trials ran on both nodes; the killed one's trial went on elsewhere, after its last epoch.
    assert len(on_second) == 1
    (moved,) = (t for t in trials if t["trial"] == on_second[0])
    reported = [r for r in watcher.results if r["trial_id"] == moved["trial"]]
    assert len({r["pid"] for r in reported}) == 2
    log = "".join(
        path.read_text()
        for path in (workdir / "swept" / "trials" / moved["trial"]).glob("log/*/*.log")
    )
    assert "Resuming" in log

    # Every trial, the moved one too, has the figures of an undisturbed run.
    for record in trials:
        if record["status"] != "failed":
            alone = run("SASRec", "tiny", config_dict={**values, **record["params"]})
            expected = [entry["valid_result"] for entry in alone["history"]]
            assert [e["valid"] for e in record["history"]] == expected[: record["epochs"]]
            assert record["status"] == "finished" or record["epochs"] < 5
    scores = [t["valid_score"] for t in trials[:4]]
    assert scores == sorted(scores, reverse=True)
    assert {t["status"] for t in trials[:4]} == {"finished", "stopped"}

    # The scheduler was told validation figures and nothing else.
    ours = {"epoch", "valid_score", "best_valid_score", "best_epoch", "train_loss", "finished"}
    ours |= {f"valid/{name}" for name in trials[0]["valid"]} | {"error"}
    ours |= {f"config/{key}" for key in ("n_heads", "learning_rate")}
    rays = {*AUTO_RESULT_KEYS, *DEBUG_METRICS, "checkpoint_dir_name", "done"}
    assert {key for r in watcher.results for key in r} <= ours | rays
    for record in trials:
        told = {
            r["epoch"]: {key[6:]: value for key, value in r.items() if key.startswith("valid/")}
            for r in watcher.results
            if r["trial_id"] == record["trial"] and "epoch" in r
        }
        assert told == {entry["epoch"]: entry["valid"] for entry in record["history"]}

    # best.yaml repeats the best trial, test figures included.
    best = result["best"]
    assert best["trial"] == trials[0]["trial"]
    again = run(config_file_list=[workdir / "swept" / "best.yaml"])
    assert again["best_valid_result"] == best["valid"]
    assert again["test_result"] == best["test_result"]
    assert again["epochs"] == best["epochs"]
    written = json.loads((workdir / "swept" / "trials.json").read_text())
    assert written["best"]["test_result"] == best["test_result"]
    assert [t["history"] for t in written["trials"]] == [t["history"] for t in trials]
    assert "test" not in {key for t in written["trials"] for key in t}
    assert (workdir / "swept" / "plots.html").read_text().count("<svg") == 2


def test_an_interrupted_sweep_says_what_it_knows_and_goes_on(
    local, space, quick, monkeypatch, workdir, capfd
):
    """Ctrl-C in the second trial's second epoch; the first is not run again."""

    def interrupt(trial, result):
        first.setdefault("id", trial.trial_id)
        if trial.trial_id != first["id"] and result["epoch"] == 2 and "sent" not in first:
            first["sent"] = trial.trial_id
            os.kill(os.getpid(), signal.SIGTERM)  # acts as Ctrl-C

    first = {}
    watcher = Watcher(monkeypatch, FIFOScheduler, interrupt)
    path = space("learning_rate: {loguniform: [1e-3, 1e-2]}\n")
    values = quick(epochs=3, loss_type="CE")
    settings = {"num_samples": 3, "scheduler": "none", "sweep_dir": "cut"}
    options = SweepOptions(path, settings)
    cut = sweep("GRU4Rec", "tiny", config_dict=values, options=options)
    assert cut["interrupted"]
    finished = [t for t in cut["trials"] if t["status"] == "finished"]
    assert [t["trial"] for t in finished] == [first["id"]]
    assert cut["best"]["trial"] in {first["id"], first["sent"]}
    assert cut["best"]["test_result"] is None  # the sweep is not over
    best = yaml.safe_load((workdir / "cut" / "best.yaml").read_text())
    assert LiteConfig(config_file_list=[workdir / "cut" / "best.yaml"])["epochs"] == best["epochs"]

    heard = len(watcher.results)
    (workdir / "cut").rename(workdir / "moved here")
    whole = sweep(options=SweepOptions(resume="moved here"))
    assert not (workdir / "cut").exists()
    assert not whole["interrupted"]
    assert [t["status"] for t in whole["trials"]] == ["finished"] * 3
    assert whole["best"]["test_result"]
    by_id = {t["trial"]: t for t in whole["trials"]}
    kept = by_id[first["id"]]
    assert kept["history"] == finished[0]["history"]
    assert f"{first['id']} starts" not in capfd.readouterr().out.split("3 trials of")[2]
    rate = by_id[first["sent"]]["params"]["learning_rate"]
    alone = run("GRU4Rec", "tiny", config_dict={**values, "learning_rate": rate})
    expected = [entry["valid_result"] for entry in alone["history"]]
    assert [e["valid"] for e in by_id[first["sent"]]["history"]] == expected
    assert heard >= 5  # three epochs of one trial, two of another

    with pytest.raises(ConfigError, match=r"the sweep had other settings: values was"):
        sweep(
            "GRU4Rec",
            "tiny",
            config_dict={**values, "epochs": 9},
            options=SweepOptions(path, settings, "moved here"),
        )
    options = SweepOptions(path, {**settings, "sweep_dir": "moved here"})
    with pytest.raises(ConfigError, match="already contains a sweep; --resume="):
        sweep("GRU4Rec", "tiny", config_dict=values, options=options)


def test_four_concurrent_trials_encode_the_items_once(space, quick, monkeypatch, tmp_path, workdir):
    """The sweep does it before the trials, in the process that it was started in."""
    from recbole_lite.text.text_encoder import TextEncoder

    calls = tmp_path / "calls"

    monkeypatch.setattr(TextEncoder, "encode", TextEncoder.encode)  # put back after the test
    monkeypatch.setenv("ENCODINGS", str(calls))
    count_encodings()
    with local_ray(4, runtime_env={"worker_process_setup_hook": count_encodings}):
        result = sweep(
            "LiteLLM4Rec",
            "tiny",
            config_dict=quick(epochs=1, item_embedding_cache_dir=None),
            options=SweepOptions(
                space("user_dropout: {grid: [0.1, 0.2, 0.3, 0.4]}\n"), {"sweep_dir": "shared"}
            ),
        )
    assert [t["status"] for t in result["trials"]] == ["finished"] * 4
    pids = {
        json.loads(line)["pid"]
        for path in workdir.glob("shared/ray/*/result.json")
        for line in path.read_text().splitlines()
    }
    # Processes of their own; a trial that starts late may get that of one that has ended.
    assert len(pids) >= 2
    assert os.getpid() not in pids
    (call,) = calls.read_text().splitlines()
    assert int(call.split()[0]) == os.getpid()
