"""``recbole-lite reproduce benchmark``: cells, the table, what text adds."""

import importlib.util
import json
import os
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from recbole_lite import LiteConfig
from recbole_lite.experiments.reproduce import baselines, benchmark, benchmark_table
from recbole_lite.experiments.reproduce.baselines import BENCHMARK, ModelSpec
from recbole_lite.experiments.reproduce.paper_tables import reproduce
from recbole_lite.experiments.tune import cluster
from recbole_lite.inference.saved_run import load_data_and_model
from recbole_lite.report import tested_users
from recbole_lite.utils import ray_session
from recbole_lite.utils.environment import environment
from recbole_lite.utils.errors import ConfigError

ROOT = Path(__file__).resolve().parents[3]
SMALL = """\
hidden_size: 16
inner_size: 16
n_layers: 1
n_heads: 2
MAX_ITEM_LIST_LENGTH: 6
"""


@pytest.fixture
def rows(tmp_path, monkeypatch):
    """Rivals, of which one reads the other's vectors, two rows of ours, two that cannot be run."""
    folder = tmp_path / "rows"
    folder.mkdir()
    (folder / "small.yaml").write_text(SMALL)
    (folder / "base.yaml").write_text("topk: [10]\nlm_dropout: 0.25\n")
    files = [folder / "small.yaml"]
    sasrec = ModelSpec("SASRec", "SASRec", files=files, rival=True)
    specs = [
        sasrec,
        ModelSpec("Reader", "ItemLM", {}, files, pretrain=0.5, first_phase=sasrec),
        ModelSpec("NoSuchModel", "NoSuchModel", files=files, rival=True),
        ModelSpec("NoSuchFile", "SASRec", files=[folder / "absent.yaml"], rival=True),
        ModelSpec("ItemLM", "ItemLM", files=files, base_files=[folder / "base.yaml"]),
        ModelSpec("ItemLM, text+id", "ItemLM", files=files),
    ]
    for module in (benchmark, benchmark_table):
        monkeypatch.setattr(module, "BENCHMARK", {spec.name: spec for spec in specs})
    monkeypatch.setattr(benchmark, "FOLDER", folder)
    return folder


def result_of(request, name, seed=2020):
    return json.loads((request.out / "tiny" / f"{name}-{seed}.json").read_text())


def test_the_table_and_its_files(rows, request_for):
    (rows / "tiny").mkdir()
    (rows / "tiny" / "ItemLM-text+id.yaml").write_text("hidden_size: 8\n")  # tuned on this data set
    (rows / "dataset").mkdir()
    (rows / "dataset" / "tiny.yaml").write_text("topk: [5, 10]\nn_layers: 2\n")
    lines = []
    request = request_for(datasets=("tiny",), seeds=2, log=lines.append, minutes=0.002)
    text = reproduce("benchmark", request)
    assert (request.out / "table.md").read_text() == text
    assert [line.split(":")[0] for line in lines if "SASRec" in line] == [
        "tiny, seed 2020",
        "tiny, seed 2021",
    ]
    # The row's own settings come before the data set's, those tuned on it before both.
    tuned, plain = result_of(request, "ItemLM-text+id"), result_of(request, "ItemLM")
    assert (tuned["config_dict"]["hidden_size"], plain["config_dict"]["hidden_size"]) == (8, 16)
    assert (plain["config_dict"]["topk"], plain["config_dict"]["n_layers"]) == ([5, 10], 1)
    assert plain["config_dict"]["lm_dropout"] == 0.25  # what it has in common with others
    folder = result_of(request, "Reader", 2021)["config_dict"]["item_vectors"]
    source = load_data_and_model(folder)[0]
    assert [source[key] for key in ("model", "hidden_size", "topk")] == ["SASRec", 16, [5, 10]]
    # Means over seeds, and the difference to the only rival, user by user.
    values = {}
    for name in ("SASRec", "ItemLM"):
        ranks = [result_of(request, name, seed)["ranks"] for seed in (2020, 2021)]
        values[name] = np.mean(
            [[1 / np.log2(r + 1) if 0 < r <= 10 else 0 for r in of.values()] for of in ranks], 0
        )
    row = next(line for line in text.splitlines() if "| ItemLM " in line)
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[3].startswith(f"{values['ItemLM'].mean():.4f} (")
    assert cells[4] == f"{(values['ItemLM'] - values['SASRec']).mean():+.4f}"
    assert cells[6] == "2"
    made = [result_of(request, "ItemLM", seed) for seed in (2020, 2021)]
    passes = np.mean([cell["steps"] / cell["steps_per_epoch"] for cell in made])
    assert float(cells[7]) == pytest.approx(passes, abs=0.5 if passes >= 10 else 0.05)
    assert "- NoSuchModel on tiny: not run: ConfigError: unknown model 'NoSuchModel'" in text
    assert "- NoSuchFile on tiny: not run: needs " in text
    assert f"\nTrained on tiny: {environment()['processor']}.\n" in text
    written = {path.name for path in (request.out / "tiny").iterdir()}
    assert {"table.md", "curves.svg", "intervals.svg", "text.svg"} <= written
    # A cell of another machine is named.
    cell = request.out / "tiny" / "SASRec-2021.json"
    moved = json.loads(cell.read_text())
    moved["environment"]["processor"] = "8086"
    cell.write_text(json.dumps(moved))
    shown = reproduce("benchmark", replace(request, table_only=True, minutes=5))
    assert ", 8086 (SASRec)." in shown
    with pytest.raises(ConfigError, match="no cells of tiny in empty"):
        reproduce("benchmark", replace(request, table_only=True, out=Path("empty")))
    # Finished cells are kept; one whose settings have changed is trained again.
    lines.clear()
    (rows / "tiny" / "ItemLM-text+id.yaml").unlink()
    reproduce("benchmark", request)
    assert sum("reused" in line for line in lines) == 6
    assert [line for line in lines if "written" in line and "ItemLM, text+id" not in line] == []
    assert result_of(request, "ItemLM-text+id")["config_dict"]["hidden_size"] == 16


def test_a_backend_for_all_rows(rows, request_for):
    """Given for all rows, or in a row's file: the same cell."""
    request = request_for(
        datasets=("tiny",), seeds=1, models=("ItemLM",), matmul_backend="onednn", minutes=0.002
    )
    reproduce("benchmark", request)
    assert result_of(request, "ItemLM")["config_dict"]["matmul_backend"] == "onednn"
    (rows / "dataset").mkdir()
    (rows / "dataset" / "tiny.yaml").write_text("matmul_backend: onednn\n")
    lines = []
    reproduce("benchmark", replace(request, matmul_backend=None, log=lines.append))
    assert "reused" in lines[0]


def test_cells_on_a_cluster(rows, request_for, monkeypatch):
    """A cluster of one worker that does its tasks at once; the last one comes back first."""
    given = []

    def remote(**resources):
        given.append(resources)
        return lambda task: SimpleNamespace(remote=lambda *args: Done(task(*args)))

    class Done:
        def __init__(self, result):
            self.result = result

    @contextmanager
    def session(address, use_gpu):
        assert address == "auto"
        yield SimpleNamespace(
            remote=remote,
            wait=lambda pending: (pending[-1:], pending[:-1]),
            get=lambda done: done.result,
        )

    monkeypatch.setattr(ray_session, "session", session)
    monkeypatch.setattr(cluster, "plan_resources", lambda *_: cluster.Resources(1, 0, 1))
    lines = []
    names = ("SASRec", "NoSuchModel")
    request = request_for(
        datasets=("tiny",),
        seeds=1,
        models=names,
        ray_address="auto",
        log=lines.append,
        minutes=0.002,
    )
    text = reproduce("benchmark", request)
    assert given == [{"num_cpus": 1, "num_gpus": 0}]
    assert [line.split(": ")[1] for line in lines] == ["NoSuchModel", "SASRec"]
    assert "best rival" in text


class EndsItsProcess:
    """A setting that ends the process which reads it."""

    def __reduce__(self):
        return os._exit, (3,)


def test_cells_in_several_processes(rows, request_for, monkeypatch):
    """Each cell is trained in a process of its own; one that fails or dies costs no other."""
    lines = []
    table = {**benchmark.BENCHMARK}
    table["Dies"] = replace(table["SASRec"], name="Dies", settings={"key": EndsItsProcess()})
    monkeypatch.setattr(benchmark, "BENCHMARK", table)
    names = ("SASRec", "NoSuchModel", "Dies")
    request = request_for(
        datasets=("tiny",), seeds=1, models=names, workers=2, log=lines.append, minutes=0.002
    )
    text = reproduce("benchmark", request)
    assert "- NoSuchModel on tiny: not run: ConfigError: unknown model" in text
    assert "- Dies on tiny: not run: its process ended with status 3" in text
    assert [line for line in lines if ": SASRec: written to" in line]
    assert result_of(request, "SASRec")["config_dict"]["hidden_size"] == 16


def test_what_cannot_be_run(rows, request_for):
    with pytest.raises(ConfigError, match="--workers is for this machine, --ray_address for a"):
        reproduce("benchmark", request_for(datasets=("tiny",), workers=2, ray_address="auto"))
    with pytest.raises(ConfigError, match="unknown: BERT5Rec; there are SASRec; Reader"):
        reproduce("benchmark", request_for(datasets=("tiny",), models=("BERT5Rec",)))
    with pytest.raises(ConfigError, match=r"NoSuchFile: needs .*absent.yaml, which is not there"):
        reproduce("benchmark", request_for(datasets=("tiny",), models=("NoSuchFile",)))


def test_what_text_adds_by_hand():
    """Six users; the item of the first has never occurred, that of the last often."""
    test_set = tested_users.TestedUsers(
        users=list("abcdef"),
        items=list("uvwxyz"),
        item_interactions=np.array([0, 1, 1, 5, 5, 9]),
        item_quartiles=np.array([1, 1, 1, 2, 2, 4]),
        history_lengths=np.array([2, 2, 2, 8, 8, 8]),
        quartiles=[
            {"items": 3, "least": 0, "most": 1},
            {"items": 2, "least": 5, "most": 5},
            {"items": 1, "least": 6, "most": 6},
            {"items": 1, "least": 9, "most": 9},
        ],
    )
    without = {1: {"ranks": dict(zip("fedcba", [1, 11, 1, 0, 0, 0], strict=True))}}
    with_text = {
        1: {"ranks": dict(zip("abcdef", [3, 0, 1, 1, 2, 1], strict=True))},
        2: {"ranks": dict(zip("abcdef", [0, 0, 1, 1, 2, 0], strict=True))},
    }
    found = benchmark_table.text_by_group(with_text, without, test_set)
    expected = {  # users, without, with text
        "test item 0 times in training": (1, 0, 0.5),
        "test item 0 to 1 times in training": (3, 0, 0.5),
        "test item 5 times in training": (2, 0.5, 1),
        "test item 9 times in training": (1, 1, 0.5),
        "history of 2": (3, 0, 0.5),
        "history of 8": (3, 2 / 3, 5 / 6),
    }
    assert [group["label"] for group in found] == list(expected)
    for group, (users, plain, text) in zip(found, expected.values(), strict=True):
        assert (group["users"], group["without"], group["with_text"]) == pytest.approx(
            (users, plain, text)
        )
        assert group["difference"] == pytest.approx(text - plain)
        assert (group["interval"] is None) is (users == 1)


@pytest.mark.parametrize("name", BENCHMARK)
@pytest.mark.parametrize("dataset", ["ml-1m", "amazon-beauty-2014"])
def test_every_row_is_a_valid_configuration(name, dataset, data_path):
    spec = BENCHMARK[name]
    settings = {**benchmark.cell_settings(spec, dataset), "data_path": str(data_path)}
    LiteConfig(spec.model, dataset, config_dict=settings)


def test_every_file_is_some_row_s():
    stems = {spec.stem for spec in BENCHMARK.values()}
    files = [*baselines.FOLDER.glob("*.yaml"), *baselines.FOLDER.glob("*/*.yaml")]
    own = [path for path in files if path.parent.name != "dataset"]
    assert {path.stem for path in own} <= stems


# -- the README -------------------------------------------------------------------------------


@pytest.fixture
def script():
    path = ROOT / "docs" / "make_results_table.py"
    spec = importlib.util.spec_from_file_location("make_results_table", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_readme_has_the_table_of_the_results(script):
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    if script.RESULTS.is_file():
        assert script.with_table(page) == page, "stale: python docs/make_results_table.py"
    else:
        assert script.BEGIN not in page


def test_a_table_takes_the_place_of_the_old_one(script, tmp_path):
    def row(name, mean, std, difference):
        ends = None if difference is None else [difference - 0.01, difference + 0.01]
        found = {"mean": mean, "std": std, "difference": difference, "difference_interval": ends}
        test = {"recall@10": {**found, "mean": 2 * mean}, "ndcg@10": found}
        return {"row": name, "seeds": [1, 2], "minutes": 30.4, "test": test}

    rows = [row("SASRec", 0.05, 0.001, None), row("ItemLM", 0.0625, None, 0.0125)]
    rows.append({"row": "TIGER", "seeds": []})
    summary = {"dataset": "toys", "base": "SASRec", "rows": rows, "processors": {"8086": []}}
    summary["passes"] = {"SASRec": 0.00423, "ItemLM": 17.3}
    path = tmp_path / "benchmark.json"
    path.write_text(json.dumps({"datasets": [summary]}))
    text = script.with_table(f"a\n{script.BEGIN}\nold\n{script.END}\nb", path)
    lines = [[c.strip() for c in line.strip("|").split("|")] for line in text.splitlines()]
    assert "old" not in text
    assert text.startswith("a\n")
    means = ["0.1000 (0.0010)", "0.0500 (0.0010)"]
    assert lines[5:7] == [
        ["toys", "ItemLM", "0.1250", "0.0625", "+0.0125", "+0.0025 to +0.0225", "2", "17", "30"],
        ["toys", "SASRec", *means, "best rival", "", "2", "0.0042", "30"],
    ]
    alone = {**summary, "base": "ItemLM", "rows": [row("ItemLM", 0.05, None, None)]}
    path.write_text(json.dumps({"datasets": [alone]}))
    text = script.with_table(text, path)  # without a rival
    assert "NDCG@10 less first row" in text
    assert "rival" not in text
    with pytest.raises(SystemExit, match="no place for the table"):
        script.with_table("a page", path)
