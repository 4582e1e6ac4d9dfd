"""Tables, records and plots of a sweep, from results made up by hand."""

import json
import math
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest

from recbole_lite.experiments.tune.records import read_records
from recbole_lite.experiments.tune.space import Parameter, Space
from recbole_lite.experiments.tune.sweep_spec import SweepSpec
from recbole_lite.experiments.tune.trial import Plan
from recbole_lite.experiments.tune.tune_settings import read_settings
from recbole_lite.report.sweep import records_json, render, write_report
from recbole_lite.report.sweep_page import SIGNS, axis, coordinates, curves

SPACE = Space(
    (
        Parameter("learning_rate", "loguniform", (1e-4, 1e-2), "s, line 1"),
        Parameter("user_pooling", "choice", ("mean", "last"), "s, line 2"),
    ),
    "s.yaml",
)


def row(epoch, score, best, best_epoch, seconds, **more):
    return {
        "epoch": epoch,
        "valid_score": score,
        "best_valid_score": best,
        "best_epoch": best_epoch,
        "train_loss": 1.0 / epoch,
        "valid": {"recall@10": score},
        "time_total_s": seconds,
        **more,
    }


# Ray's rows of each trial, whether it is done, and its error.
UNKNOWN = ("metrics", "config")  # of a trial that has not reported
FAILED = {"error": "ValueError: no | luck", "time_total_s": 3.0}
MOVED = [
    row(1, 0.2, 0.2, 1, 4.0),
    row(1, 0.2, 0.2, 1, 3.0),
    row(2, 0.3, 0.3, 2, 6.0),
    row(2, 0.3, 0.3, 2, 6.5, finished=True),
]
TRIALS = {
    "a": ([row(1, 0.1, 0.1, 1, 5.0), row(2, 0.05, 0.1, 1, 9.0)], True, None),
    "b": (MOVED, True, None),
    "c": ([row(1, 0.9, 0.9, 1, 2.0), FAILED], True, None),
    "d": ([], False, RuntimeError("gone\nfor good")),
    "e": ([row(1, 0.25, 0.25, 1, 2.0)], False, None),
}


@pytest.fixture
def records(tmp_path):
    spec = SweepSpec("M", "data", {}, SPACE, read_settings({}))
    plan = Plan(spec, str(tmp_path), str(tmp_path), None, 1, False)
    results = []
    for number, (name, (rows, done, error)) in enumerate(TRIALS.items()):
        folder = tmp_path / "ray" / name
        folder.mkdir(parents=True)
        lines = [json.dumps(entry) for entry in rows]
        lines += ['{"epoch": 7, "val'] if name == "b" else []  # cut off by a kill
        (folder / "result.json").write_text("\n".join(lines))
        drawn = {"learning_rate": 10.0 ** -(number / 2 + 2), "user_pooling": "mean"}
        (folder / "params.json").write_text(json.dumps(drawn))
        known = {"metrics": {"done": done}, "config": drawn} if rows else dict.fromkeys(UNKNOWN)
        # Ray's path is that of before the sweep's folder was moved.
        results.append(SimpleNamespace(path=f"moved/ray/{name}", error=error, **known))
    nowhere = "moved/ray/f"  # queued when the sweep was interrupted
    results.append(SimpleNamespace(path=nowhere, error=None, **dict.fromkeys(UNKNOWN)))
    return read_records(results, plan, bigger=True)


def test_records_tell_how_a_trial_ended(records):
    facts = {r["trial"]: (r["status"], r["epochs"], r["seconds"]) for r in records}
    assert facts == {
        "a": ("stopped", 2, 9.0),
        "b": ("finished", 2, 10.5),  # 4 s, then 6.5 s in another process
        "c": ("failed", 1, 3.0),
        "d": ("died", 0, 0.0),
        "e": ("unfinished", 1, 2.0),
        "f": ("unfinished", 0, 0.0),
    }
    # By their best validation; the failed one is never the best.
    assert [r["trial"] for r in records] == ["b", "e", "a", "c", "f", "d"]
    by_name = {r["trial"]: r for r in records}
    assert by_name["d"]["error"] == "gone for good"
    assert by_name["d"]["params"] == {"learning_rate": 10**-3.5, "user_pooling": "mean"}
    assert by_name["f"]["params"] == {"learning_rate": None, "user_pooling": None}
    assert [entry["epoch"] for entry in by_name["b"]["history"]] == [1, 2]


@pytest.fixture
def result(records, tmp_path):
    best = {**records[0], "test_result": {"recall@10": 0.21}}
    return {
        "model": "M",
        "dataset": "data",
        "folder": str(tmp_path),
        "metric": "Recall@10",
        "bigger": True,
        "interrupted": False,
        "seconds": 120.0,
        "sweep": {
            "space": SPACE.plain(),
            "settings": {"searcher": "random", "scheduler": "asha"},
        },
        "command": "typed",
        "environment": {"processor": "P", "cores": 2},
        "trials": records,
        "best": best,
    }


def test_the_table_has_every_trial_and_error(result, tmp_path):
    result["files"] = write_report(result, tmp_path)
    for text in (render(result), (tmp_path / "trials.md").read_text()):
        assert "6 trials of M on data, 6 epochs in all, 2.0 min" in text
        assert "failed: ValueError: no" in text
        assert "died: gone for good" in text
        assert "test split was evaluated once" in text
        assert text.index(" b ") < text.index(" e ") < text.index(" a ")
    assert r"ValueError: no \| luck" in (tmp_path / "trials.md").read_text()
    assert str(tmp_path / "ray") in render(result)
    interrupted = {**result, "interrupted": True}
    assert f"--resume={tmp_path} continues" in render(interrupted)
    result["best"] = None
    assert "No trial has validated." in render(result)


def test_a_part_of_the_report_that_fails_costs_no_other(result, tmp_path, monkeypatch, caplog):
    def fail(_):
        raise RuntimeError("no")

    monkeypatch.setattr("recbole_lite.report.sweep_page.plots_html", fail)
    result["trials"][1]["valid_score"] = float("nan")
    result["files"] = write_report(result, tmp_path)
    assert result["files"]["plots"] is None
    assert "plots.html: cannot be made: RuntimeError: no" in caplog.text
    assert json.loads((tmp_path / "trials.json").read_text())["trials"][1]["valid_score"] is None
    assert "plots:" not in render(result)
    assert "table:" in render(result)
    result["best"]["test_result"] = None
    assert "Nothing was measured on a test set" in render(result)


def test_records_are_json_an_epoch_on_a_line(result):
    text = records_json(result)
    written = json.loads(text)
    assert written["trials"] == result["trials"]
    assert written["best"]["test_result"] == {"recall@10": 0.21}
    assert "folder" not in written
    assert sum('"epoch":' in line for line in text.splitlines()) == 6


def test_plots_show_the_figures(result, tmp_path):
    shown = [t for t in result["trials"] if t["valid_score"] is not None]
    rates = [t["params"]["learning_rate"] for t in shown]
    log = axis("learning_rate", rates, is_log=True)
    assert log.values == pytest.approx([math.log10(rate) for rate in rates])
    assert [text for _, text in log.ticks] == (
        ["0.0001", "0.0002", "0.0005", "0.001", "0.002", "0.005", "0.01"]
    )
    assert axis("pooling", ["mean", "last", "mean"]).values == [1, 0, 1]
    assert [text for _, text in axis("n", [1, 3]).ticks] == ["1", "1.5", "2", "2.5", "3"]
    root = parse(coordinates(result))
    labels = [text.text for text in root.iter("text")]
    assert {"learning_rate (log)", "user_pooling", "mean", "epochs", "valid Recall@10"} <= set(
        labels
    )
    lines = [line.find("title").text for line in root.iter("polyline")]
    assert [tip.split(" ")[0] for tip in lines] == ["c", "a", "e", "b"]  # the best is drawn last
    assert lines[-1] == "b (finished): 0.3000; learning_rate 0.003162, user_pooling mean"
    heights = {tip[0]: last_y(line) for tip, line in zip(lines, root.iter("polyline"), strict=True)}
    assert heights["b"] < heights["e"] < heights["a"]
    assert (heights["a"] - heights["b"]) / (heights["e"] - heights["b"]) == pytest.approx(
        4, rel=0.01
    )

    root = parse(curves(result))
    tips = [dot.find("title").text for dot in root.iter("circle")]
    assert {tip.split(",")[0] for tip in tips} == {"a", "b", "c", "e"}
    assert {"a, 1: 0.1000", "a, 2: 0.0500"} <= set(tips)
    signs = [text.text for text in root.iter("text") if "end" in text.get("class")]
    assert sorted(signs) == sorted([SIGNS["failed"], SIGNS["stopped"]])
    write_report(result, tmp_path)
    page = (tmp_path / "plots.html").read_text()
    assert page.count("<svg") == 2
    assert "<script" not in page
    assert "ValueError: no | luck" in page


def test_many_trials_have_six_labels(result):
    one = next(trial for trial in result["trials"] if trial["trial"] == "b")
    result["trials"] = [{**one, "trial": f"t{n:02d}"} for n in range(9)]
    labels = [text.text for text in parse(curves(result)).iter("text") if text.text[0] == "t"]
    assert labels == [f"t{n:02d}" for n in range(6)]


def test_a_sweep_without_a_validation_has_its_table(result, tmp_path):
    result["trials"] = [{**trial, "valid_score": None, "history": []} for trial in result["trials"]]
    write_report(result, tmp_path)
    page = (tmp_path / "plots.html").read_text()
    assert "<svg" not in page
    assert "gone for good" in page


def parse(svg):
    return ElementTree.fromstring(str(svg).replace(' xmlns="http://www.w3.org/2000/svg"', ""))


def last_y(line):
    return float(line.get("points").rsplit(",", 1)[1])
