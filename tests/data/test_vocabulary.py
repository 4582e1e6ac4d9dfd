"""A checkpoint's rows belong to raw ids, in whatever order the data files mention these."""

import json
import logging
import random
import shutil
from pathlib import Path

import pytest
import torch

from recbole_lite import LiteConfig, checkpoint, create_dataset, get_trainer
from recbole_lite import data_preparation, load_data_and_model, run
from recbole_lite.cli import main
from recbole_lite.data.vocabulary import Vocabulary
from recbole_lite.errors import CheckpointError
from recbole_lite.inference import folder as packed

OURS = ["LiteLLM4Rec", "ItemLM"]
MODELS = [*OURS, "SASRec", "BERT4Rec", "BPR", "FDSA"]


@pytest.fixture
def permuted(data_path, tmp_path):
    """The data set ``tiny`` with the lines of its files in another order."""
    return _permuted(data_path, tmp_path / "permuted")


def _permuted(source, target, more=(), without=()):
    """Copy of ``tiny`` with lines in another order, some added, those with some cells left out."""
    (target / "tiny").mkdir(parents=True)
    for name in ("tiny.inter", "tiny.item"):
        head, *lines = (source / "tiny" / name).read_text().splitlines()
        lines = [line for line in lines if not set(line.split("\t")) & set(without)]
        lines += [line for part, line in more if part == name]
        random.Random(5).shuffle(lines)
        (target / "tiny" / name).write_text("\n".join([head, *lines]) + "\n")
    return target


def _test_metrics(folder, data_path):
    config, model, _, train, _, test = load_data_and_model(folder, data_path)
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    trainer.eval_collector.data_collect(train)
    return {k: float(v) for k, v in trainer.evaluate(test, load_best_model=False).items()}


def _measured(folder):
    return json.loads((folder / "metrics.json").read_text())["test"]


@pytest.fixture
def settings(trained):
    """Settings of a run in this folder from the data that ``trained`` uses, or others."""

    def build(folder, **changes):
        saved = checkpoint.load_config(folder)["settings"]
        return {**saved, "checkpoint_dir": "saved", **changes}

    return build


@pytest.mark.parametrize("model", MODELS)
def test_loading_with_permuted_data_gives_the_measured_figures(model, trained, permuted):
    folder = trained(model)
    assert _test_metrics(folder, permuted) == pytest.approx(_measured(folder), abs=1e-9)


@pytest.mark.parametrize("model", MODELS)
def test_resuming_with_permuted_data_goes_on_as_if_nothing_had_happened(
    model, trained, permuted, settings, tmp_path
):
    whole = trained(model, epochs=3)
    half = shutil.copytree(trained(model, epochs=3, end_epoch=2), tmp_path / "half")
    values = settings(whole, data_path=str(permuted), resume=str(half))
    run(model, "tiny", config_dict=values)
    assert _measured(half) == pytest.approx(_measured(whole), abs=1e-6)
    (again, state), (tensors, expected) = map(checkpoint.load_last, (half, whole))
    assert state["train_loss_dict"] == pytest.approx(expected["train_loss_dict"], rel=1e-5)
    assert state["vocabulary"] == expected["vocabulary"]
    for name, tensor in tensors.items():
        torch.testing.assert_close(again[name], tensor, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("model", MODELS)
def test_beginning_with_weights_on_permuted_data(model, trained, permuted, settings):
    folder = trained(model)
    values = settings(folder, data_path=str(permuted), init_from=str(folder), epochs=0)
    result = run(model, "tiny", config_dict=values)
    assert result["test_result"] == pytest.approx(_measured(folder), abs=1e-9)
    assert _test_metrics(result["run_dir"], None) == pytest.approx(_measured(folder), abs=1e-9)


def test_packing_an_older_run_from_permuted_data(trained, permuted, tmp_path):
    """``pack`` completes the folder of a run that does not have its items yet."""
    folder = shutil.copytree(trained("SASRec"), tmp_path / "run")
    items = (folder / packed.ITEMS_FILE).read_bytes()
    (folder / packed.ITEMS_FILE).unlink()
    content = checkpoint.load_config(folder)
    del content["recommender"]
    content["settings"]["data_path"] = str(permuted)
    (folder / "config.json").write_text(json.dumps(content))
    assert main(["pack", f"--model={folder}"]) == 0
    assert (folder / packed.ITEMS_FILE).read_bytes() == items


def test_exporting_with_permuted_data(trained, permuted, tmp_path):
    pytest.importorskip("onnxscript")
    folder = trained("LiteLLM4Rec")
    arguments = [f"--model={folder}", f"--data_path={permuted}", f"--out={tmp_path / 'out'}"]
    assert main(["export", *arguments]) == 0
    exported = json.loads((tmp_path / "out" / "items.json").read_text())
    lines = (folder / packed.ITEMS_FILE).read_text().splitlines()
    assert [item["id"] for item in exported[1:]] == [json.loads(line)["id"] for line in lines]


def test_pretraining_then_finetuning_on_permuted_data(quick, permuted):
    """S3Rec's second phase reads the embeddings of items and attributes of its first."""
    run("S3Rec", "tiny", config_dict=quick(train_stage="pretrain", pretrain_epochs=1, save_step=1))
    values = quick(train_stage="finetune", pre_model_path="saved/S3Rec-tiny-1.pth", epochs=0)
    first = run("S3Rec", "tiny", config_dict=values)
    second = run("S3Rec", "tiny", config_dict={**values, "data_path": str(permuted)})
    assert first["test_result"] == pytest.approx(second["test_result"], abs=1e-9)
    folders = [Path(result["run_dir"]) for result in (first, second)]
    vocabularies = [checkpoint.load_vocabulary(folder).sha256 for folder in folders]
    assert vocabularies[0] == vocabularies[1]


# -- other ids ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "without", "message"),
    [
        (
            [("tiny.inter", f"u{user}\ti{24 + user % 5}\t3\t9") for user in range(10)],
            (),
            r"24 item_id in training, 29 here, 5 of them new \((i2[4-8](, )?){3}, ...\)",
        ),
        ([], ("i7",), r"24 item_id in training, 23 here, 1 missing \(i7\)"),
        (
            [("tiny.inter", f"new\ti{item}\t3\t{item}") for item in range(5)],
            ("u3", "u4"),
            r"30 user_id in training, 29 here, 1 of them new \(new\), 2 missing \(u[34], u[34]\)",
        ),
        (
            [],
            ("1990",),
            r"in training, 4 here, 1 missing \(1990\)",
        ),
    ],
)
@pytest.mark.parametrize("way", ["load", "resume", "init_from"])
def test_other_ids_are_refused(way, more, without, message, trained, settings, data_path, tmp_path):
    folder = trained("SASRec", epochs=3, end_epoch=2)
    other = _permuted(data_path, tmp_path / "other", more, without)
    with pytest.raises(CheckpointError, match=message):
        if way == "load":
            load_data_and_model(folder, other)
        else:
            values = settings(folder, data_path=str(other), end_epoch=None, **{way: str(folder)})
            run("SASRec", "tiny", config_dict=values)
