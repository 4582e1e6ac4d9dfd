"""The end of a run: metrics first; what describes it can fail, and be made later."""

import json
from pathlib import Path

import pytest

from recbole_lite import Recommender, run
from recbole_lite.cli.main import main
from recbole_lite.report import run_folder
from recbole_lite.report.run_summary import NOT_TESTED, render
from recbole_lite.trainer import checkpoint

FILES = {
    "best.safetensors", "config.json", "config.yaml", "environment.json", "history.csv",
    "items.jsonl", "metrics.json", "report.html", "samples.json", "users.csv",
    "last-000000.pt", "last-000000.safetensors", "vocabulary.jsonl",
}  # fmt: skip

# What is made to fail -> what the run's folder lacks, how often that is said.
STEPS = {
    "quick_start.per_user_results": ({"users.csv"}, 1),
    "quick_start.sample_users": (set(), 1),
    "quick_start._describe": (set(), 1),
    "quick_start.write_recommender_files": ({"items.jsonl"}, 1),
    "inference.saved_run.catalogue_from_dataset": ({"items.jsonl"}, 1),
    "trainer.checkpoint.save_history": ({"history.csv"}, 1),
    "report.run_report.environment": ({"environment.json"}, 1),
    "report.run_report.read_tested_users": ({"users.csv"}, 1),
    "report.run_report._write_users": ({"users.csv"}, 1),
    "report.run_report._keep_samples": ({"samples.json"}, 1),
    "report.run_report.sample_users": ({"samples.json"}, 1),
    "report.run_page.render": ({"report.html"}, 1),
    "report.run_charts.charts.line_chart": ({"report.html"}, 1),
    "report.run_report.comparable_runs": ({"report.html"}, 1),
}
ERRORS = [OSError(28, "No space left on device"), KeyError("x"), RuntimeError("out of memory")]


@pytest.mark.parametrize("step", STEPS)
def test_a_description_that_fails_costs_nothing_else(step, quick, monkeypatch, caplog, capsys):
    error = ERRORS[list(STEPS).index(step) % len(ERRORS)]

    def fail(*_, **__):
        raise error

    settings = quick(epochs=1, sample_users=2)
    if step == "trainer.checkpoint.save_history":  # also written by every epoch
        settings["eval_step"] = 0
    with monkeypatch.context() as patch:
        patch.setattr(f"recbole_lite.{step}", fail)
        result = run("SASRec", "tiny", config_dict=settings, per_user=True)
    missing, said = STEPS[step]
    folder = Path(result["run_dir"])
    assert result["test_result"]
    assert render(result)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["test"] == result["test_result"]
    files = FILES - missing
    assert {path.name for path in folder.iterdir()} == files
    warnings = [r.message for r in caplog.records if "cannot be made" in r.message]
    assert len(warnings) == said
    if "report.html" not in files:
        assert result["report"] is None
        assert f"later: recbole-lite report {folder}" in warnings[0]

    before = (folder / "metrics.json").read_text()
    assert main(["report", str(folder)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(folder / "report.html")
    assert {path.name for path in folder.iterdir()} == FILES
    assert run_folder.read_users(folder)
    assert len(json.loads((folder / "samples.json").read_text())) == 10
    assert Recommender.load(folder).recommend([["i1"]], k=1)
    after = json.loads((folder / "metrics.json").read_text())
    assert after == {**metrics, "test_set": after["test_set"]}
    assert "users.csv" in missing or after == json.loads(before)


def test_what_is_made_later_is_what_the_run_would_have_made(quick, trained, tmp_path):
    folder = trained("SASRec")
    files = ("users.csv", "samples.json", "history.csv")
    whole = {name: (folder / name).read_text() for name in files}
    metrics = json.loads((folder / "metrics.json").read_text())
    import shutil

    copy = tmp_path / "moved" / "run"
    shutil.copytree(folder, copy)
    for name in files:
        (copy / name).unlink()
    lacking = {key: value for key, value in metrics.items() if key != "test_set"}
    (copy / "metrics.json").write_text(json.dumps(lacking))
    assert main(["report", str(copy)]) == 0
    assert {name: (copy / name).read_text() for name in files} == whole
    assert json.loads((copy / "metrics.json").read_text()) == metrics


def test_without_the_data_the_report_is_made_of_what_is_there(quick, data_path, capsys):
    folder = Path(run("SASRec", "tiny", config_dict=quick(epochs=1))["run_dir"])
    (folder / "samples.json").unlink()
    (folder / "report.html").unlink()
    (data_path / "tiny" / "tiny.inter").unlink()
    assert main(["report", str(folder)]) == 0
    assert (folder / "report.html").exists()
    assert "samples.json: cannot be made" in capsys.readouterr().err


def test_metrics_that_cannot_be_written_cost_no_result(quick, monkeypatch, caplog):
    from recbole_lite.report import run_report

    def full(path, *_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(run_report, "write_json", full)
        patch.setattr(run_report, "write_text", full)
        result = run("SASRec", "tiny", config_dict=quick(epochs=1))
    assert result["test_result"]
    assert result["report"] is None
    folder = result["run_dir"]
    assert "metrics.json: cannot be made: OSError: [Errno 28]" in caplog.text
    assert main(["report", folder]) == 2  # the figures are nowhere: tested anew by
    again = run("SASRec", "tiny", config_dict=quick(epochs=1, resume=folder))
    assert again["test_result"] == result["test_result"]
    assert {path.name for path in Path(folder).iterdir()} == FILES


def test_a_baseline_that_fails_is_left_out(quick, monkeypatch, caplog):
    from recbole_lite.model.pop import Pop

    def fail(*_):
        raise RuntimeError("no")

    monkeypatch.setattr(Pop, "calculate_loss", fail)
    result = run("SASRec", "tiny", config_dict=quick(epochs=1, baselines=["Pop", "BPR"]))
    assert set(result["baselines"]) == {"BPR"}
    assert "baseline Pop is left out: Pop cannot be trained (RuntimeError: no)" in caplog.text
    assert Path(result["report"]).exists()


def test_a_test_that_fails_says_where_the_weights_are(quick, monkeypatch, capsys):
    from recbole.model.sequential_recommender import SASRec

    from recbole_lite.utils.errors import ConfigError

    def fail(*_):
        raise RuntimeError("no")

    settings = quick(epochs=1, eval_step=0)
    with monkeypatch.context() as patch:
        patch.setattr(SASRec, "full_sort_predict", fail)
        with pytest.raises(ConfigError, match=r"SASRec cannot be tested .*weights are intact: s"):
            run("SASRec", "tiny", config_dict=settings)
    (folder,) = Path("saved").iterdir()
    assert main(["report", str(folder)]) == 2
    assert f"--resume={folder} continues it" in capsys.readouterr().err
    assert run("SASRec", "tiny", config_dict={**settings, "resume": str(folder)})["test_result"]


# -- splits that leave a part empty -----------------------------------------------------------

ONLY = {
    "RS": ({"split": {"RS": [1.0, 0.0, 0.0]}}, False, False),
    "RS ungrouped": ({"split": {"RS": [1, 0, 0]}, "group_by": None}, False, False),
    "no test": ({"split": {"RS": [0.9, 0.1, 0.0]}}, True, False),
    "no validation": ({"split": {"RS": [0.9, 0.0, 0.1]}}, False, True),
    "valid_only": ({"split": {"LS": "valid_only"}}, True, False),
    "test_only": ({"split": {"LS": "test_only"}}, False, True),
    "sampled": ({"split": {"RS": [1.0, 0.0, 0.0]}, "mode": "uni5"}, False, False),
}


@pytest.mark.parametrize("model", ["SASRec", "BPR", "Pop"])
@pytest.mark.parametrize("split", ONLY)
def test_any_part_but_the_training_may_be_empty(split, model, quick, caplog):
    eval_args, validates, tests = ONLY[split]
    result = run(
        model, "tiny", config_dict=quick(eval_args=eval_args, sample_users=int(model == "SASRec"))
    )
    folder = Path(result["run_dir"])
    counts = result["parts"]
    assert [bool(counts[part]) for part in ("train", "valid", "test")] == [True, validates, tests]
    assert (
        bool(result["best_valid_result"]) == validates == (result["best_valid_score"] is not None)
    )
    assert bool(result["test_result"]) == tests
    assert ("leave no validation part" in caplog.text) == (not validates)
    assert ("leave no test part" in caplog.text) == (not tests)
    shown = render(result)
    assert (NOT_TESTED in shown) == (not tests)
    assert ("valid\n" in shown or "valid " in shown) == validates
    page = (folder / "report.html").read_text()
    assert ("Nothing was measured" in page) == (not tests)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert (metrics["test"], metrics["valid"]) == (
        result["test_result"], result["best_valid_result"],
    )  # fmt: skip
    if not validates:  # the weights of the last epoch
        weights, facts = checkpoint.load_weights(folder / "best.safetensors")
        last, _ = checkpoint.load_last(folder)
        assert facts["epoch"] == result["epochs"] - 1
        assert all(weights[name].equal(last[name]) for name in last)
    assert main(["report", str(folder)]) == 0


STRATEGIES = {
    "all": {"sample_users": 1},
    "sampling": {"train_strategy": "sampling"},
    "stages": {"stages": [{"epochs": 1}, {"epochs": 1, "item_llm_training": "embeddings"}]},
    "topn": {"task": "topn", "topn_negatives": 4},
}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_trained_on_everything_it_is_packed_and_recommends(strategy, quick, capsys):
    split = {"split": {"RS": [1.0, 0.0, 0.0]}}
    settings = quick(eval_args=split, **STRATEGIES[strategy])
    result = run("LiteLLM4Rec", "tiny", config_dict=settings)
    assert result["parts"]["train"] > 0
    assert result["test_result"] is None
    assert result["run_dir"]
    if strategy == "topn":
        return
    assert main(["pack", f"--model={result['run_dir']}", "--out=packed"]) == 0
    card = Path("packed", "README.md").read_text()
    assert "Nothing was measured: it was trained on all data." in card
    assert "weights of the last epoch" in card
    assert len(Recommender.load("packed").recommend([["i1", "i2"]], k=3)[0]) == 3


def test_a_run_without_a_test_is_resumed(quick):
    settings = quick(epochs=1, eval_args={"split": {"RS": [1.0, 0.0, 0.0]}})
    half = run("SASRec", "tiny", config_dict=settings)
    whole = run("SASRec", "tiny", config_dict={**settings, "epochs": 3, "resume": half["run_dir"]})
    assert whole["epochs"] == 3
    _, facts = checkpoint.load_weights(Path(whole["run_dir"], "best.safetensors"))
    assert facts["epoch"] == 2


def test_runs_without_a_test_are_not_compared(quick, capsys):
    settings = quick(epochs=1, eval_args={"split": {"LS": "valid_only"}})
    runs = [run(model, "tiny", config_dict=settings)["run_dir"] for model in ("SASRec", "BPR")]
    assert main(["compare", *runs]) == 2
    assert "the run was not tested" in capsys.readouterr().err


def test_metrics_of_numpys_numbers(quick):
    settings = quick(epochs=1, metrics=["Recall", "GAUC"], valid_metric="GAUC")
    result = run("SASRec", "tiny", config_dict=settings)
    assert {type(value) for value in result["test_result"].values()} == {float}
    stored = json.loads(Path(result["run_dir"], "config.json").read_text())
    assert stored["recommender"]["results"]["test"] == result["test_result"]


def test_a_metric_that_is_not_a_number_is_null_and_shown_as_a_dash(quick, monkeypatch):
    from recbole.evaluator.metrics import GAUC

    monkeypatch.setattr(GAUC, "calculate_metric", lambda *_: {"gauc": float("nan")})
    settings = quick(metrics=["GAUC", "Recall"], valid_metric="Recall@3", baselines=["Pop"])
    result = run("SASRec", "tiny", config_dict=settings)
    metrics = json.loads(Path(result["run_dir"], "metrics.json").read_text())
    assert metrics["test"]["gauc"] is None
    assert Path(result["report"]).exists()
    row = next(line for line in render(result).splitlines() if line.startswith("SASRec "))
    assert row.split()[1] == "-"


# -- items without titles ---------------------------------------------------------------------


def write_items(data_path, text):
    path = data_path / "tiny" / "tiny.item"
    if text is None:
        path.unlink()
    else:
        path.write_bytes(text.encode())


ROWS = [f"i{i}" for i in range(24)]
UNTITLED = {
    "missing": None,
    "ids alone": "".join(f"{row}\n" for row in ["item_id:token", *ROWS]),
    "vectors": "item_id:token\tv:float_seq\n" + "".join(f"{row}\t0 1\n" for row in ROWS),
    "numbers": "item_id:token\tprice:float\n" + "".join(f"{row}\t1\n" for row in ROWS),
    "empty titles": "item_id:token\ttitle:token_seq\n" + "".join(f"{row}\t\n" for row in ROWS),
}


@pytest.mark.parametrize("kind", UNTITLED)
def test_items_without_titles_are_named_by_their_ids(kind, quick, data_path):
    write_items(data_path, UNTITLED[kind])
    settings = quick(epochs=1, title_field=None, sample_users=1, load_col=LOADED)
    result = run("SASRec", "tiny", config_dict=settings)
    assert Path(result["report"]).exists()
    assert result["samples"][0]["target"] in ROWS
    (found,) = Recommender.load(result["run_dir"]).recommend([["i1", "i2"]], k=2)
    assert all(item.title in ("", item.id) for item in found)


LOADED = {"inter": ["user_id", "item_id", "timestamp"]}


@pytest.mark.parametrize(
    ("text", "field", "message"),
    [
        ("item_id:token\ttitle:token\r\ni1\ta\r\n", None, "line 1: the line ends with CR LF"),
        ("item_id:token\ttitle:token\ni1\ta\ni1\tb\n", None, "line 3: "),
        ("item_id:token\ttitle:token\n", None, "no rows; add rows"),
        (None, "title", "leave title_field out to name items by their ids"),
        ("item_id:token\ttitle:token\ni1\ta\n", "titel", "did you mean title\\?"),
        ("item_id:token\tv:float_seq\ni1\t0 1\n", "v", "no field 'v' that could name an item"),
    ],
)
def test_what_is_wrong_with_titles_is_said_before_the_training(
    text, field, message, quick, data_path, monkeypatch
):
    from recbole_lite.trainer.trainer import LiteTrainer
    from recbole_lite.utils.errors import RecboleLiteError

    write_items(data_path, text)
    monkeypatch.setattr(LiteTrainer, "fit", None)
    with pytest.raises(RecboleLiteError, match=message):
        run("SASRec", "tiny", config_dict=quick(title_field=field, load_col=LOADED))
