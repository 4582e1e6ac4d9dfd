"""What was measured about RecBole 1.2.1 (docs/recbole.md); one test per finding."""

import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from recbole.utils import ModelType

import recbole_lite
from recbole_lite import LiteConfig, create_dataset, data_preparation, get_model, get_trainer, run
from recbole_lite.config.registry import require_recbole
from recbole_lite.utils.errors import CheckpointError, ConfigError, MissingDependencyError

HIDE = """
import importlib.abc, sys
class Hide(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {hidden!r}:
            raise ModuleNotFoundError("No module named " + repr(name), name=name)
sys.meta_path.insert(0, Hide())
"""


def python(code, hidden=()):
    """Run code in a fresh interpreter that cannot import the packages `hidden`."""
    return subprocess.run(
        [sys.executable, "-c", HIDE.format(hidden=set(hidden)) + code],
        capture_output=True,
        text=True,
        timeout=120,
    )


# -- 1: its metadata cannot be satisfied ------------------------------------------------------


def test_1_without_recbole_one_line_says_what_to_type():
    code = (
        "from recbole_lite.cli.main import run_main;sys.exit(run_main(['-m=SASRec', '-d=ml-100k']))"
    )
    done = python(code, hidden=["recbole"])
    assert done.returncode == 2
    assert done.stderr.strip() == (
        "error: RecBole is not installed; type: pip install --no-deps recbole==1.2.1"
    )


def test_1_import_and_help_work_without_recbole():
    code = "import recbole_lite; from recbole_lite.cli.main import run_main; run_main(['--help'])"
    done = python(code, hidden=["recbole", "torch"])
    assert done.returncode == 0, done.stderr
    assert "--model=LiteLLM4Rec" in done.stdout


def test_1_the_error_is_an_import_error_too():
    assert issubclass(MissingDependencyError, ImportError)
    require_recbole()


# -- 2: NumPy aliases that are gone -----------------------------------------------------------


def test_2_every_ranking_metric_works_without_the_old_numpy_names(quick):
    metrics = ["Recall", "MRR", "NDCG", "Hit", "Precision", "MAP", "ItemCoverage", "GiniIndex"]
    metrics += ["AveragePopularity", "ShannonEntropy", "TailPercentage"]
    result = run("Pop", "tiny", config_dict=quick(metrics=metrics, epochs=1))
    assert len(result["test_result"]) == 2 * len(metrics)
    assert all(np.isfinite(value) for value in result["test_result"].values())
    assert not hasattr(np, "float")


# -- 3: Ray at the top of quick_start ---------------------------------------------------------


def test_3_training_needs_no_ray():
    code = "import recbole_lite.quick_start, recbole_lite.model.lite_llm4rec"
    done = python(code, hidden=["ray", "recbole.quick_start"])
    assert done.returncode == 0, done.stderr


# -- 4: pickled checkpoints -------------------------------------------------------------------


class Touch:
    """Creates a file when unpickled."""

    def __reduce__(self):
        return (open, ("pwned", "w"))


def test_4_a_checkpoint_cannot_run_code(config_for, workdir):
    config = config_for("SASRec")
    dataset = create_dataset(config)
    train_data, valid_data, _ = data_preparation(config, dataset)
    model = config.model_class(config, train_data._dataset)
    trainer = get_trainer(config["MODEL_TYPE"], "SASRec")(config, model)
    trainer.fit(train_data, valid_data)
    folder = trainer.run_dir
    for path in folder.glob("*.safetensors"):
        torch.save(Touch(), path)
    for path in folder.glob("*.pt"):
        torch.save({"epoch": 1, "optimizer": Touch()}, path)
    with pytest.raises(CheckpointError, match="cannot be read"):
        trainer.evaluate(train_data)
    with pytest.raises(CheckpointError, match="no checkpoint can be read"):
        trainer.resume_checkpoint(folder)
    assert not (workdir / "pwned").exists()


def test_4_the_rest_of_a_checkpoint_loads_with_weights_only(quick):
    result = run("GRU4Rec", "tiny", config_dict=quick())
    path = max(Path(result["run_dir"]).glob("last-*.pt"))
    state = torch.load(path, weights_only=True)
    assert state["epoch"] == 1


# -- 5: fillna(inplace=True) under copy-on-write ----------------------------------------------


def test_5_missing_values_are_filled(data_path, config_for):
    """Missing: a float (mean), a token (padding), a row of .item (padding, empty sequence)."""
    inter = data_path / "tiny" / "tiny.inter"
    lines = inter.read_text().splitlines()
    cells = lines[1].split("\t")
    cells[2] = ""
    lines[1] = "\t".join(cells)
    inter.write_text("\n".join(lines) + "\n")
    item = data_path / "tiny" / "tiny.item"
    rows = item.read_text().splitlines()
    no_year = rows[1].split("\t")
    no_year[2] = ""
    item.write_text("\n".join([rows[0], "\t".join(no_year), *rows[3:]]) + "\n")  # i1 has no row

    dataset = create_dataset(config_for("SASRec"))
    ratings = dataset.inter_feat["rating"].to_numpy()
    assert not np.isnan(ratings).any()
    others = pd.to_numeric([line.split("\t")[2] for line in lines[2:]])
    assert np.isclose(ratings[0], others.mean())
    ids = dataset.field2token_id["item_id"]
    years = dataset.item_feat.set_index("item_id")["year"]
    assert years[ids["i0"]] == 0
    assert years[ids["i1"]] == 0
    assert years.dtype == np.int64
    assert len(dataset.item_feat.set_index("item_id")["genre"][ids["i1"]]) == 0


# -- 8: seen items in full ranking ------------------------------------------------------------


@pytest.mark.parametrize("model", ["SASRec", "Pop", "LiteLLM4Rec"])
def test_8_the_whole_history_is_masked_not_only_the_window(model, config_for):
    config = config_for(model, MAX_ITEM_LIST_LENGTH=2)
    dataset = create_dataset(config)
    train_data, valid_data, test_data = data_preparation(config, dataset)
    net = config.model_class(config, train_data._dataset)
    trainer = get_trainer(config["MODEL_TYPE"], model)(config, net)
    trainer.fit(train_data, valid_data)
    trainer.evaluate(test_data)
    batch, scores, rows, targets = trainer._full_sort_batch_eval(next(iter(test_data)))
    sequences = sequences_of(dataset)
    for row, user in enumerate(batch["user_id"].tolist()):
        *history, target = sequences[user]
        masked = set(torch.isinf(scores[row]).nonzero().flatten().tolist())
        assert target == targets[row]
        assert masked == ({0, *history} - {target})
    assert rows.tolist() == list(range(len(targets)))


def test_8_recboles_protocol_masks_nothing(config_for):
    config = config_for("SASRec", eval_exclude_history=False)
    *_, test_data = data_preparation(config, create_dataset(config))
    assert next(iter(test_data))[1] is None


def sequences_of(dataset):
    """User id -> item ids in time order, straight from the file."""
    path = f"{dataset.dataset_path}/{dataset.dataset_name}.inter"
    rows = pd.read_csv(path, sep="\t").sort_values("timestamp:float", kind="stable")
    users, items = dataset.field2token_id["user_id"], dataset.field2token_id["item_id"]
    sequences = {}
    for user, item in zip(rows["user_id:token"], rows["item_id:token"], strict=True):
        sequences.setdefault(users[user], []).append(items[item])
    return sequences


# -- 11: where models are looked for ----------------------------------------------------------


def test_11_ours_first_then_recboles():
    assert get_model("LiteLLM4Rec").__module__ == "recbole_lite.model.lite_llm4rec"
    assert get_model("NARM").__module__ == "recbole.model.sequential_recommender.narm"
    assert issubclass(get_model("LiteLLM4Rec"), recbole_lite.get_model("NARM").__mro__[1])


@pytest.mark.parametrize("name, near", [("SASrec", "SASRec"), ("LiteLLM4rec", "LiteLLM4Rec")])
def test_11_an_unknown_model_names_its_neighbours(name, near):
    with pytest.raises(ConfigError, match=f"unknown model '{name}'; did you mean .*{near}"):
        get_model(name)


def test_11_autograds_anomaly_mode_stays_as_it_was(monkeypatch):
    """RecBole's SINE, imported with any sequential model, turns it on: 1.6 times the time."""
    package = "recbole.model.sequential_recommender"
    for found in (False, True):
        for module in (package, f"{package}.sine", f"{package}.narm"):
            monkeypatch.delitem(sys.modules, module, raising=False)
        with torch.autograd.set_detect_anomaly(found, check_nan=False):
            get_model("NARM")
            assert torch.is_anomaly_enabled() is found
    monkeypatch.delitem(sys.modules, f"{package}.sine")
    with torch.autograd.set_detect_anomaly(False):
        importlib.import_module(f"{package}.sine")
        assert torch.is_anomaly_enabled()


def test_11_a_model_class_can_be_given(quick):
    class MyModel(get_model("SASRec")):
        pass

    config = LiteConfig(MyModel, "tiny", config_dict=quick(n_heads=2, loss_type="CE"))
    assert config.model_class is MyModel
    assert config["MODEL_TYPE"] == ModelType.SEQUENTIAL


def test_11_ml_100k_of_the_wheel_or_of_the_user(tmp_path):
    assert "dataset_example" in LiteConfig("Pop", "ml-100k")["data_path"]
    own = tmp_path / "ml-100k"
    own.mkdir()
    (own / "ml-100k.inter").write_text("user_id:token\titem_id:token\n")
    config = LiteConfig("Pop", "ml-100k", config_dict={"data_path": str(tmp_path)})
    assert config["data_path"] == str(own)
