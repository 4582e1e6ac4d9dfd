"""What a run leaves in its folder: files that agree with the result, and run it again."""

import csv
import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from recbole_lite import LiteConfig, create_dataset, data_preparation, run
from recbole_lite.cli.main import main, run_main
from recbole_lite.config.yaml_files import read_yaml, to_yaml
from recbole_lite.report import run_folder
from recbole_lite.report.run_report import write_report
from recbole_lite.report.tested_users import read_tested_users
from recbole_lite.trainer import checkpoint
from recbole_lite.utils.errors import ReportError

FILES = {
    "best.safetensors", "config.json", "config.yaml", "environment.json", "history.csv",
    "items.jsonl", "metrics.json", "report.html", "samples.json", "users.csv", "vocabulary.jsonl",
}  # fmt: skip


def test_the_folder_holds_the_result(quick):
    result = run("LiteLLM4Rec", "tiny", config_dict=quick(checkpoint_every=0), per_user=True)
    folder = Path(result["run_dir"])
    assert {path.name for path in folder.iterdir()} == FILES
    record = run_folder.read_run(folder)
    metrics = record.metrics
    assert metrics["test"] == pytest.approx(result["test_result"])
    assert metrics["valid"] == pytest.approx(result["best_valid_result"])
    assert metrics["data"] == result["data"]
    scores = [entry["valid_score"] for entry in result["history"]]
    assert metrics["best_epoch"] == scores.index(max(scores))
    assert [row["valid_ndcg@5"] for row in record.history] == scores
    assert [row["train_loss"] for row in record.history] == [
        entry["train_loss"] for entry in result["history"]
    ]
    users = {user: row["rank"] for user, row in record.users.items()}
    per_user = result["per_user"]
    assert users == dict(zip(per_user["users"], per_user["ranks"].tolist(), strict=True))
    assert set(metrics["seconds"]) == {"data", "item vectors and model", "training", "test"}
    for at in metrics["memory_mib"].values():
        assert 10 < at["resident"] <= at["peak"]
    assert record.environment["torch"]
    assert [len(sample["recommended"]) for sample in record.samples] == [10] * 10


def test_a_run_from_its_config_yaml_has_equal_metrics(quick, capsys):
    settings = quick(epochs=2, baselines=["Pop"], item_text_template="2020-01-01 {title} 1e-3")
    first = run("LiteLLM4Rec", "tiny", config_dict=settings)
    path = Path(first["run_dir"], "config.yaml")
    again = run(config_file_list=[path])
    assert again["model"] == "LiteLLM4Rec"
    for key in ("test_result", "best_valid_result"):
        assert again[key] == first[key]
    assert [e["train_loss"] for e in again["history"]] == [
        e["train_loss"] for e in first["history"]
    ]
    assert set(again["baselines"]) == {"Pop"}
    assert (
        read_yaml(path)["seed"].value
        == read_yaml(Path(again["run_dir"], "config.yaml"))["seed"].value
    )
    # A baseline's file runs the baseline alone.
    assert run_main([f"--config_files={first['baselines']['Pop']['run_dir']}/config.yaml"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert sum(row[:1] == ["Pop"] for row in rows) == 2  # figures and seconds


def test_config_yaml_leaves_to_the_next_machine_what_was_not_set(quick):
    settings = {k: v for k, v in quick(epochs=0).items() if k != "show_progress"}
    first = run("Pop", "tiny", config_dict=settings)
    second = run("Pop", "tiny", config_dict={**settings, "gpu_id": "1"})
    names = [set(read_yaml(Path(r["run_dir"], "config.yaml"))) for r in (first, second)]
    config = LiteConfig("Pop", "tiny", config_dict=settings)
    assert set(config.settings) - names[0] == {"gpu_id", "show_progress"}
    assert set(config.settings) - names[1] == {"show_progress"}


def test_yaml_gives_back_every_value(tmp_path):
    values = {
        "text": "1e-3", "date": "2020-01-01", "yes": "yes", "none": None, "rate": 1e-5, "n": 3,
        "template": "{title}: 'a' # b", "flag": True, "nested": {"LS": ["a", 1.5, "~"]},
        "umlaut": "ä\n", "colon": "a: b", "empty": "", "big": 1e22,
    }  # fmt: skip
    path = tmp_path / "a.yaml"
    path.write_text(to_yaml(values), encoding="utf-8")
    assert {key: setting.value for key, setting in read_yaml(path).items()} == values


def test_a_resumed_run_has_the_whole_history_and_its_present_settings(quick):
    half = run("SASRec", "tiny", config_dict=quick(epochs=2))
    folder = Path(half["run_dir"])
    run("SASRec", "tiny", config_dict=quick(epochs=4, resume=str(folder)))
    record = run_folder.read_run(folder)
    assert [row["epoch"] for row in record.history] == [0, 1, 2, 3]
    assert record.metrics["resumed"] is True
    assert record.settings["epochs"] == 4
    assert record.settings["resume"] is None
    assert "resumed" in (folder / "report.html").read_text()


def test_epochs_without_a_validation_are_in_the_history(quick):
    result = run("SASRec", "tiny", config_dict=quick(epochs=4, eval_step=2))
    with Path(result["run_dir"], "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["0", "1", "2", "3"]
    assert [bool(row["valid_score"]) for row in rows] == [False, True, False, True]
    assert all(float(row["train_loss"]) > 0 for row in rows)


def test_the_history_is_there_while_the_run_goes_on(quick, monkeypatch):
    seen = []
    real = checkpoint.save_history

    def spy(folder, history, losses):
        real(folder, history, losses)
        seen.append((folder / "history.csv").read_text().count("\n") - 1)

    monkeypatch.setattr(checkpoint, "save_history", spy)
    run("SASRec", "tiny", config_dict=quick(epochs=3))
    assert seen == [1, 2, 3, 3]


def test_the_report_changes_no_figure(quick, monkeypatch):
    with_report = run("LiteLLM4Rec", "tiny", config_dict=quick(epochs=1, baselines=["SASRec"]))
    monkeypatch.setattr("recbole_lite.quick_start.write_run_files", lambda *_: None)
    without = run("LiteLLM4Rec", "tiny", config_dict=quick(epochs=1, baselines=["SASRec"]))
    assert without["report"] is None
    for a, b in ((with_report, without), *zip(
        with_report["baselines"].values(), without["baselines"].values(), strict=True
    )):  # fmt: skip
        assert a["test_result"] == b["test_result"]
        assert [e["valid_score"] for e in a["history"]] == [e["valid_score"] for e in b["history"]]


# -- the test set -----------------------------------------------------------------------------


def reference(data_path):
    """The test set of tiny by plain Python: user -> (item, times in training, history)."""
    with (data_path / "tiny" / "tiny.inter").open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    of_user: dict[str, list] = {}
    for row in rows:
        of_user.setdefault(row["user_id:token"], []).append(
            (float(row["timestamp:float"]), row["item_id:token"])
        )
    sequences = {user: [item for _, item in sorted(found)] for user, found in of_user.items()}
    training = [item for sequence in sequences.values() for item in sequence[:-2]]
    return {u: (s[-1], training.count(s[-1]), len(s) - 1) for u, s in sequences.items()}


@pytest.mark.parametrize("model", ["SASRec", "Pop", "BERT4Rec"])
def test_the_test_set_is_that_of_an_independent_count(model, quick, data_path):
    config = LiteConfig(model, "tiny", config_dict=quick())
    dataset = create_dataset(config)
    _, valid, test = data_preparation(config, dataset)
    found = read_tested_users(dataset, valid, test)
    rows = zip(found.items, found.item_interactions, found.history_lengths, strict=True)
    assert dict(zip(found.users, rows, strict=True)) == reference(data_path)
    assert [about["items"] for about in found.quartiles] == [6, 6, 6, 6]
    for count, quartile in zip(found.item_interactions, found.item_quartiles, strict=True):
        about = found.quartiles[quartile - 1]
        assert about["least"] <= count <= about["most"]


def test_the_fingerprint_tells_data_apart_and_not_models(quick, data_path):
    digests = []
    for model, changes in (
        ("SASRec", {}), ("Pop", {}), ("FDSA", {"seed": 9}),
        ("SASRec", {"item_inter_num_interval": "[9,inf)"}),
    ):  # fmt: skip
        config = LiteConfig(model, "tiny", config_dict=quick(**changes))
        dataset = create_dataset(config)
        _, valid, test = data_preparation(config, dataset)
        digests.append(read_tested_users(dataset, valid, test).sha256)
    assert digests[0] == digests[1] == digests[2] != digests[3]


def test_a_split_with_several_test_items_per_user_has_no_users_file(quick):
    settings = quick(epochs=1, eval_args={"split": {"RS": [0.6, 0.2, 0.2]}})
    result = run("SASRec", "tiny", config_dict=settings)
    folder = Path(result["run_dir"])
    assert not (folder / "users.csv").exists()
    assert json.loads((folder / "metrics.json").read_text())["test_set"] is None
    assert "h-groups" not in (folder / "report.html").read_text()


# -- the page ---------------------------------------------------------------------------------


class Page(HTMLParser):
    """Tags and text of a page; checks that what is opened is closed."""

    EMPTY = ("meta", "br")

    def __init__(self, text):
        super().__init__()
        self.stack, self.tags, self.text, self.ids = [], [], [], []
        self.feed(text)
        assert self.stack == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in self.EMPTY:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_is_whole_and_asks_for_nothing(quick):
    result = run("SASRec", "tiny", config_dict=quick(baselines=["Pop"]))
    text = Path(result["report"]).read_text()
    page = Page(text)
    assert len(set(page.ids)) == len(page.ids)
    links = [attrs["href"] for tag, attrs in page.tags if tag == "a"]
    assert links
    assert all(link.startswith("#") and link[1:] in page.ids for link in links)
    forbidden = {"script", "link", "img", "iframe", "object"}
    assert not forbidden & {tag for tag, _ in page.tags}
    assert "url(" not in text
    assert "@import" not in text
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "").replace("http-equiv", "")
    assert sum(tag == "svg" for tag, _ in page.tags) == 4
    assert all(attrs["aria-label"] for tag, attrs in page.tags if tag == "svg")
    figures = [f"{value:.4f}" for value in result["test_result"].values()]
    figures += [f"{v:.4f}" for v in result["baselines"]["Pop"]["test_result"].values()]
    assert set(figures) <= {part.strip() for part in page.text}


EVIL = "<script>alert('x')</script> & \"q\" </title></svg>"


def test_titles_are_text_and_never_markup(quick, data_path):
    path = data_path / "tiny" / "tiny.item"
    head, *rows = path.read_text().splitlines()
    cells = [row.split("\t") for row in rows]
    path.write_text("\n".join([head, *("\t".join([c[0], EVIL, *c[2:]]) for c in cells)]) + "\n")
    result = run("SASRec", "tiny", config_dict=quick())
    text = Path(result["report"]).read_text()
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert EVIL in Page(text).text


def test_hits_are_marked_by_item_and_not_by_title(quick):
    result = run("SASRec", "tiny", config_dict=quick())
    record = run_folder.read_run(result["run_dir"])
    sample = record.samples[0]
    sample.update(target="Toy", recommended=["Toy", "Toy"], hits=[False, True])
    record.samples[:] = [sample]
    from recbole_lite.report.run_page import render

    text = render(record, [])
    assert text.count("✓ hit") == 1
    assert '<li class="hit">Toy' in text
    assert "<li>Toy</li>" in text


def test_only_runs_with_the_same_questions_stand_beside(quick, workdir, capsys):
    first = run("SASRec", "tiny", config_dict=quick(epochs=1))
    run("Pop", "tiny", config_dict=quick())
    run("Pop", "tiny", config_dict=quick(eval_exclude_history=False))
    run("Pop", "tiny", config_dict=quick(item_inter_num_interval="[9,inf)"))
    folder = Path(first["run_dir"])
    (workdir / "saved" / "damaged").mkdir()
    (workdir / "saved" / "damaged" / "metrics.json").write_text("{")
    record = run_folder.read_run(folder)
    others, unreadable = run_folder.comparable_runs(record)
    assert [run.metrics["model"] for run in others] == ["Pop"]
    assert ["damaged" in problem for problem in unreadable] == [True]
    before = (folder / "report.html").read_text()
    assert main(["report", str(folder)]) == 0
    assert capsys.readouterr().out.strip() == str(folder / "report.html")
    assert (folder / "report.html").read_text() != before
    assert others[0].name in (folder / "report.html").read_text()


def test_folders_without_a_finished_run(quick, tmp_path, capsys):
    with pytest.raises(ReportError, match="no such folder"):
        write_report(tmp_path / "none")
    with pytest.raises(ReportError, match="it is not the folder of a run"):
        write_report(tmp_path)
    result = run("SASRec", "tiny", config_dict=quick(epochs=1))
    folder = Path(result["run_dir"])
    users = folder / "users.csv"
    users.write_text(users.read_text().replace("\n", "\nu0,i1,first,1,1,1\n", 1))
    with pytest.raises(ReportError, match=r"users\.csv, line 2: cannot be read; expected user_id"):
        write_report(folder)
    (folder / "metrics.json").unlink()
    assert main(["report", str(folder)]) == 2
    assert "no metrics.json (the run has not ended" in capsys.readouterr().err


def test_ids_and_titles_with_commas_and_quotes_survive(quick, data_path):
    for name in ("tiny.inter", "tiny.item"):
        path = data_path / "tiny" / name
        path.write_text(path.read_text().replace("u7\t", 'u,"7\t'))
    result = run("Pop", "tiny", config_dict=quick(), per_user=True)
    record = run_folder.read_run(result["run_dir"])
    assert 'u,"7' in record.users
    assert np.isclose(
        np.mean([0 < row["rank"] <= 3 for row in record.users.values()]),
        result["per_user"]["metrics"]["recall@3"].mean(),
    )
