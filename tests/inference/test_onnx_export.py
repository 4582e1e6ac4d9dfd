"""Export to ONNX against torch, and without torch."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from built_models import HISTORIES, KINDS, build, graph_of, rows_of, scores_of

from recbole_lite import Recommender, load_data_and_model, run
from recbole_lite.cli.main import main
from recbole_lite.inference import onnx_export
from recbole_lite.inference.export_parity import compare_scores, evaluate_scores
from recbole_lite.inference.onnx_export import OPSETS, build_graph, export_onnx
from recbole_lite.inference.onnx_runtime import OnnxRuntime
from recbole_lite.inference.packed_encoder import ScoringModule
from recbole_lite.inference.quantize import quantize
from recbole_lite.inference.torch_runtime import TorchRuntime
from recbole_lite.utils.errors import ConfigError, MissingDependencyError

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


def exported(model, kind=None, out="out"):
    """Runtimes of a model and of its file; the graph of a known kind is not made again."""
    items = [(f"i{n}", f"title {n}") for n in range(1, model.n_items)]
    with pytest.MonkeyPatch.context() as patch:
        if kind:
            patch.setattr(onnx_export, "build_graph", lambda model, opset: graph_of(model, kind))
        return TorchRuntime(model), export_onnx(model, items, out)


def test_the_file_gives_what_the_model_does(config_for):
    reference, path = exported(build(config_for), "t5")
    parity = compare_scores(reference, OnnxRuntime(path, threads=1), rows_of(HISTORIES, 6))
    assert parity.users == len(HISTORIES)
    assert 0 < parity.max_difference < 1e-4
    assert parity.same_top_but_for_ties == 1


def test_the_exporter_adds_no_lines_to_the_log(config_for, caplog):
    caplog.set_level(logging.INFO)  # RecBole's level of the root logger
    model = build(config_for, "t5, last")
    caplog.clear()
    build_graph(model)
    assert caplog.messages == []
    with onnx_export.muted("onnx_ir", "onnxscript", level=logging.WARNING):
        logging.getLogger("onnx_ir.passes").warning("a warning stays")
    logging.getLogger("onnx_ir.passes").info("afterwards all is as before")
    assert caplog.messages == ["a warning stays", "afterwards all is as before"]


@pytest.mark.parametrize("opset", [OPSETS[0], OPSETS[-1]])
def test_other_versions_of_the_operators(config_for, opset):
    model = build(config_for, "gpt2, recency")  # gelu is one operator from version 20 on
    graph = build_graph(model, opset)
    assert onnx.load_from_string(graph).opset_import[0].version == opset
    found = OnnxRuntime(graph, 1).scores(HISTORIES)
    np.testing.assert_allclose(found, scores_of(model, HISTORIES), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("opset", [17, 99])
def test_versions_of_the_operators_that_are_not_written(config_for, opset):
    with pytest.raises(ConfigError, match=f"opset must be from 18 to 23, found {opset}"):
        build_graph(build(config_for), opset)


def test_the_file_names_no_path_of_this_machine(config_for):
    _, path = exported(build(config_for), "t5")
    content = path.read_bytes()
    assert str(ROOT).encode() not in content
    assert b".py" not in content


def test_a_difference_would_be_found(config_for):
    model = build(config_for)
    reference, path = exported(model, "t5")
    norm = model.rec_llm.encoder.encoder.final_layer_norm
    norm.weight.data *= torch.linspace(0.5, 2, len(norm.weight))
    parity = compare_scores(reference, OnnxRuntime(path, threads=1), rows_of(HISTORIES, 6))
    assert parity.max_difference > 0.1
    assert parity.same_top_but_for_ties < 1


def test_int8_is_smaller_and_near(config_for):
    wide = {"d_model": 64, "d_kv": 16, "d_ff": 256, "num_layers": 2, "num_heads": 4}
    model = build(config_for, rec_llm_config=wide)
    reference, path = exported(model)
    small = quantize(path)
    found = OnnxRuntime(small, threads=1).scores(HISTORIES)
    expected = reference.scores(HISTORIES)
    error = np.abs(found[:, 1:] - expected[:, 1:]).max() / expected[:, 1:].std()
    assert small.stat().st_size < 0.45 * path.stat().st_size
    assert 0 < error < 0.2


def test_an_export_leaves_no_int8_of_another_model(config_for):
    model = build(config_for)
    small = quantize(exported(model, "t5")[1])
    assert small.exists()
    exported(model, "t5")
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
    model = load_data_and_model(run_dir)[1].eval()
    ids, values = TorchRuntime(model).rank([had], 10, [had])
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
    found, _ = OnnxRuntime(out / "model.onnx").rank(histories, 5)
    assert found.tolist() == [
        items for items, _ in recommender.rank(histories, 5, exclude_seen=False)
    ]


def test_packed_folders_that_cannot_be_exported(trained, tmp_path, capsys):
    for model, argument, message in (
        ("SASRec", "--opset=20", "found SASRec"),
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
    class Disturbed(ScoringModule):
        def __init__(self, model):
            super().__init__(model)
            self.head *= torch.linspace(0.5, 2, self.head.shape[1])

    monkeypatch.setattr(onnx_export, "ScoringModule", Disturbed)
    assert main(["export", f"--model={run_dir}", "--out=exported"]) == 2
    assert "error: the exported model recommends different items" in capsys.readouterr().err


def test_metrics_are_those_of_the_run(run_dir):
    """The exported model, evaluated by the trainer, has the run's own test result."""
    from recbole_lite import get_trainer

    config, model, *_, test_data = load_data_and_model(run_dir)
    own = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    expected = own.evaluate(test_data, load_best_model=False)
    reference, path = exported(model)
    for scorer in (OnnxRuntime(path), reference):
        found = evaluate_scores(config, model, test_data, scorer.scores)
        assert found == pytest.approx(dict(expected))
    upside_down = evaluate_scores(config, model, test_data, lambda items: -reference.scores(items))
    assert upside_down != pytest.approx(dict(expected))


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--model=nowhere", "--out=x"], "nowhere: no such folder"),
        (["--model={run}/..", "--out=x"], "no checkpoint here"),
        (["--model={run}", "--out={run}/config.json"], "is a file; name a folder"),
        (["--model={run}", "--data_path=nowhere", "--out=x"], "nowhere"),
        (["--model={sasrec}", "--out=x"], "found SASRec"),
        (["--model={run}", "--out=x", "--opset=3"], "opset must be from 18 to 23, found 3"),
    ],
)
def test_bad_arguments_are_one_line(quick, run_dir, capsys, arguments, message):
    sasrec = run_dir
    if "{sasrec}" in arguments[0]:
        sasrec = run(model="SASRec", dataset="tiny", config_dict=quick(epochs=1))["run_dir"]
        capsys.readouterr()
    arguments = [text.format(run=run_dir, sasrec=sasrec) for text in arguments]
    assert main(["export", *arguments]) == 2
    (error,) = [line for line in capsys.readouterr().err.splitlines() if "WARNING" not in line]
    assert error.startswith("error: ")
    assert message in error


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'recbole-lite\[onnx\]'"):
        onnx_export.require_onnx()


def test_a_model_that_no_file_can_hold(config_for, monkeypatch):
    monkeypatch.setattr(onnx_export, "LARGEST", 1000)
    with pytest.raises(ConfigError, match="2 GiB at most"):
        exported(build(config_for))
    assert not Path("out/model.onnx").exists()
