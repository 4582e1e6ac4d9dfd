"""``benchmarks/ensemble.py`` with tiny models."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

SMALL = [
    "--hidden_size=16", "--inner_size=16", "--n_heads=2", "--item_init=random",
    "--MAX_ITEM_LIST_LENGTH=6", "--train_batch_size=16", "--epochs=1", "--eval_step=1",
]  # fmt: skip


@pytest.fixture
def ensemble(monkeypatch):
    path = Path(__file__).resolve().parents[1] / "benchmarks" / "ensemble.py"
    spec = importlib.util.spec_from_file_location("ensemble", path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "ensemble", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(
        module, "TEACHERS", {"teacher": ({}, (1, 2)), "deep": ({"n_layers": 2}, (1,))}
    )
    students = {"student": {}, "student, weight 1": {"distill_weight": 1}}
    monkeypatch.setattr(module, "STUDENTS", students)
    return module


def test_students_of_all_teachers(ensemble, workdir, data_path):
    args = ["--dataset=tiny", f"--data_path={data_path}", "--out=found", *SMALL]
    text = ensemble.run(ensemble.arguments(args))
    records = {
        path.relative_to("found"): json.loads(path.read_text())
        for path in Path("found").glob("*/ItemLM-*.json")
    }
    teachers = ("teacher/ItemLM-1.json", "teacher/ItemLM-2.json", "deep/ItemLM-1.json")
    folders = [records[Path(path)]["run_dir"] for path in teachers]
    students = {p: r for p, r in records.items() if p.parent.name.startswith("student")}
    assert {tuple(r["settings"]["distill_from"]) for r in students.values()} == {tuple(folders)}
    weights = {p.parent.name: r["settings"]["distill_weight"] for p, r in students.items()}
    assert weights == {"student": 3, "student-weight_1": 1}
    first = {p.parent.name: r["valid"]["ndcg@10"] for p, r in students.items() if r["seed"] == 2020}
    best = max(weights, key=first.get)
    assert sorted(r["seed"] for p, r in students.items() if p.parent.name == best) == [
        2020,
        2021,
        2022,
    ]
    assert len(records) == 3 + 2 + 2
    assert f"best on validation: {best.replace('-', ', ').replace('_', ' ')}" in text
    # What has a result is not trained again.
    before = {path: (Path("found") / path).stat().st_mtime_ns for path in records}
    assert ensemble.run(ensemble.arguments(args)) == text
    assert before == {path: (Path("found") / path).stat().st_mtime_ns for path in records}


def test_named_students_have_three_seeds_each(ensemble, workdir, data_path):
    args = ["--dataset=tiny", f"--data_path={data_path}", "--out=found", *SMALL]
    text = ensemble.run(ensemble.arguments([*args, "--students", "student, weight 1"]))
    found = sorted(path.name for path in Path("found").glob("student*/ItemLM-*.json"))
    assert found == [f"ItemLM-{seed}.json" for seed in (2020, 2021, 2022)]
    assert "best on validation: student, weight 1" in text
