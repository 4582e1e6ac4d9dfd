"""A checkpoint's rows belong to raw ids, in whatever order the data files mention these."""

import json
import random
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from recbole_lite import (
    LiteConfig,
    create_dataset,
    data_preparation,
    get_trainer,
    load_data_and_model,
    run,
)
from recbole_lite.cli.main import main
from recbole_lite.config.yaml_files import to_yaml
from recbole_lite.data.vocabulary import Vocabulary
from recbole_lite.experiments.compare.compare import compare
from recbole_lite.inference import model_folder as packed
from recbole_lite.trainer import checkpoint
from recbole_lite.utils.errors import CheckpointError, ReportError

MODELS = ["LiteLLM4Rec", "ItemLM", "P5", "LightLM", "TIGER", "SASRec", "BERT4Rec", "BPR", "FDSA"]
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_decoder_layers": 1}


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
def trained(trained, llm_folders):
    """As the session's, with a small language model for those that write item ids."""
    beams = {"llm_init": "scratch", "num_beams": 5, "lightlm_clusters": 3}
    small = {"llm": "t5-small", "llm_config": {**T5, "num_heads": 2}}
    writer = {"llm": str(llm_folders["writer"]), "llm_init": "pretrained"}
    codes = {"num_beams": 5, "codebook_size": 4, "rqvae_epochs": 2}
    codes |= {"llm_config": small["llm_config"]}
    own = {"P5": {**beams, **writer}, "LightLM": {**beams, **small}, "TIGER": codes}
    return lambda model, **changes: trained(model, **own.get(model, {}), **changes)


@pytest.fixture
def settings():
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
    half = shutil.copytree(trained(model, epochs=3, last_epoch=2), tmp_path / "half")
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
    folder = trained("SASRec", epochs=3, last_epoch=2)
    other = _permuted(data_path, tmp_path / "other", more, without)
    values = settings(folder, data_path=str(other), last_epoch=None, **{way: str(folder)})
    values.pop("load", None)
    with pytest.raises(CheckpointError, match=message):
        load_data_and_model(folder, other) if way == "load" else _run("SASRec", values)


def _run(model, values):
    return run(model, "tiny", config_dict=values)


def test_the_command_line_refuses_in_one_line(trained, settings, data_path, tmp_path, capsys):
    folder = trained("SASRec")
    other = _permuted(data_path, tmp_path / "other", without=("i7",))
    given = to_yaml(settings(folder, data_path=str(other), init_from=str(folder)))
    (tmp_path / "run.yaml").write_text(given)
    arguments = ["--model=SASRec", "--dataset=tiny", f"--config_files={tmp_path / 'run.yaml'}"]
    assert main(["run", *arguments]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "24 item_id in training, 23 here, 1 missing (i7)" in line


def test_weights_of_another_order_are_not_taken_by_a_trainer(trained, permuted):
    """RecBole's own way: a data set, a model and a trainer, then evaluate(model_file=...)."""
    folder = trained("SASRec")
    settings = {**checkpoint.load_config(folder)["settings"], "data_path": str(permuted)}
    config = LiteConfig("SASRec", "tiny", config_dict=settings)
    for vocabulary in (None, checkpoint.load_vocabulary(folder)):
        _, _, test = data_preparation(config, create_dataset(config, vocabulary))
        model = config.model_class(config, test._dataset)
        trainer = get_trainer(config["MODEL_TYPE"], "SASRec")(config, model)
        if vocabulary is not None:
            result = trainer.evaluate(test, model_file=folder)
            assert result == pytest.approx(_measured(folder), abs=1e-9)
            continue
        with pytest.raises(CheckpointError, match="its rows belong to other raw ids"):
            trainer.evaluate(test, model_file=folder)
        trainer.resume_checkpoint(folder)
        with pytest.raises(CheckpointError, match="its rows belong to other raw ids"):
            trainer.fit(test)


# -- files --------------------------------------------------------------------------------------


def _older(folder, target):
    """Copy of a run as a version without vocabularies left it."""
    shutil.copytree(folder, target)
    (target / checkpoint.VOCABULARY_FILE).unlink()
    tensors, facts = checkpoint.load_weights(target / checkpoint.BEST_FILE)
    del facts["vocabulary"]
    save_file(tensors, target / checkpoint.BEST_FILE, metadata={"facts": json.dumps(facts)})
    return target


def test_an_older_run_loads_with_a_warning(trained, tmp_path, caplog):
    folder = _older(trained("BPR"), tmp_path / "old")
    assert _test_metrics(folder, None) == pytest.approx(_measured(folder), abs=1e-9)
    warnings = [r.getMessage() for r in caplog.records if "could not be verified" in r.getMessage()]
    assert len(warnings) == 1
    assert str(folder / checkpoint.BEST_FILE) in warnings[0]


def test_an_older_run_that_has_ended_knows_its_items(trained, permuted, tmp_path, caplog):
    folder = _older(trained("SASRec"), tmp_path / "old")
    assert _test_metrics(folder, permuted) == pytest.approx(_measured(folder), abs=1e-9)
    assert "could not be verified" not in caplog.text


def test_a_lost_vocabulary_is_missed_only_where_it_is_needed(trained, permuted, tmp_path):
    folder = shutil.copytree(trained("BPR"), tmp_path / "run")
    (folder / checkpoint.VOCABULARY_FILE).unlink()
    assert _test_metrics(folder, None) == pytest.approx(_measured(folder), abs=1e-9)
    with pytest.raises(CheckpointError, match="its rows belong to other raw ids"):
        load_data_and_model(folder, permuted)


def test_the_vocabulary_of_another_run_is_not_taken(trained, permuted, settings, tmp_path):
    folder = shutil.copytree(trained("SASRec"), tmp_path / "run")
    values = settings(folder, data_path=str(permuted))
    other = Path(_run("SASRec", values)["run_dir"])
    shutil.copy(other / checkpoint.VOCABULARY_FILE, folder)
    with pytest.raises(CheckpointError, match="its rows belong to other raw ids"):
        load_data_and_model(folder)


def test_a_damaged_vocabulary_is_named(trained, tmp_path):
    folder = shutil.copytree(trained("SASRec"), tmp_path / "run")
    path = folder / checkpoint.VOCABULARY_FILE
    whole = path.read_bytes()
    for content in (whole.replace(b'"i7"', b'"i8"'), whole[:-30], b"", b"[]", b"1\n2"):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"vocabulary\.jsonl: cannot be read, it is dam"):
            load_data_and_model(folder)
    path.write_bytes(whole.replace(b'"format_version":1', b'"format_version":2'))
    with pytest.raises(CheckpointError, match="format version 2"):
        load_data_and_model(folder)


def test_the_vocabulary_is_there_before_the_first_weights(quick, monkeypatch):
    def killed(path, *_, **__):
        raise KeyboardInterrupt(sorted(file.name for file in path.parent.iterdir()))

    monkeypatch.setattr(checkpoint, "save_weights", killed)
    with pytest.raises(KeyboardInterrupt) as found:
        run("SASRec", "tiny", config_dict=quick())
    assert checkpoint.VOCABULARY_FILE in found.value.args[0]


def test_any_raw_id_comes_back():
    vocabulary = Vocabulary(interactions="0f")
    strange = ["1", "01", "nan", "a b", 'q"', "back\\slash", "ä\u2028ö", "[PAD]", "🎬", ""]
    vocabulary.add(["item_id", "target_id"], strange)
    vocabulary.add(["user_id"], [])
    again = Vocabulary.from_bytes(vocabulary.to_bytes(), "file")
    assert again.tables == [(["item_id", "target_id"], strange), (["user_id"], [])]
    assert (again.sha256, again.interactions) == (vocabulary.sha256, "0f")


# -- the order of the lines itself ----------------------------------------------------------------


def _tied(source, target):
    """``tiny`` with one time for all interactions of a user: sequences follow the lines."""
    path = target / "tiny" / "tiny.inter"
    shutil.copytree(source / "tiny", path.parent)
    head, *lines = path.read_text().splitlines()
    rows = [line.rsplit("\t", 1)[0] + "\t7" for line in lines]
    path.write_text("\n".join([head, *rows]) + "\n")
    return target


def test_another_order_at_equal_times_is_told(quick, data_path, tmp_path, caplog):
    tied = _tied(data_path, tmp_path / "tied")
    result = run("SASRec", "tiny", config_dict=quick(data_path=str(tied), epochs=1))
    load_data_and_model(result["run_dir"])
    assert "another order at equal times" not in caplog.text
    load_data_and_model(result["run_dir"], _permuted(tied, tmp_path / "other"))
    assert "another order at equal times" in caplog.text


def test_a_random_split_by_the_order_of_lines_is_not_repeated_on_others(quick, permuted):
    split = {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "RO", "group_by": "user", "mode": "full"}
    result = run(
        "BPR",
        "tiny",
        config_dict=quick(epochs=1, eval_args=split, metrics=["Recall"], valid_metric="Recall@5"),
    )
    load_data_and_model(result["run_dir"])
    with pytest.raises(CheckpointError, match="training interactions would be tested"):
        load_data_and_model(result["run_dir"], permuted)


def test_runs_that_were_asked_among_other_candidates_are_not_compared(quick, data_path, permuted):
    """Candidates are drawn by internal id; each run has numbered its users and items by itself."""
    topn = {"task": "topn", "topn_negatives": 6, "metrics": ["NDCG"], "valid_metric": "NDCG@5"}
    paths = (data_path, data_path, permuted)
    folders = [_run("Pop", quick(data_path=str(p), **topn))["run_dir"] for p in paths]
    assert compare(folders[:2], metric="ndcg@5")["rows"][1]["difference"] == 0
    with pytest.raises(ReportError, match="the candidates differ"):
        compare(folders[1:], metric="ndcg@5")
