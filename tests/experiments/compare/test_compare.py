"""Comparing runs: figures by hand, an interval that means something, refusals in one line."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from recbole_lite import run
from recbole_lite.cli.main import main
from recbole_lite.experiments.compare.compare import compare, render
from recbole_lite.experiments.reproduce.baselines import ModelSpec
from recbole_lite.experiments.reproduce.time_budget import measure
from recbole_lite.utils.errors import ReportError
from recbole_lite.utils.files import write_json

USERS = [f"u{n}" for n in range(200)]
SETTINGS = {
    "model": "LiteLLM4Rec", "dataset": "made", "topk": [10, 20], "eval_exclude_history": True,
    "eval_args": {"split": {"LS": "valid_and_test"}, "mode": "full"},
}  # fmt: skip


@pytest.fixture
def result(tmp_path):
    """Write a result as ``ablate`` does: ``result("a", ranks, key=value)`` -> path."""

    def write(name, ranks, folder="results", users=USERS, **changes):
        content = {
            "row": name,
            "settings": {**SETTINGS, **changes.pop("settings", {})},
            "data": {"users": 200, "items": 50, "interactions": 2000},
            "test": {"ndcg@10": 0.0},
            "valid": {},
            "epochs": 3,
            "seconds": {"training": 90.0},
            "parameters": 10,
            "ranks": dict(zip(users, map(int, ranks), strict=True)),
            **changes,
        }
        path = tmp_path / folder / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content))
        return path

    return write


def test_figures_by_hand(result):
    a = result("a", [1] * 100 + [0] * 100)
    b = result("b", [3] * 150 + [0] * 50)
    rows = compare([a, b])["rows"]
    assert [row["mean"] for row in rows] == pytest.approx([0.5, 0.375])  # 1/log2(4) = 0.5
    assert rows[0]["difference"] is None
    assert rows[1]["difference"] == pytest.approx(-0.125)
    low, high = rows[1]["difference_interval"]
    # 100 users lose 0.5, 50 win 0.5: standard deviation of the difference over 200 users.
    error = np.std([-0.5] * 100 + [0.5] * 50 + [0] * 50) / np.sqrt(200)
    assert (low, high) == pytest.approx((-0.125 - 1.96 * error, -0.125 + 1.96 * error), abs=0.008)


def test_users_are_paired_by_name_and_not_by_place(result):
    rng = np.random.default_rng(1)
    ranks = rng.integers(0, 15, 200)
    order = rng.permutation(200)
    a = result("a", ranks)
    b = result("b", ranks[order], users=[USERS[i] for i in order])
    row = compare([a, b])["rows"][1]
    assert row["difference"] == 0.0
    assert row["difference_interval"] == [0.0, 0.0]


def test_pairing_finds_what_two_intervals_do_not(result):
    """Some users are a little better off: the means' intervals overlap, the difference's is > 0."""
    ranks = np.random.default_rng(2).integers(2, 12, 200)
    a, b = result("a", ranks), result("b", ranks - (np.arange(200) < 40))
    summary = compare([a, b])
    first, second = summary["rows"]
    assert second["interval"][0] < first["interval"][1]
    assert second["difference_interval"][0] > 0
    assert "b is better than a on these users" in render(summary)


def test_the_interval_holds_no_difference_where_there_is_none(result):
    rng = np.random.default_rng(3)
    a, b = (result(name, rng.integers(0, 30, 200)) for name in "ab")
    summary = compare([a, b])
    low, high = summary["rows"][1]["difference_interval"]
    assert low < 0 < high
    assert "no significant difference on these users" in render(summary)
    assert "a is worse than b" not in render(summary)


def test_other_metrics_and_the_files(result, tmp_path):
    a, b = result("a", [12] * 200), result("b", [0] * 200)
    summary = compare([a, b], "Recall@20", tmp_path / "out")
    assert [row["mean"] for row in summary["rows"]] == [1.0, 0.0]
    svg = (tmp_path / "out" / "compare.svg").read_text()
    assert svg.startswith("<svg")
    assert "prefers-color-scheme" in svg
    assert "b: -1.0000, -1.0000 to -1.0000" in svg
    page = (tmp_path / "out" / "compare.md").read_text()
    assert page.startswith("# Recall@20 on made: 200 users")
    assert json.loads((tmp_path / "out" / "compare.json").read_text()) == summary


def test_results_of_one_name_are_told_apart(result):
    summary = compare([result("a", [1] * 200), result("a", [2] * 200, folder="others")])
    names = [row["name"] for row in summary["rows"]]
    assert names[0] != names[1]
    assert names[1].endswith("others/a.json")


def test_recall_by_how_common_the_test_item_is(result, data_path):
    """The quartiles of the items, counted from the file; a user's last two rows are held out."""
    rows = [
        line.split("\t") for line in (data_path / "tiny/tiny.inter").read_text().split("\n")[1:]
    ]
    by_user = {}
    for user, item, _, time in (row for row in rows if len(row) == 4):
        by_user.setdefault(user, []).append((int(time), item))
    sequences = {user: [i for _, i in sorted(pairs)] for user, pairs in by_user.items()}
    counts = Counter(item for items in sequences.values() for item in items[:-2])
    users = sorted(sequences)
    ranks = np.random.default_rng(4).integers(0, 15, len(users))
    changes = {"settings": {"dataset": "tiny", "data_path": str(data_path)}, "users": users}
    files = [result("a", ranks, **changes), result("b", [0] * len(users), **changes)]
    found = compare(files, by_item=True)["by_item"]
    assert sum(group["users"] for group in found["groups"]) == len(users)
    assert [mean for mean, _ in found["recall"]["b"]] == [0.0] * 4
    common = max(counts[items[-1]] for items in sequences.values())
    low, _, high = found["groups"][-1]["label"].partition(" to ")
    assert int(low) <= common <= int(high or low)
    hits = sum(n * mean for n, (mean, _) in zip(
        (group["users"] for group in found["groups"]), found["recall"]["a"], strict=True
    ))  # fmt: skip
    assert hits == pytest.approx(sum(0 < rank <= 10 for rank in ranks))
    with pytest.raises(ReportError, match="its users are not the test users of tiny"):
        compare([result(n, [1] * 200, settings=changes["settings"]) for n in "cd"], by_item=True)
    # Runs that were not told where the data are: in the default folder.
    data_path.rename("dataset")
    changes["settings"] = {"dataset": "tiny"}
    files = [result("a", ranks, **changes), result("b", [0] * len(users), **changes)]
    assert compare(files, by_item=True)["by_item"] == found


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"settings": {"dataset": "other"}}, "dataset: made and other"),
        ({"data": {"users": 9, "items": 5, "interactions": 20}}, "data: 200 users, 50 items"),
        ({"settings": {"eval_exclude_history": False}}, "eval_exclude_history: True and False"),
        ({"settings": {"eval_args": {"mode": "uni100"}}}, "eval_args: .*full.*uni100"),
        ({"users": [f"v{n}" for n in range(200)]}, "400 test users are in one of them only"),
    ],
)
def test_runs_that_were_asked_other_questions_are_refused(changes, message, result):
    a, b = result("a", [1] * 200), result("b", [1] * 200, **changes)
    with pytest.raises(ReportError, match=f"cannot be compared: {message}") as caught:
        compare([a, b])
    assert "\n" not in str(caught.value)


def test_what_is_no_run_is_named(result, tmp_path, capsys):
    a = result("a", [1] * 200)
    (tmp_path / "list.json").write_text("[]")
    cases = {
        str(tmp_path / "none"): "no such folder",
        str(tmp_path / "none.json"): "cannot be read",
        str(tmp_path / "list.json"): "no result of `recbole-lite ablate` or `recbole-lite rep",
        str(result("c", [], users=[])): "has no ranks, which a comparison user by user needs",
        str(a): "give two or more different runs",
    }
    for path, message in cases.items():
        assert main(["compare", str(a), path]) == 2
        printed = capsys.readouterr().err
        assert message in printed
        assert printed.count("\n") == 1
    b = result("b", [1] * 200)
    assert main(["compare", str(a), str(b), "--metric=ndcg@50"]) == 2
    assert "with k up to 20, the largest topk" in capsys.readouterr().err


def test_folders_of_real_runs(quick, capsys, workdir):
    settings = quick(epochs=1, topk=[5, 10], valid_metric="NDCG@5")
    folders = [run(m, "tiny", config_dict=settings)["run_dir"] for m in ("SASRec", "Pop")]
    assert main(["compare", *folders]) == 0
    printed = capsys.readouterr().out
    assert "tiny: 30 users" in printed
    summary = json.loads(Path("results/compare/tiny/compare.json").read_text())
    for row in summary["rows"]:
        assert row["mean"] == pytest.approx(row["test"]["ndcg@10"], abs=5e-5)
    changed = {**settings, "item_inter_num_interval": "[9,inf)"}
    other = run("Pop", "tiny", config_dict=changed)["run_dir"]
    assert main(["compare", folders[0], other]) == 2
    assert "cannot be compared: data:" in capsys.readouterr().err


def test_the_same_counts_with_another_test_set_are_refused(quick, data_path, capsys):
    folders = [run("Pop", "tiny", config_dict=quick())["run_dir"]]
    path = data_path / "tiny" / "tiny.inter"
    head, *rows = path.read_text().splitlines()
    swap = {"i1": "i2", "i2": "i1"}
    cells = [row.split("\t") for row in rows]
    rows = ["\t".join([c[0], swap.get(c[1], c[1]), *c[2:]]) for c in cells]
    path.write_text("\n".join([head, *rows]) + "\n")
    folders.append(run("Pop", "tiny", config_dict=quick())["run_dir"])
    assert main(["compare", *folders]) == 2
    assert "the test sets have other users, items or training data" in capsys.readouterr().err


# -- results of `recbole-lite reproduce` ------------------------------------------------------


@pytest.fixture
def row(quick, tmp_path):
    """Write a row as ``reproduce`` does: ``row("SASRec", key=value)`` -> path."""

    def write(model, **settings):
        common = quick(topk=[5, 10], valid_metric="NDCG@5")
        del common["epochs"]
        path = tmp_path / "rows" / f"{model}.json"
        spec = ModelSpec(f"{model}, here", model, settings)
        write_json(path, measure(spec, "tiny", common, 0.005, "typed"))
        return path

    return write


def test_a_row_of_reproduce_is_its_run(row):
    path = row("SASRec")
    folder = json.loads(path.read_text())["run_dir"]
    summary = compare([path, row("Pop"), folder])
    ours, pop, same = summary["rows"]
    assert ours["model"] == "SASRec, here"
    assert ours["mean"] == pytest.approx(ours["test"]["ndcg@10"], abs=5e-5)
    assert pop["mean"] == pytest.approx(pop["test"]["ndcg@10"], abs=5e-5)
    assert (same["mean"], same["difference"]) == (ours["mean"], 0.0)
    assert same["difference_interval"] == [0.0, 0.0]


def test_a_row_of_another_task_is_refused(row):
    topn = {"task": "topn", "topn_negatives": 6, "metrics": ["NDCG"]}
    with pytest.raises(ReportError, match="cannot be compared: task: sequential and topn"):
        compare([row("SASRec"), row("Pop", **topn)])


def test_rows_of_an_older_version_are_compared_with_one_another(row):
    new = row("SASRec")
    old = [row("Pop"), new.with_name("old.json")]
    for path, source in zip(old, (old[0], new), strict=True):
        content = json.loads(source.read_text())
        for key in ("protocol", "largest_k", "test_set"):
            del content[key]
        path.write_text(json.dumps(content))
    summary = compare(old)
    assert [row["model"] for row in summary["rows"]] == ["Pop, here", "SASRec, here"]
    with pytest.raises(ReportError, match=r"Pop\.json does not state its ranking"):
        compare([new, old[0]])
    content["config_dict"] = None
    old[1].write_text(json.dumps(content))
    with pytest.raises(ReportError, match=r"old\.json: no result of"):
        compare(old)
