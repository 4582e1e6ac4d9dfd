"""Export to ONNX against torch, and without torch."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from test_engine import HISTORIES, KINDS, build, rows_of, scores_of

from recbole_lite import Recommender, run
from recbole_lite.cli import main
from recbole_lite.errors import CheckpointError, ConfigError, MissingDependencyError
from recbole_lite.inference import export
from recbole_lite.inference.check import compare
from recbole_lite.inference.encoder import build_encoder
from recbole_lite.inference.engine import Engine
from recbole_lite.inference.export import export_onnx
from recbole_lite.inference.onnx_model import OnnxModel
from recbole_lite.inference.quantize import quantize

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "onnx_recommend.py"
# Runs a script in which these cannot be imported.
WITHOUT_TORCH = """
import runpy, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "recbole", "recbole_lite", "transformers"):
            raise ImportError(f"{name} is not to be had")
sys.meta_path.insert(0, Refuse())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def exported(model, out="out"):
    engine = Engine(model)
    items = [(f"i{n}", f"title {n}") for n in range(1, engine.n_items)]
    return engine, export_onnx(model, items, out)


@pytest.mark.parametrize("kind", ["t5", "t5 with a gate", "gpt2, recency", "gpt2, last", "bert"])
def test_scores_are_those_of_torch(config_for, kind):
    model = build(config_for, kind)
    engine, path = exported(model)
    onnx = OnnxModel(path, threads=1)
    assert (onnx.n_items, onnx.max_length) == (25, 6)
    expected = scores_of(model, HISTORIES).numpy()
    rows = rows_of(HISTORIES, 6).numpy()
    np.testing.assert_allclose(onnx.scores(rows), expected, rtol=1e-4, atol=1e-4)
    for size in (1, 2):  # lengths and batches that the export has not seen
        short = rows_of(HISTORIES, size).numpy()[3:]
        expected_short = engine.scores(torch.from_numpy(short)).numpy()
        np.testing.assert_allclose(onnx.scores(short), expected_short, rtol=1e-4, atol=1e-4)
    parity = compare(engine, onnx, rows_of(HISTORIES, 6))
    assert parity.users == len(HISTORIES)
    assert 0 < parity.max_difference < 1e-4
    assert parity.same_top_but_for_ties == 1


def test_top_items_and_exclusion(config_for):
    model = build(config_for)
    engine, path = exported(model)
    onnx, seen = OnnxModel(path, threads=1), [[3, 1], [], [7], [4, 6], list(range(1, 20))]
    for k in (1, 4, 24):
        scores, ids = onnx.topk(rows_of(HISTORIES, 6).numpy(), k, rows_of(seen, 19).numpy())
        expected, expected_ids = engine.topk(HISTORIES, k, seen=seen)
        np.testing.assert_allclose(scores, expected.numpy(), rtol=1e-4, atol=1e-4)
        assert np.array_equal(ids, expected_ids.numpy())
    assert (ids[4, 5:] == 0).all()  # 19 of 24 items were seen


def test_the_file_names_no_path_of_this_machine(config_for):
    _, path = exported(build(config_for))
    content = path.read_bytes()
    assert str(ROOT).encode() not in content
    assert b".py" not in content


def test_a_difference_would_be_found(config_for):
    engine, path = exported(build(config_for))
    engine.encoder.scale = engine.encoder.scale * torch.linspace(0.5, 2, len(engine.encoder.scale))
    parity = compare(engine, OnnxModel(path, threads=1), rows_of(HISTORIES, 6))
    assert parity.max_difference > 0.1
    assert parity.same_top_but_for_ties < 1


def test_int8_is_smaller_and_near(config_for):
    wide = {"d_model": 64, "d_kv": 16, "d_ff": 256, "num_layers": 2, "num_heads": 4}
    model = build(config_for, rec_llm_config=wide)
    engine, path = exported(model)
    sizes, errors = [], []
    for head in (False, True):
        small = quantize(path, head=head)
        sizes.append(small.stat().st_size)
        found = OnnxModel(small, threads=1).scores(rows_of(HISTORIES, 6).numpy())
        expected = engine.scores(HISTORIES).numpy()
        errors.append(np.abs(found[:, 1:] - expected[:, 1:]).max() / expected[:, 1:].std())
    assert sizes[1] < sizes[0] < 0.45 * path.stat().st_size
    assert all(0 < error < 0.2 for error in errors)


def test_an_export_leaves_no_int8_of_another_model(config_for):
    model = build(config_for)
    small = quantize(exported(model)[1])
    assert small.exists()
    exported(model)
    assert not small.exists()


@pytest.fixture
def run_dir(quick):
    settings = quick(rec_llm_config=KINDS["t5"]["rec_llm_config"], epochs=1)
    return run(model="LiteLLM4Rec", dataset="tiny", config_dict=settings)["run_dir"]


def test_the_command_and_the_example(run_dir, capsys, workdir):
    assert main(["export", f"--model={run_dir}", "--out=exported", "--int8"]) == 0
    printed = capsys.readouterr().out
    assert "but for ties 100.0%" in printed
    assert "test recall@5: float32" in printed
    about = json.loads(Path("exported/export.json").read_text())
    assert about["dataset"] == "tiny"
    assert about["parity"]["same_top_but_for_ties"] == 1
    assert set(about["test"]) == {"model.onnx", "model.int8.onnx"}
    items = json.loads(Path("exported/items.json").read_text())
    assert items[0] == {"id": None, "title": None}
    by_id = {item["id"]: item["title"] for item in items[1:]}
    assert by_id["i5"] == "rooms rooms 5"  # as conftest writes it

    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, EXAMPLE, "exported", "i1,i2,i3"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    lines = [line.split(maxsplit=2) for line in done.stdout.splitlines()]
    assert len(lines) == 10
    assert not {"i1", "i2", "i3"} & {raw for _, raw, _ in lines}
    assert all(by_id[raw] == title for _, raw, title in lines)
    numbers = [number for number, item in enumerate(items) if item["id"] in ("i1", "i2", "i3")]
    order = {raw: n for n, raw in enumerate(("i1", "i2", "i3"))}
    had = sorted(numbers, key=lambda number: order[items[number]["id"]])
    from recbole_lite import load_data_and_model

    values, ids = Engine(load_data_and_model(run_dir)[1]).topk([had], 10, seen=[had])
    assert [items[i]["id"] for i in ids[0].tolist()] == [raw for _, raw, _ in lines]
    assert [float(score) for score, _, _ in lines] == pytest.approx(values[0].tolist(), abs=1e-3)


def test_a_packed_folder_needs_no_data(trained, tmp_path, capsys):
    """Drawn histories in place of test users; items that were added are exported like others."""
    kind = {"rec_llm_config": KINDS["t5"]["rec_llm_config"]}
    recommender = Recommender.load(trained("LiteLLM4Rec", **kind))
    recommender.add_items([{"id": "x", "title": "X", "text": recommender.catalogue.texts[9]}])
    recommender.save_pretrained(tmp_path / "packed")
    out = tmp_path / "exported"
    assert main(["export", f"--model={tmp_path / 'packed'}", f"--out={out}", "--int8"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("against torch, 512 histories drawn at random") == 2
    about = json.loads((out / "export.json").read_text())
    assert (about["model"], about["dataset"], about["n_items"]) == ("LiteLLM4Rec", "tiny", 26)
    assert about["parity"]["users"] == about["int8"]["users"] == 512
    assert about["parity"]["of"] == "histories drawn at random"
    assert about["parity"]["same_top_but_for_ties"] == 1
    assert about["parity"]["max_difference"] < about["int8"]["max_difference"]
    assert "test" not in about
    items = json.loads((out / "items.json").read_text())
    assert items[-1] == {"id": "x", "title": "X"}
    assert [item["id"] for item in items[1:]] == recommender.catalogue.ids[1:]
    histories = [[3], [5, 1, 25]]
    found = OnnxModel(out / "model.onnx").topk(rows_of(histories, 6).numpy(), 5)
    expected = [items[:5] for items, _ in recommender.rank(histories, 5, exclude_seen=False)]
    assert found[1].tolist() == expected


def test_packed_folders_that_cannot_be_exported(trained, tmp_path, capsys):
    for model, argument, message in (
        ("SASRec", "--format=onnx", "found SASRec"),
        ("LiteLLM4Rec", "--data_path=data", "exported without its data set; leave it out"),
    ):
        Recommender.load(trained(model)).save_pretrained(tmp_path / model)
        capsys.readouterr()
        out = tmp_path / "exported"
        assert main(["export", f"--model={tmp_path / model}", f"--out={out}", argument]) == 2
        error = capsys.readouterr().err.strip()
        assert error.startswith("error: ")
        assert message in error
        assert "\n" not in error
        assert not out.exists()


def test_another_list_is_an_error(run_dir, capsys, monkeypatch):
    monkeypatch.setattr("recbole_lite.inference.export.build_encoder", _disturbed)
    assert main(["export", f"--model={run_dir}", "--out=exported"]) == 2
    assert "error: the exported model recommends other items" in capsys.readouterr().err


def _disturbed(model, kind):
    encoder = build_encoder(model, kind=kind)
    encoder.scale = encoder.scale * torch.linspace(0.5, 2, len(encoder.scale))
    return encoder


def test_float32_metrics_are_those_of_the_run(run_dir, quick):
    """The exported model, evaluated by the trainer, has the run's own test result."""
    from recbole_lite import get_trainer, load_data_and_model
    from recbole_lite.inference.check import evaluate, of

    config, model, *_, test_data = load_data_and_model(run_dir)
    own = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    expected = own.evaluate(test_data, load_best_model=False)
    _, path = exported(model)
    for score in (of(OnnxModel(path)), Engine(model).scores):
        assert evaluate(config, model, test_data, score) == pytest.approx(dict(expected))
    upside_down = evaluate(config, model, test_data, lambda items: -Engine(model).scores(items))
    assert upside_down != pytest.approx(dict(expected))


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--model=nowhere", "--out=x"], "nowhere: no such folder"),
        (["--model={run}/..", "--out=x"], "no checkpoint here"),
        (["--model={run}", "--out={run}/config.json"], "is a file; name a folder"),
        (["--model={run}", "--data_path=nowhere", "--out=x"], "nowhere"),
        (["--model={sasrec}", "--out=x"], "found SASRec"),
    ],
)
def test_bad_arguments_are_one_line(quick, run_dir, capsys, arguments, message):
    sasrec = run_dir
    if "{sasrec}" in arguments[0]:
        sasrec = run(model="SASRec", dataset="tiny", config_dict=quick(epochs=1))["run_dir"]
        capsys.readouterr()
    arguments = [text.format(run=run_dir, sasrec=sasrec) for text in arguments]
    assert main(["export", *arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ")
    assert message in error
    assert "\n" not in error


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'recbole-lite\[onnx\]'"):
        export.require_onnx()


def test_a_model_that_no_file_can_hold(config_for, monkeypatch):
    monkeypatch.setattr(export, "LARGEST", 1000)
    with pytest.raises(ConfigError, match="2 GiB at most"):
        exported(build(config_for))
    assert not Path("out/model.onnx").exists()


def test_bad_folders_are_refused(config_for):
    with pytest.raises(CheckpointError, match="no exported model"):
        OnnxModel("nowhere/model.onnx")
    _, path = exported(build(config_for))
    about = path.with_name("export.json")
    content = json.loads(about.read_text())
    about.write_text(json.dumps({**content, "format_version": 99}))
    with pytest.raises(CheckpointError, match="format version 99"):
        OnnxModel(path)
    about.write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read"):
        OnnxModel(path)
    about.write_text(json.dumps(content))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="onnxruntime cannot read it"):
        OnnxModel(path)
