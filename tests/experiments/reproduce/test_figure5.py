"""``recbole-lite reproduce figure5``: the Top-N task."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from recbole_lite import LiteConfig, run
from recbole_lite.experiments.reproduce import paper_figures, topn
from recbole_lite.experiments.reproduce.paper_tables import reproduce
from recbole_lite.experiments.reproduce.protocol import Request
from recbole_lite.experiments.reproduce.topn import DEMO, FAMILIES, TASK, Family
from recbole_lite.utils.errors import ConfigError

METRICS = {"topk": [1, 5, 10], "metrics": ["Hit", "NDCG"], "valid_metric": "Hit@5"}
SEQUENTIAL = "LiteLLM4Rec, sequential model"
TUNED = ["LiteLLM4Rec, candidates alone", "LiteLLM4Rec, history and candidates"]


@pytest.fixture
def small(quick, monkeypatch, llm_folders):
    """Tiny models and seven candidates; one family; P5 and POD have no tokenizer."""
    settings = quick(topn_negatives=6, **METRICS)
    del settings["epochs"]
    writers = {"llm_init": "scratch", "tokenizer": "no-such-folder/"}

    def settings_of(self, model):
        return {**settings, **(writers if model in ("P5", "POD") else {})}

    monkeypatch.setattr(Request, "settings_of", settings_of)
    monkeypatch.setattr(topn, "FAMILIES", (Family("LiteLLM4Rec"),))
    return settings


def cells(text, name):
    """Figures of a row of the first table."""
    line = next(line for line in text.splitlines() if line.startswith(f"| {name} "))
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def result_of(request, name):
    path = request.out / "tiny" / "topn" / f"{name.replace(', ', '-').replace(' ', '-')}-2020.json"
    return json.loads(path.read_text())


def test_figure_5(small, request_for):
    lines = []
    request = request_for(log=lines.append)
    text = reproduce("figure5", request)
    assert (request.out / "tiny" / "figure5.md").read_text() == text
    # Seven candidates: one, five and all of them (depth 10) by chance.
    assert cells(text, "random guessing")[:3] == ["0.1429", "0.7143", "1.0000"]
    for name in ("Pop", SEQUENTIAL, *TUNED):
        test = result_of(request, name)["test"]
        assert cells(text, name) == [f"{test[m]:.4f}" for m in paper_figures.TOPN_METRICS]
        assert test["hit@10"] == 1
    # A row that cannot run is there, with its reason.
    assert cells(text, "P5") == ["-"] * 6
    assert "- POD: not run: ModelFilesError: tokenizer 'no-such-folder/' is neither a" in text
    assert "states no values" in text
    assert paper_figures.DEVIATIONS in text
    lines.clear()
    assert reproduce("figure5", request) == text
    assert sum("reused" in line for line in lines) == 4


def test_all_rows_rank_the_same_candidates(small, request_for):
    request = request_for()
    text = reproduce("figure5", request)
    digests = {result_of(request, name)["candidates"] for name in ("Pop", SEQUENTIAL, *TUNED)}
    assert len(digests) == 1
    found = f"6 items that the\nuser has not had (SHA-256 of the candidates: {digests.pop()})"
    assert found in text
    folder = result_of(request, SEQUENTIAL)["run_dir"]
    content = (Path(folder) / "candidates-test.jsonl").read_bytes()
    assert hashlib.sha256(content).hexdigest() == result_of(request, "Pop")["candidates"]
    for name in TUNED:
        assert result_of(request, name)["config_dict"]["init_from"] == folder


def test_p5_and_pod_with_a_tokenizer(small, request_for, monkeypatch, llm_folders):
    def settings_of(self, model):
        writer = {"llm": str(llm_folders["writer"]), "llm_init": "pretrained", "num_beams": 5}
        return {**small, **(writer if model in ("P5", "POD") else {})}

    monkeypatch.setattr(Request, "settings_of", settings_of)
    monkeypatch.setattr(topn, "FAMILIES", ())
    request = request_for()
    text = reproduce("figure5", request)
    for name in ("P5", "POD"):
        result = result_of(request, name)
        assert cells(text, name) == [f"{result['test'][m]:.4f}" for m in paper_figures.TOPN_METRICS]
        assert result["candidates"] == result_of(request, "Pop")["candidates"]
        share = result["beams"]["no_item"] / result["beams"]["beams"]
        had = next(
            line for line in text.splitlines() if line.startswith(f"| {name} ") and "%" in line
        )
        assert had.split("|")[-2].strip() == f"{share:.1%}"
    assert "not run" not in text


def test_a_sequential_model_ranks_by_its_own_scores(small):
    """Of SASRec, which a run of the task never shows its candidates, both ways are one."""
    task = {**small, **TASK, "epochs": 1}
    ranked = run("SASRec", "tiny", config_dict=task, per_user=True)
    found = topn.rank_candidates(ranked["run_dir"], LiteConfig("SASRec", "tiny", config_dict=task))
    users = ranked["per_user"]
    assert found["ranks"] == dict(zip(users["users"], users["ranks"].tolist(), strict=True))
    assert found["test"] == dict(ranked["test_result"])
    assert found["protocol"]["task"] == "topn"


def test_weights_that_are_gone_are_trained_anew_with_what_needs_them(small, request_for):
    lines = []
    request = request_for(log=lines.append)
    reproduce("figure5", request)
    first = result_of(request, SEQUENTIAL)["run_dir"]
    shutil.rmtree(first)
    lines.clear()
    reproduce("figure5", request)  # nobody needs them
    assert sum("reused" in line for line in lines) == 4
    (request.out / "tiny" / "topn" / "LiteLLM4Rec-candidates-alone-2020.json").unlink()
    lines.clear()
    reproduce("figure5", request)
    assert [line.split(":")[0] for line in lines if "written to" in line] == [SEQUENTIAL, *TUNED]
    again = {result_of(request, name)["config_dict"]["init_from"] for name in TUNED}
    assert again == {result_of(request, SEQUENTIAL)["run_dir"]}
    assert first not in again


def test_without_the_sequential_model_nothing_is_fine_tuned(small, request_for, monkeypatch):
    small["item_llm"] = "no-such-folder/"
    text = reproduce("figure5", request_for())
    for name in TUNED:
        assert cells(text, name) == ["-"] * 6
        assert f"- {name}: not run: begins with {SEQUENTIAL}, which was not run" in text
    small["n_layer"] = 3  # unknown: not even Pop
    with pytest.raises(ConfigError, match=r"Pop: .*n_layer"):
        reproduce("figure5", request_for(minutes=0.02))


@pytest.mark.parametrize("family", [*FAMILIES, DEMO], ids=lambda family: family.prefix)
def test_every_side_is_a_valid_configuration(family, data_path):
    for spec in [family.sequential(), *family.on_candidates("folder")]:
        config = {"data_path": str(data_path), **spec.settings}
        LiteConfig(spec.model, "tiny", spec.files, config_dict=config)
