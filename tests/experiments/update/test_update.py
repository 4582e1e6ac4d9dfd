"""Warm start: what is joined, kept, predicted, trained, compared; what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import recbole_lite
from recbole_lite import Recommender, run
from recbole_lite.cli.main import main
from recbole_lite.config.saved_config import load_config
from recbole_lite.data.vocabulary import Vocabulary
from recbole_lite.experiments.update.update import UPDATE_FILE, update
from recbole_lite.inference.saved_run import load_data_and_model
from recbole_lite.trainer import checkpoint
from recbole_lite.utils.errors import CheckpointError, ConfigError, DataError

SMALL = {"load_col": {"inter": ["user_id", "item_id", "timestamp"]}, "epochs": 3}
NEW = [  # user, item, time; those of the data set end before 30,000
    ("u0", "i3", 50_001), ("u0", "i7", 50_002), ("u1", "i24", 50_000), ("u1", "i5", 50_003),
    ("u2", "i25", 50_004), ("u3", "i8", 50_005), ("new", "i24", 50_001), ("new", "i4", 50_002),
    ("solo", "i4", 50_000),
]  # fmt: skip
ITEMS = [
    {"item_id": "i24", "title": "golden story", "year": 1995, "genre": "western"},
    {"item_id": "i25", "title": "toy eye", "year": 1996, "genre": "comedy"},
    {"item_id": "i3", "title": "known by another name", "year": 2000, "genre": "comedy"},
]


def rows(new=NEW):
    return [dict(zip(("user_id", "item_id", "timestamp"), row, strict=True)) for row in new]


def csv(path, table):
    lines = [",".join(table[0]), *(",".join(map(str, row.values())) for row in table)]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def lines_of(folder, name, part):
    data = Path(load_config(folder)["settings"]["data_path"]) / name
    return (data / f"{name}.{part}.inter").read_text().splitlines()[1:]


def item_rows(folder, name):
    """Raw id -> row of a table of items, padding not among them."""
    tables = Vocabulary.from_bytes((Path(folder) / "vocabulary.jsonl").read_bytes(), "").tables
    ids = next(ids for fields, ids in tables if "item_id" in fields)
    table = checkpoint.load_weights(Path(folder) / "best.safetensors")[0][name]
    return dict(zip(ids, table[len(table) - len(ids) :], strict=True))


@pytest.mark.parametrize("model", ["SASRec", "GRU4Rec"])
def test_parts_and_known_rows_and_the_old_model(model, trained):
    folder, name = trained(model, **SMALL), f"kept-{model}"
    report = update(folder, rows(), name=name, config_dict={"epochs": 0})
    assert report["added"] == {"users": 2, "items": 2, "interactions": 9}
    asked = [line.split("\t")[:2] for line in lines_of(folder, name, "test")]
    newest = [["u0", "i7"], ["u1", "i5"], ["u2", "i25"], ["u3", "i8"], ["new", "i4"]]
    assert sorted(asked) == sorted(newest)
    # Leave-one-out of 30 users with 5 interactions or more: two each were held out.
    assert len(lines_of(folder, name, "train")) == 60 + 4
    old, new = (item_rows(f, "item_embedding.weight") for f in (folder, report["run_dir"]))
    assert set(new) - set(old) == {"i24", "i25"}
    for raw, row in old.items():
        torch.testing.assert_close(new[raw], row)
    torch.testing.assert_close(new["i25"], torch.stack(list(old.values())).mean(0))

    # The old model knows neither i24 in u1's history nor u2's item; "new" has no known item.
    recommender = Recommender.load(folder, runtime="torch")
    inter = [
        line.split("\t") for part in ("known", "train") for line in lines_of(folder, name, part)
    ]
    hits = []
    for user, item in newest:
        own = sorted((float(time), one) for of, one, time in inter if of == user and one in old)
        top = recommender.recommend([[one for _, one in own]], k=5)[0] if own else []
        hits.append(item in [one.id for one in top])
    assert (report["tested"], report["of_new_items"]) == (5, 1)
    assert report["metrics"]["recall@5"]["old"] == pytest.approx(np.mean(hits))
    assert report["metrics"]["recall@5"]["new"] == report["result"]["test_result"]["recall@5"]


def test_the_command_trains_and_can_be_repeated(trained, tmp_path, capsys):
    folder = trained("SASRec", **SMALL)
    first = csv(tmp_path / "a.csv", rows())
    command = ["update", f"--model={folder}", f"--interactions={first}", "--name=once"]
    assert main([*command, "--learning_rate=0.01", "--epochs=1"]) == 0
    out = capsys.readouterr().out
    assert "Added: 2 users, 2 items, 9 interactions (once)" in out
    assert "NDCG@5" in out
    run_dir = out.rpartition("Updated model: ")[2].strip()
    settings = load_config(Path(run_dir))["settings"]
    assert (settings["learning_rate"], settings["replay"], settings["epochs"]) == (0.01, 0.2, 1)
    before, after = (item_rows(f, "item_embedding.weight") for f in (folder, run_dir))
    assert not torch.equal(after["i3"], before["i3"])
    assert Recommender.load(run_dir).recommend([["i24", "i5"]], k=2)[0]
    load_data_and_model(run_dir)

    # What was tested is trained on next; what is known already is left out.
    more = [*rows(NEW[:2]), *rows([("u0", "i9", 60_000), ("u5", "i26", 60_000)])]
    again = update(run_dir, more, config_dict={"epochs": 1})
    assert again["dataset"] == "once-update-1"
    assert again["notes"] == ["2 interactions are in the run's data set already"]
    assert again["added"] == {"users": 0, "items": 1, "interactions": 2}
    assert {line.split("\t")[1] for line in lines_of(folder, "once", "test")} <= {
        line.split("\t")[1] for line in lines_of(folder, "once-update-1", "train")
    }
    known = len(lines_of(folder, "once", "known")) + len(lines_of(folder, "once", "train"))
    assert len(lines_of(folder, "once-update-1", "known")) == known
    assert json.loads((Path(again["run_dir"]) / UPDATE_FILE).read_text())["tested"] == 2


@pytest.mark.parametrize(
    ("model", "changes", "table"),
    [
        ("LiteLLM4Rec", {"item_llm_training": "embeddings"}, "head.weight"),
        ("ItemLM", {"item_init": "text"}, "items.weight"),
        ("ItemLM", {"item_init": "text_plus_id", "tie_head": False}, "head.weight"),
    ],
)
def test_models_of_text_get_new_items_by_their_texts(model, changes, table, trained):
    folder = trained(model, n_heads=2, **SMALL, **changes)
    name = f"{model}-{changes.get('item_init')}"
    report = update(folder, rows(), ITEMS, name=name, config_dict={"epochs": 0})
    assert report["notes"] == ["1 items are known; their descriptions stay as they are"]
    old, new = item_rows(folder, table), item_rows(report["run_dir"], table)
    for raw, row in old.items():
        torch.testing.assert_close(new[raw], row)
    assert set(new) - set(old) == {"i24", "i25"}
    apart = not torch.allclose(new["i24"], new["i25"])
    assert apart == (changes.get("item_init") != "text_plus_id")
    if model == "LiteLLM4Rec":
        recommender = Recommender.load(folder, runtime="torch")
        texts = [
            {"id": one["item_id"], "text": text}
            for one, text in zip(ITEMS[:2], _texts(report), strict=True)
        ]
        recommender.add_items(texts)
        added = recommender.model.head.weight[-2:]
        torch.testing.assert_close(torch.stack([new["i24"], new["i25"]]), added.detach())


def _texts(report):
    items = Recommender.load(report["run_dir"]).catalogue
    return [items.texts[items.index[raw]] for raw in ("i24", "i25")]


def test_a_killed_update_is_resumed_from_its_start(trained):
    folder = trained("ItemLM", n_heads=2, **SMALL)  # train_strategy: prefix
    report = update(folder, rows(), name="killed", config_dict={"epochs": 2})
    settings = {**load_config(Path(report["run_dir"]))["settings"], "resume": report["run_dir"]}
    for path in Path(report["run_dir"]).glob("last-*"):
        path.unlink()  # as if killed in the first epoch
    again = run("ItemLM", "killed", config_dict=settings)
    assert again["test_result"] == pytest.approx(report["result"]["test_result"])


def test_what_cannot_be_joined_is_told_in_one_line(trained, tmp_path):
    folder = trained("SASRec", **SMALL)

    def refused(message, new=None, error=DataError, of=folder, **given):
        with pytest.raises(error, match=message):
            update(of, rows() if new is None else new, name="refused", **given)

    old = [line.split("\t") for line in _inter(folder)]
    known = [(user, item, float(time)) for user, item, _, time in old[:3]]
    refused("nothing new", rows(known))
    refused("older than the newest of the run", rows([("u0", "i1", 5), ("u1", "i2", 6)]))
    refused("no column 'timestamp'|looks like the time", [{"user_id": "u0", "item_id": "i3"}])
    refused("nothing to test", rows([("x", "i1", 50_000), ("y", "i2", 50_000)]))
    topn = {"task": "topn", "topn_negatives": 6, "metrics": ["Hit"], "valid_metric": "Hit@5"}
    refused("task: sequential", of=trained("SASRec", **topn, **SMALL), error=ConfigError)
    refused("trains in one process", config_dict={"nproc": 2}, error=ConfigError)
    refused("replay must be", config_dict={"replay": None}, error=ConfigError)
    refused("learning_rat", config_dict={"learning_rat": 1}, error=ConfigError)
    refused(
        "eval_exclude_history stays", config_dict={"eval_exclude_history": False}, error=ConfigError
    )
    refused("no checkpoint here", of=tmp_path, error=CheckpointError)
    refused("there is no such file", error=DataError, config_dict={"data_path": str(tmp_path)})
    refused("BERT4Rec cannot be updated", of=trained("BERT4Rec", epochs=1), error=ConfigError)
    rated = trained("SASRec", epochs=1)
    refused("no column 'rating', which the run reads", of=rated)
    text = trained("ItemLM", n_heads=2, **SMALL, item_init="text")
    refused(r"2 new items have no text \(i24, i25\)", of=text)
    refused(r"1 new items have no text \(i25\)", of=text, items=ITEMS[:1])
    assert not (Path(load_config(folder)["settings"]["data_path"]) / "refused").exists()


def _inter(folder):
    data = Path(load_config(folder)["settings"]["data_path"])
    return (data / "tiny" / "tiny.inter").read_text().splitlines()[1:]


def test_late_interactions_are_stated(trained):
    late = [*rows(NEW[:2]), *rows([("u4", "i1", 3)])]
    report = update(trained("SASRec", **SMALL), late, name="late", config_dict={"epochs": 0})
    assert report["notes"][0].startswith("1 of 3 new interactions are older than the newest")


def test_it_is_public():
    assert recbole_lite.update is update
