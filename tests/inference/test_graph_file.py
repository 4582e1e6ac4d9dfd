"""The graph in a model's folder: made once, of these weights; and what runs where there is none."""

import logging
import shutil
import subprocess
import sys
import threading

import pytest

from recbole_lite import Recommender
from recbole_lite.cli.main import main
from recbole_lite.inference import graph_file, onnx_export
from recbole_lite.inference.model_folder import read_bundle
from recbole_lite.utils.errors import MissingDependencyError, RequestError

HISTORY = [["i3", "i4"]]


@pytest.fixture
def model_folder(trained, tmp_path):
    """A packed model without a graph."""
    source = trained("LiteLLM4Rec")
    Recommender.load(source, runtime="torch").save_pretrained(tmp_path / "packed")
    return tmp_path / "packed"


@pytest.fixture
def exports(monkeypatch):
    """Counts exports; the graph itself is made once a session."""
    calls, plain = [], onnx_export.build_graph

    def counted(model, *others):
        calls.append(1)
        if not hasattr(test_made_once, "graph"):
            test_made_once.graph = plain(model, *others)
        return test_made_once.graph

    monkeypatch.setattr(onnx_export, "build_graph", counted)
    return calls


def graphs(path):
    return sorted(path.glob("model-*.onnx"))


def test_made_once(model_folder, exports):
    expected = Recommender.load(model_folder, runtime="torch").recommend(HISTORY)
    assert graphs(model_folder) == []
    for _ in range(2):
        recommender = Recommender.load(model_folder)
        (found,), (wanted,) = recommender.recommend(HISTORY), expected
        assert recommender.runtime.name == "onnx"
        assert [r.id for r in found] == [r.id for r in wanted]
        assert [r.score for r in found] == pytest.approx([r.score for r in wanted], abs=1e-5)
    assert len(exports) == len(graphs(model_folder)) == 1


def test_a_graph_of_other_weights_is_replaced(model_folder, exports, trained):
    Recommender.load(model_folder).warm_up(1)
    (old,) = graphs(model_folder)
    other = Recommender.load(trained("LiteLLM4Rec", seed=7), runtime="torch")
    other.save_pretrained(model_folder)
    Recommender.load(model_folder).warm_up(1)
    assert len(exports) == 2
    assert graphs(model_folder) == [graph_file.graph_path(read_bundle(model_folder))] != [old]


def test_a_damaged_graph_is_made_anew(model_folder, exports, caplog):
    expected = Recommender.load(model_folder).recommend(HISTORY)
    (graph,) = graphs(model_folder)
    whole = graph.read_bytes()
    graph.write_bytes(whole[:100])
    with caplog.at_level(logging.WARNING):
        assert Recommender.load(model_folder).recommend(HISTORY) == expected
    assert "the graph is exported again" in caplog.text
    assert len(exports) == 2
    assert graph.read_bytes() == whole


def test_two_at_once_make_one(model_folder, exports):
    recommenders = [Recommender.load(model_folder) for _ in range(4)]
    threads = [threading.Thread(target=r.warm_up, args=(1,)) for r in recommenders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(exports) == 1
    assert {r.runtime.name for r in recommenders} == {"onnx"}


def test_a_folder_that_cannot_be_written_to(model_folder, exports, monkeypatch, caplog):
    def full(path, write):
        raise OSError(30, "Read-only file system", str(path))

    monkeypatch.setattr(graph_file, "write_atomically", full)
    with caplog.at_level(logging.WARNING):
        recommender = Recommender.load(model_folder)
        assert len(recommender.recommend(HISTORY)[0]) == 10
    assert recommender.runtime.name == "onnx"
    assert (
        "cannot be written, the next start exports it again: Read-only file system" in caplog.text
    )
    assert graphs(model_folder) == []


def test_without_the_exporter_torch_runs_the_model(model_folder, monkeypatch):
    monkeypatch.setattr(graph_file, "missing_package", lambda: "onnxscript")
    assert Recommender.load(model_folder).runtime.name == "torch"
    with pytest.raises(MissingDependencyError, match=r"onnxscript is not installed; type: pip ins"):
        Recommender.load(model_folder, runtime="onnx")


def test_a_model_that_the_exporter_refuses(model_folder, monkeypatch, caplog):
    def fails(model):
        raise RuntimeError("no such operator. And more")

    monkeypatch.setattr(onnx_export, "build_graph", fails)
    with caplog.at_level(logging.WARNING):
        recommender = Recommender.load(model_folder)
        assert recommender.runtime.name == "torch"
    assert (
        "the export to ONNX failed, torch runs the model: RuntimeError: no such operator"
        in caplog.text
    )


@pytest.mark.parametrize(
    "model, arguments, message",
    [
        ("LiteLLM4Rec", {"runtime": "onyx"}, "runtime must be one of auto, .* ann, found 'on"),
        ("LiteLLM4Rec", {"runtime": "onnx", "device": "cuda"}, "runs on the CPU here, device is c"),
        ("SASRec", {"runtime": "onnx"}, "runtime: onnx: SASRec has no graph; set auto or torch"),
    ],
)
def test_runtimes_that_cannot_be_had(trained, model, arguments, message):
    with pytest.raises(RequestError, match=message):
        Recommender.load(trained(model), **arguments)


def test_pack_brings_the_graph(trained, tmp_path, capsys):
    out = tmp_path / "packed"
    assert main(["pack", f"--model={trained('LiteLLM4Rec')}", f"--out={out}"]) == 0
    (graph,) = graphs(out)
    assert graph.name in capsys.readouterr().out
    assert graph == graph_file.graph_path(read_bundle(out))
    # With the packages of deploy/requirements.txt alone.
    code = f"""
import sys
for name in ("torch", "transformers", "recbole", "pandas", "pyarrow", "scipy", "sklearn",
             "safetensors", "narwhals", "tabulate", "jinja2", "plotly", "psutil", "onnx"):
    sys.modules[name] = None
from recbole_lite import Recommender
from recbole_lite.cli.main import main
for device in ("cpu", "cpu:0"):
    r = Recommender.load({str(out)!r}, device)
    assert len(r.recommend([["i3"]], k=3, candidates=["i3", "i5", "i7"])[0]) == 2
    assert r.recommend([["i3"]], explain=True, diversity=0.5)[0][0].title
    assert len(r.similar("i3", 4)) == 4
    assert r.item_vectors().shape[0] == 24
import recbole_lite.serve.app, recbole_lite.serve.workers, recbole_lite.inference.batch_recommend
sys.exit(main(["recommend", {f"--model={out}"!r}, "--history=i3"]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    moved = shutil.move(out, tmp_path / "moved")
    assert graph_file.graph_path(read_bundle(moved)).exists()


def test_models_without_a_graph_are_packed_without(trained, tmp_path, capsys):
    assert main(["pack", f"--model={trained('SASRec')}", f"--out={tmp_path / 'packed'}"]) == 0
    assert graphs(tmp_path / "packed") == []
    assert "onnx" not in capsys.readouterr().out
