"""Checkpoints: what is written comes back. Runs killed for real: faults/test_processes.py."""

import os
import shutil
from pathlib import Path

import pytest
import torch

from recbole_lite import load_data_and_model, run
from recbole_lite.trainer import checkpoint
from recbole_lite.utils.errors import CheckpointError

MODELS = ["LiteLLM4Rec", "SASRec", "BERT4Rec", "FDSA", "GRU4Rec", "Pop"]


@pytest.mark.parametrize("model", MODELS)
def test_load_data_and_model_gives_the_measured_scores(model, quick):
    result = run(model, "tiny", config_dict=quick())
    config, net, _, train_data, _, test_data = load_data_and_model(result["run_dir"])
    from recbole_lite import get_trainer

    trainer = get_trainer(config["MODEL_TYPE"], model)(config, net)
    trainer.eval_collector.data_collect(train_data)
    assert trainer.evaluate(test_data, load_best_model=False) == result["test_result"]


@pytest.mark.parametrize("model", ["LiteLLM4Rec", "BERT4Rec", "GRU4Rec"])
def test_a_resumed_run_equals_an_uninterrupted_one(model, quick):
    settings = quick(epochs=4)
    whole = run(model, "tiny", config_dict=settings)
    half = run(model, "tiny", config_dict={**settings, "epochs": 2})
    resumed = run(model, "tiny", config_dict={**settings, "resume": half["run_dir"]})
    assert resumed["test_result"] == whole["test_result"]
    assert resumed["best_valid_result"] == whole["best_valid_result"]
    losses = [[epoch["train_loss"] for epoch in r["history"]] for r in (resumed, whole)]
    assert losses[0] == losses[1]
    tensors = [checkpoint.load_last(Path(r["run_dir"]))[0] for r in (resumed, whole)]
    for name, tensor in tensors[0].items():
        assert torch.equal(tensor, tensors[1][name]), name


def test_a_run_that_stopped_early_stays_stopped(quick):
    settings = quick(epochs=12, stopping_step=0, learning_rate=1e-12)
    # With such a rate the validation stays the same, so one epoch more than the first is run.
    first = run("SASRec", "tiny", config_dict={**settings, "valid_metric": "NDCG@3"})
    changed = {**settings, "valid_metric": "NDCG@3", "resume": first["run_dir"]}
    again = run("SASRec", "tiny", config_dict=changed)
    assert again["test_result"] == first["test_result"]
    assert again["epochs"] == first["epochs"]


def test_other_settings_cannot_be_resumed(quick):
    first = run("SASRec", "tiny", config_dict=quick(epochs=1))
    with pytest.raises(CheckpointError, match=r"learning_rate was 0\.01, is 0\.5"):
        run("SASRec", "tiny", config_dict=quick(learning_rate=0.5, resume=first["run_dir"]))


def test_the_weights_that_a_resumed_run_began_with_may_have_moved(quick, workdir):
    first = run("SASRec", "tiny", config_dict=quick(epochs=1))["run_dir"]
    second = run("SASRec", "tiny", config_dict=quick(epochs=1, init_from=first))["run_dir"]
    (workdir / first).rename(workdir / "moved")
    settings = quick(epochs=2, init_from="moved", resume=second)
    assert run("SASRec", "tiny", config_dict=settings)["epochs"] == 2


def test_the_pair_before_stays_until_the_new_one_is_whole(quick, monkeypatch):
    result = run("SASRec", "tiny", config_dict=quick(epochs=1))
    folder = Path(result["run_dir"])
    (weights,) = folder.glob("last-*.safetensors")
    newer = folder / "last-000001.safetensors"
    newer.write_bytes(weights.read_bytes())  # killed before the second file of the pair
    assert checkpoint.load_last(folder)[1]["epoch"] == 0
    (folder / "last-000001.pt").write_bytes(b"torn")
    assert checkpoint.load_last(folder)[1]["epoch"] == 0


def test_damaged_and_missing_files_are_named(quick, tmp_path):
    with pytest.raises(CheckpointError, match=r"no checkpoint here \(config.json is missing\)"):
        load_data_and_model(tmp_path)
    result = run("SASRec", "tiny", config_dict=quick(epochs=1))
    best = Path(result["run_dir"]) / "best.safetensors"
    best.write_bytes(best.read_bytes()[:-50])
    with pytest.raises(CheckpointError, match=r"best\.safetensors: cannot be read"):
        load_data_and_model(result["run_dir"])
    (Path(result["run_dir"]) / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json: cannot be read"):
        load_data_and_model(result["run_dir"])


def test_weights_of_another_model_are_refused(quick):
    first = run("SASRec", "tiny", config_dict=quick(epochs=1))
    second = run("SASRec", "tiny", config_dict=quick(epochs=1, hidden_size=8))
    source, target = Path(first["run_dir"]), Path(second["run_dir"])
    os.replace(source / "best.safetensors", target / "best.safetensors")
    with pytest.raises(CheckpointError, match=r"has shape \[\d+, 16\], the model's is \[\d+, 8\]"):
        load_data_and_model(target)


@pytest.mark.parametrize("model", ["FDSA", "Pop"])
def test_other_parameters_of_another_model_are_refused(model, quick):
    """Tensors beside the state_dict: FDSA's feature embeddings, Pop's counts."""
    result = run(model, "tiny", config_dict=quick(epochs=1))
    best = Path(result["run_dir"], "best.safetensors")
    tensors, _ = checkpoint.load_weights(best)
    name = next(n for n, t in tensors.items() if n.startswith("other_parameter/") and t.dim() > 1)
    net = load_data_and_model(result["run_dir"])[1]
    with pytest.raises(CheckpointError, match="its other_parameter has other names or shapes"):
        checkpoint.restore_model(net, {**tensors, name: tensors[name][:-1]}, best)


def test_no_temporary_files_stay(quick):
    result = run("SASRec", "tiny", config_dict=quick(epochs=3))
    names = sorted(path.name for path in Path(result["run_dir"]).iterdir())
    pairs = [f"last-00000{n}{suffix}" for n in (1, 2) for suffix in (".pt", ".safetensors")]
    record = ["environment.json", "history.csv", "metrics.json", "report.html", "samples.json"]
    files = ["best.safetensors", "config.json", "config.yaml", "items.jsonl", "users.csv"]
    expected = sorted([*files, *record, *pairs, "vocabulary.jsonl"])
    assert names == expected


def test_what_a_kill_left_half_written_goes_when_the_run_is_resumed(quick):
    result = run("SASRec", "tiny", config_dict=quick(epochs=1))
    half = Path(result["run_dir"], ".best.safetensors.4711.tmp")
    half.write_bytes(b"half")
    run("SASRec", "tiny", config_dict=quick(epochs=2, resume=result["run_dir"]))
    assert not half.exists()


def test_a_run_killed_between_its_first_two_files_starts_again(quick, workdir):
    whole = run("SASRec", "tiny", config_dict=quick(epochs=2))
    begun = workdir / "saved" / "SASRec-tiny-begun"
    begun.mkdir()
    shutil.copy(Path(whole["run_dir"], checkpoint.CONFIG_FILE), begun)  # and no config.yaml
    again = run("SASRec", "tiny", config_dict=quick(epochs=2, resume=str(begun)))
    assert again["run_dir"] == str(begun)
    assert again["test_result"] == whole["test_result"]
    assert (begun / "config.yaml").exists()


def test_unsaved_runs_write_no_checkpoint(quick, workdir):
    result = run("SASRec", "tiny", config_dict=quick(epochs=1), saved=False)
    assert result["run_dir"] is None
    assert not list(workdir.glob("saved/*"))
