"""benchmarks/gpu.py on the CPU: its parts with tiny models, and what becomes of their processes."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from recbole_lite.utils.files import write_json

PATH = Path(__file__).parents[1] / "benchmarks" / "gpu.py"


@pytest.fixture
def gpu():
    spec = importlib.util.spec_from_file_location("gpu_benchmark", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def words(tmp_path, data_path, llm_folders):
    return [
        "--tiny", "--dataset=tiny", f"--data_path={data_path}", f"--out={tmp_path / 'out'}",
        f"--tokenizer={llm_folders['writer']}", f"--item_embeddings={tmp_path / 'cache'}",
    ]  # fmt: skip


def test_the_parts_run(gpu, words, llm_folders, monkeypatch):
    kinds = {name: gpu.KINDS[name] for name in ("LiteLLM4Rec", "ItemLM")}
    monkeypatch.setattr(gpu, "KINDS", kinds)
    monkeypatch.setattr(gpu, "PRECISIONS", ("bfloat16",))
    monkeypatch.setitem(gpu.SCRATCH, "item_llm", str(llm_folders["bert"]))
    monkeypatch.setitem(gpu.efficiency.COMMON, "item_llm", str(llm_folders["bert"]))
    args = gpu.arguments(words)
    args.out.mkdir()
    write_json(args.out / "gpu.json", {"parts": {}})
    for name in ("smoke", "latency", "item_lm"):
        gpu.PARTS[name](gpu.Part(name, args, 600))
    parts = json.loads((args.out / "gpu.json").read_text())["parts"]
    for kind in kinds:  # both sides are the CPU here
        found = parts["smoke"][kind]
        assert found["scores"] == found["losses"] == 0 < found["bfloat16 scores"] < 0.1
        assert not found["waits in 2 steps"]
    assert parts["latency"]["rank_ms"]["bfloat16, launches, batch 32"]["p50"] > 0
    assert {"POD", "POD, plain loop"} <= set(parts["latency"]["beams, bfloat16"]["ratio_to_graph"])
    assert parts["item_lm"]["window 50"]["steps"] <= 3
    assert "window 200" in gpu.table(parts)


def test_a_difference_to_the_cpu_ends_the_part(gpu, words, llm_folders, monkeypatch):
    monkeypatch.setattr(gpu, "KINDS", {"SASRec": gpu.KINDS["SASRec"]})
    monkeypatch.setattr(gpu, "difference", lambda found, expected: 0.5)
    monkeypatch.setattr(gpu, "scores", lambda side: None)
    args = gpu.arguments(words)
    args.out.mkdir()
    write_json(args.out / "gpu.json", {"parts": {}})
    with pytest.raises(SystemExit, match=r"SASRec: scores differ from the CPU's by 5\.0e-01"):
        gpu.smoke(gpu.Part("smoke", args, 600))


ENDS = {"smoke": "pass", "tests": "raise SystemExit(3)", "step": "time.sleep(60)"}


@pytest.mark.parametrize("smoke", ["pass", "raise SystemExit(1)"])
def test_what_becomes_of_parts(smoke, gpu, words, tmp_path, monkeypatch, capsys):
    """One that fails or takes too long costs the others nothing, unless it is the smoke test."""

    def start(name, _):
        script = f"import time; input(); {({**ENDS, 'smoke': smoke})[name]}"
        command = [sys.executable, "-c", script]
        return subprocess.Popen(command, stdin=subprocess.PIPE, text=True, start_new_session=True)

    monkeypatch.setattr(gpu, "start", start)
    monkeypatch.setattr(gpu, "LIMITS", {"smoke": 60, "tests": 60, "step": -4.5})
    code = gpu.main([*words, "--parts=smoke,tests,step"])
    parts = json.loads((tmp_path / "out" / "gpu.json").read_text())["parts"]
    statuses = [part["status"] for part in parts.values()]
    if smoke == "pass":
        assert code == 0
        assert statuses == ["done", "failed with status 3", "cut: its time was up"]
    else:
        assert code == 1
        assert statuses == ["failed with status 1"]
        assert "error: smoke failed with status 1; nothing else" in capsys.readouterr().err


def test_without_a_gpu_the_command_says_so(gpu, words, capsys):
    if gpu.torch.cuda.is_available():
        pytest.skip("a GPU is here")
    with pytest.raises(SystemExit) as error:
        gpu.arguments(words[1:])
    assert error.value.code == 2
    assert "no GPU (CUDA) is here; --tiny runs the same on the CPU" in capsys.readouterr().err
