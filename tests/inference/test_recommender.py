"""Recommender: the scores of training, for anyone, from the folder alone."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch

from recbole_lite import Recommender, load_data_and_model
from recbole_lite.inference.recommender import UnknownItemWarning
from recbole_lite.inference.torch_runtime import TorchRuntime
from recbole_lite.utils.errors import CheckpointError, RequestError

# GPT-2 with learned decay over trained vectors, as in properties/prefix/ml-1m.yaml.
PREFIX = {
    "train_strategy": "prefix",
    "rec_llm": "gpt2",
    "rec_llm_causal": True,
    "user_pooling": "recency",
    "item_llm_training": "embeddings",
    "item_vector_norm": "unit",
    "loss_exclude_history": True,
    "rec_llm_config": {"n_layer": 1, "n_embd": 8, "n_inner": 16, "n_head": 2, "n_positions": 6},
}
RUNS = {
    "paper": ("LiteLLM4Rec", {"item_vector_norm": "standardize"}),
    "prefix": ("LiteLLM4Rec", PREFIX),
    "tied": ("LiteLLM4Rec", {"tie_head": True, "user_pooling": "last"}),
    "full": ("LiteLLM4Rec", {"item_llm_training": "full", "item_vector_norm": "unit"}),
    "two stages": (
        "LiteLLM4Rec",
        {"stages": [{"epochs": 1}, {"epochs": 1, "item_llm_training": "embeddings"}]},
    ),
    "pca": ("LiteLLM4Rec", {**PREFIX, "item_adapter": "pca", "tie_head": True}),
    "bert": (
        "LiteLLM4Rec",
        {
            "rec_llm": "bert-base-uncased",
            "rec_llm_config": {
                "hidden_size": 16,
                "intermediate_size": 24,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
            },
        },
    ),
    "ItemLM, text": ("ItemLM", {"n_heads": 2, "item_init": "text"}),
    "ItemLM, text+id": (
        "ItemLM",
        {"n_heads": 2, "item_init": "text_plus_id", "lm_architecture": "t5"},
    ),
    "SASRec": ("SASRec", {}),
    "GRU4Rec": ("GRU4Rec", {}),
    "BERT4Rec": ("BERT4Rec", {}),
    "BERT4Rec, whole windows": ("BERT4Rec", {"train_strategy": "prefix"}),
}


@pytest.fixture
def folder_of(trained):
    return lambda name: trained(RUNS[name][0], **RUNS[name][1])


@pytest.fixture
def folder(folder_of, tmp_path):
    """A copy of the paper's model, to be damaged."""
    return shutil.copytree(folder_of("paper"), tmp_path / "model")


@pytest.fixture
def recommender(folder_of):
    return Recommender.load(folder_of("paper"))


def measured(folder):
    """Test histories in raw ids, and the model's scores of all items, history masked."""
    _, model, dataset, *_, loader = load_data_and_model(folder)
    windows = loader._dataset.inter_feat
    batch, (rows, columns), *_ = loader.collate_fn(np.arange(len(windows)))
    with torch.no_grad():
        scores = model.eval().full_sort_predict(batch).view(len(windows), -1)
    plain = scores.clone()
    scores[rows, columns] = -torch.inf
    store = windows.store
    items = store.columns[dataset.iid_field].numpy()
    histories = [
        [str(dataset.id2token(dataset.iid_field, i)) for i in items[start:end]]
        for start, end in zip(store.user_start(windows.rows), windows.rows, strict=True)
    ]
    return histories, scores, plain, dataset


@pytest.mark.parametrize("name", RUNS)
def test_scores_are_those_of_full_sort_predict(name, folder_of):
    histories, scores, plain, dataset = measured(folder_of(name))
    assert max(map(len, histories)) > 6  # longer than the window
    recommender = Recommender.load(folder_of(name))
    for exclude, expected in ((True, scores), (False, plain)):
        found = recommender.recommend(histories, k=24, exclude_seen=exclude, batch_size=7)
        assert len(found) == len(expected) == 30
        for row, wanted in zip(found, expected, strict=True):
            wanted = wanted[1:]  # padding
            assert len(row) == int((~wanted.isneginf()).sum())
            ids = dataset.token2id(dataset.iid_field, np.array([r.id for r in row]))
            scored = torch.tensor([r.score for r in row])
            assert torch.equal(scored, scored.sort(descending=True).values)
            torch.testing.assert_close(scored, wanted[torch.tensor(ids) - 1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "seen"),
    [
        ({}, False),
        ({"repeatable": True}, True),
        ({"eval_exclude_history": False}, True),
        ({"repeatable": True, "eval_exclude_history": True}, False),
    ],
)
def test_seen_items_are_recommended_as_the_run_was_measured(changes, seen, trained, tmp_path):
    recommender = Recommender.load(trained("SASRec", **changes))
    recommender.save_pretrained(tmp_path / "packed")
    for one in (recommender, Recommender.load(tmp_path / "packed")):
        ids = {r.id for r in one.recommend([["i3", "i4"]], k=24)[0]}
        assert len(ids) == (24 if seen else 22)
        assert {"i3", "i4"} <= ids if seen else not {"i3", "i4"} & ids
        for exclude, count in ((True, 22), (False, 24)):
            assert len(one.recommend([["i3", "i4"]], k=24, exclude_seen=exclude)[0]) == count


@pytest.mark.parametrize("name, runtime", [("prefix", "onnx"), ("SASRec", "torch")])
def test_the_runtime_is_chosen_by_the_model(name, runtime, folder_of):
    recommender = Recommender.load(folder_of(name))
    recommender.warm_up(2)
    assert recommender.runtime.name == runtime
    histories = [[3], [5, 1, 2], list(range(1, 20))]
    found = recommender.score(histories)
    assert np.isneginf(found[:, 0]).all()
    expected = TorchRuntime(recommender.model).scores(histories)
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=1e-5)


def test_the_folder_needs_neither_data_nor_language_models(folder, monkeypatch):
    content = json.loads((folder / "config.json").read_text())
    for key in ("data_path", "item_llm", "rec_llm", "item_embedding_cache_dir"):
        content["settings"][key] = "/nowhere/at/all"
    (folder / "config.json").write_text(json.dumps(content))
    for other in ("last-000001.pt", "last-000001.safetensors"):
        (folder / other).unlink()
    (row,) = Recommender.load(folder).recommend([["i3", "i4"]], k=3)
    assert len(row) == 3


def test_titles_are_those_of_the_item_file(recommender):
    (row,) = recommender.recommend([["i1"]], k=23)
    assert {r.id: r.title for r in row}["i10"] == "story eye 10"
    assert "i1" not in {r.id for r in row}


def test_candidates_are_ranked_as_in_the_whole_list(recommender):
    (whole,) = recommender.recommend([["i3", "i4"]], k=24, exclude_seen=False)
    wanted = {"i7", "i4", "i20", "i0"}
    (few,) = recommender.recommend(
        [["i3", "i4"]], exclude_seen=False, candidates=["i20", "i7", "i4", "i0", "i7"]
    )
    assert few == [r for r in whole if r.id in wanted]
    (unseen,) = recommender.recommend([["i3", "i4"]], candidates=list(wanted))
    assert unseen == [r for r in few if r.id != "i4"]


def test_everything_seen_leaves_nothing(recommender):
    everything = [f"i{n}" for n in range(24)]
    assert recommender.recommend([everything]) == [[]]


def test_unknown_ids_are_left_out_with_a_warning_or_refused(recommender):
    with pytest.warns(UnknownItemWarning, match=r"1 id not in the catalogue \('nope'\)"):
        found = recommender.recommend([["i3", "nope", "i4"], ["i5"]])
    assert found == recommender.recommend([["i3", "i4"], ["i5"]])
    with pytest.raises(RequestError, match=r"history 1: 2 ids not in the catalogue \('a', 'b'\)"):
        recommender.recommend([["i3"], ["a", "b", "a"]], unknown="error")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            {"histories": [["i3"], []], "no_history": "error"},
            "history 1 is empty; give at least one known item",
        ),
        (
            {"histories": [["x"]], "no_history": "error"},
            r"history 0 has no known item: 1 id not in the catalogue \('x'\)",
        ),
        ({"histories": [["i3"], [None]]}, "history 1: an id is missing"),
        ({"histories": [["i3"], {"a": 1}]}, "history 1 must be a list of ids"),
        ({"no_history": "none"}, "no_history must be one of empty, popular, error, found 'none'"),
        ({"batch_size": 0}, "batch_size must be a whole number from 1 on, found 0"),
        ({"batch_size": -1}, "batch_size must be a whole number from 1 on, found -1"),
        ({"candidates": [["i3"], ["i4"]]}, "candidates: 2 lists for 1 histories; give one list"),
        ({"candidates": [["i99"]]}, r"candidates: 1 id not in the catalogue \('i99'\)"),
        (
            {"histories": ["i3", "i4"]},
            r"history 0 is 'i3', not a list of ids; .* write \[\[...\]\]",
        ),
        ({"histories": "i3"}, "histories must be a list of ids"),
        ({"k": 25}, r"k must be a whole number from 1 to 24 \(the number of items .* found 25"),
        ({"k": 0}, "found 0"),
        ({"k": True}, "found True"),
        ({"k": 2.0}, "found 2.0"),
        ({"candidates": ["i3", "i99"]}, r"candidates: 1 id not in the catalogue \('i99'\)"),
        ({"candidates": []}, "candidates: the list is empty"),
        ({"candidates": "i3"}, "candidates must be a list of ids, found 'i3'"),
        ({"unknown": "ignore"}, "unknown must be one of warn, error, found 'ignore'"),
    ],
)
def test_what_cannot_be_answered(arguments, message, recommender):
    with pytest.raises(RequestError, match=message):
        recommender.recommend(**{"histories": [["i3"]], **arguments})


def test_what_notebooks_hold(recommender):
    rows = [["i3", "i4"], ["i5"]]
    expected = recommender.recommend(rows, k=3, candidates=["i6", "i7", "i8"])
    for histories in (
        [np.array(row) for row in rows],
        pd.Series(rows),
        iter([tuple(row) for row in rows]),
        [[b"i3", np.str_("i4")], pd.Series(["i5"])],
    ):
        candidates = pd.Series(["i6", "i7", "i8"])
        found = recommender.recommend(histories, np.int64(3), True, candidates, batch_size=1)
        assert [[r.id for r in row] for row in found] == [[r.id for r in row] for row in expected]


def test_candidates_of_each_user(recommender):
    rows, candidates = [["i3", "i4"], [], ["i5"]], [["i6", "i3"], ["i7"], np.array(["i8", "i9"])]
    with_seen = recommender.recommend(rows, k=2, exclude_seen=False, candidates=candidates)
    assert [{r.id for r in row} for row in with_seen] == [{"i6", "i3"}, set(), {"i8", "i9"}]
    found = recommender.recommend(rows, k=2, candidates=candidates, no_history="popular")
    assert [{r.id for r in row} for row in found] == [{"i6"}, {"i7"}, {"i8", "i9"}]
    alone = recommender.recommend([rows[2]], k=2, candidates=candidates[2])
    assert [r.id for r in found[2]] == [r.id for r in alone[0]]
    assert [r.score for r in found[2]] == pytest.approx([r.score for r in alone[0]], abs=1e-5)


def test_users_without_a_known_item(recommender, folder_of):
    """One of them costs the others nothing; popularity is that of the data."""
    with pytest.warns(UnknownItemWarning, match="'x'"):
        empty = recommender.recommend([["i3"], [], ["x"]], k=4)
    assert [len(row) for row in empty] == [4, 0, 0]
    _, _, dataset, *_, loader = load_data_and_model(folder_of("paper"))
    items = loader._dataset.inter_feat.store.columns[dataset.iid_field].numpy()
    counts = np.bincount(items, minlength=25)
    _, popular = recommender.recommend([["i3"], []], k=4, no_history="popular")
    assert [r.score for r in popular] == sorted(counts, reverse=True)[:4]
    places = dataset.token2id(dataset.iid_field, np.array([r.id for r in popular]))
    assert [r.score for r in popular] == counts[places].tolist()


def test_a_folder_without_counts(folder):
    lines = [json.loads(line) for line in (folder / "items.jsonl").read_text().splitlines()]
    assert all(line.pop("count") > 0 for line in lines)
    (folder / "items.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    recommender = Recommender.load(folder)
    assert recommender.recommend([[]]) == [[]]
    with pytest.raises(RequestError, match=r"does not say how often .* pack --model="):
        recommender.recommend([[]], no_history="popular")


# -- folders ----------------------------------------------------------------------------------


def test_folders_that_are_no_models(tmp_path, folder):
    with pytest.raises(CheckpointError, match=r"absent: no such folder; give the folder of a fin"):
        Recommender.load(tmp_path / "absent")
    with pytest.raises(CheckpointError, match="a file, not a folder"):
        Recommender.load(folder / "config.json")
    with pytest.raises(CheckpointError, match=r"no checkpoint here \(config.json is missing\)"):
        Recommender.load(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')  # a language model's
    with pytest.raises(
        CheckpointError, match="not the settings of a run: it needs model, dataset, settings"
    ):
        Recommender.load(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="not the settings of a run"):
        Recommender.load(tmp_path)


def change(folder, edit):
    path = folder / "config.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def test_a_newer_format_is_refused(folder):
    change(folder, lambda c: c["recommender"].update(format_version=2, recbole_lite="9.0"))
    with pytest.raises(
        CheckpointError, match=r"format version 2, written by recbole-lite 9\.0.*up"
    ):
        Recommender.load(folder)
    change(folder, lambda c: c["recommender"].update(format_version="x"))
    with pytest.raises(CheckpointError, match="format version 'x'; is it damaged"):
        Recommender.load(folder)


def test_damaged_files_are_named(folder):
    weights = folder / "best.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-50])
    with pytest.raises(CheckpointError, match=r"best\.safetensors: cannot be read"):
        Recommender.load(folder)
    weights.unlink()
    with pytest.raises(CheckpointError, match=r"best\.safetensors: no such file"):
        Recommender.load(folder)
    weights.write_bytes(whole)
    items = folder / "items.jsonl"
    lines = items.read_text().splitlines(keepends=True)
    items.write_text("".join([*lines[:4], '{"id": "i9"\n', *lines[5:]]))
    with pytest.raises(
        CheckpointError, match=r"items\.jsonl, line 5: not an object with id, title"
    ):
        Recommender.load(folder)
    items.write_text("".join([*lines[:4], lines[3], *lines[5:]]))
    with pytest.raises(CheckpointError, match=r"items\.jsonl: item id 'i\d+' occurs twice"):
        Recommender.load(folder)
    items.write_text("".join(lines[:-1]))
    with pytest.raises(CheckpointError, match=r"has shape \[24, 16\], the model's is \[23, 16\]"):
        Recommender.load(folder)
    items.write_bytes(b"\xff\xfe")
    with pytest.raises(CheckpointError, match=r"items\.jsonl: cannot be read"):
        Recommender.load(folder)


def test_settings_that_describe_no_model(folder):
    change(folder, lambda c: c["settings"].pop("MAX_ITEM_LIST_LENGTH"))
    with pytest.raises(CheckpointError, match="its settings do not describe a LiteLLM4Rec"):
        Recommender.load(folder)


def test_a_folder_from_before_a_setting_existed(folder, recommender):
    path = folder / "config.json"
    content = json.loads(path.read_text())
    for key in ("item_adapter", "tie_head", "user_dropout"):  # at their defaults in the run
        del content["settings"][key]
    path.write_text(json.dumps(content))
    assert Recommender.load(folder).recommend([["i3"]]) == recommender.recommend([["i3"]])


def test_weights_that_are_no_numbers(folder):
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "best.safetensors")
    tensors["head.weight"][0, 0] = float("nan")
    save_file(tensors, folder / "best.safetensors")
    with pytest.raises(CheckpointError, match=r"head\.weight holds NaN or infinity"):
        Recommender.load(folder)


def test_weights_newer_than_their_description(folder):
    change(folder, lambda c: c["recommender"].update(epoch=7))
    with pytest.raises(CheckpointError, match=r"description of 7; type: recbole-lite pack --model"):
        Recommender.load(folder)


def test_a_run_that_has_not_ended(folder):
    change(folder, lambda c: c.pop("recommender"))
    with pytest.raises(CheckpointError, match=r"has not ended.*recbole-lite pack --model="):
        Recommender.load(folder)


def test_models_that_cannot(trained):
    with pytest.raises(CheckpointError, match="Pop cannot recommend from a list of items alone"):
        Recommender.load(trained("Pop"))


# -- Hugging Face's way -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["paper", "prefix", "full", "SASRec"])
def test_save_pretrained_and_back(name, folder_of, tmp_path):
    first = Recommender.load(folder_of(name))
    first.save_pretrained(tmp_path / "packed")
    names = sorted(path.name for path in (tmp_path / "packed").iterdir())
    assert names == ["README.md", "config.json", "items.jsonl", "model.safetensors"]
    assert len({path.stat().st_mode for path in (tmp_path / "packed").iterdir()}) == 1
    second = Recommender.from_pretrained(tmp_path / "packed")
    histories = [["i3", "i4"], [f"i{n}" for n in range(12)]]
    assert second.recommend(histories) == first.recommend(histories)
    assert str(tmp_path.parent) not in (tmp_path / "packed/config.json").read_text().replace(
        json.dumps(first._bundle.settings.get("item_llm")), ""
    )
    second.save_pretrained(tmp_path / "again")
    for file in names:
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / "packed" / file).read_bytes()


def test_another_model_brings_its_own_card(folder_of, tmp_path):
    card = tmp_path / "README.md"
    for name, edited in (("SASRec", False), ("SASRec", True), ("GRU4Rec", False)):
        Recommender.load(folder_of(name)).save_pretrained(tmp_path)
        assert ("edited by hand" in card.read_text()) == edited
        assert f"# {name}-tiny" in card.read_text()
        card.write_text(card.read_text() + "edited by hand")


def test_a_run_is_not_overwritten(recommender, folder):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(RequestError, match="the folder of a run; give another one"):
        recommender.save_pretrained(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_the_weights_are_not_copied(recommender):
    """huggingface_hub keeps a copy of arguments that are data classes, unless told not to."""
    assert recommender._hub_mixin_config == {}


def test_the_model_card_states_data_protocol_and_metrics(recommender, tmp_path):
    from huggingface_hub import ModelCard

    recommender.save_pretrained(tmp_path / "packed")
    card = ModelCard.load(tmp_path / "packed" / "README.md")
    results = recommender.about["results"]
    assert card.data.library_name == "recbole-lite"
    measured = {r.metric_type: r.metric_value for r in card.data.eval_results}
    assert measured == {m: round(float(v), 6) for m, v in results["test"].items()}
    assert "30 users, 24 items" in card.text
    assert "Leave-one-out" in card.text
    assert "excluding the items of the user's history" in card.text
    assert f"{results['valid']['ndcg@5']:.4f}" in card.text


def test_a_name_that_is_neither_folder_nor_on_the_hub():
    with pytest.raises(CheckpointError, match="neither a local folder nor available on the Hugg"):
        Recommender.from_pretrained("nobody/nothing", local_files_only=True)
