"""New items by their texts: the ridge regression, and what add_items makes of it."""

import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from sentence_transformers.sentence_transformer.modules import Dense, Normalize
from sklearn.linear_model import Ridge as SklearnRidge
from tiny_llms import save_recipe

from recbole_lite import Recommender
from recbole_lite.inference.new_item_calibration import MAX_FACTOR, calibrate, sample_histories
from recbole_lite.inference.ridge import PENALTIES, fit_ridge
from recbole_lite.utils.errors import RecboleLiteError, RequestError

RNG = np.random.default_rng(3)


def test_ridge_minimises_the_left_out_error():
    """Against scikit-learn, fitted once for each row left out."""
    x = RNG.normal(size=(25, 6)) @ RNG.normal(size=(6, 6))
    y = x @ RNG.normal(size=(6, 3)) + 2.0 * RNG.normal(size=(25, 3)) + 5.0
    fit = fit_ridge(x, y)
    unit = np.linalg.eigvalsh((x - x.mean(0)).T @ (x - x.mean(0))).mean()

    def left_out(penalty):
        total = 0.0
        for i in range(25):
            rest = np.arange(25) != i
            model = SklearnRidge(penalty).fit(x[rest], y[rest])
            total += ((model.predict(x[i : i + 1]) - y[i]) ** 2).sum()
        return total

    errors = [left_out(p * unit) for p in PENALTIES]
    assert fit.model.alpha_ == pytest.approx(PENALTIES[int(np.argmin(errors))] * unit)
    total = sum(((y[i] - y[np.arange(25) != i].mean(0)) ** 2).sum() for i in range(25))
    assert fit.r2 == pytest.approx(1 - min(errors) / total)
    rest = np.arange(25) != 4
    without = SklearnRidge(fit.model.alpha_).fit(x[rest], y[rest])
    np.testing.assert_allclose(fit.left_out[4:5], without.predict(x[4:5]), atol=1e-8)
    expected = SklearnRidge(fit.model.alpha_).fit(x, y)
    np.testing.assert_allclose(fit(x), expected.predict(x), atol=1e-8)


def test_ridge_on_fewer_rows_than_features_and_on_noise():
    x, y = RNG.normal(size=(12, 40)), RNG.normal(size=(12, 2))
    assert fit_ridge(x, y).r2 < 0.2  # nothing to find, and the penalty says so
    with pytest.raises(ValueError, match="at least 3 rows"):
        fit_ridge(x[:2], y[:2])


PREFIX = {"item_llm_training": "embeddings", "item_vector_norm": "unit"}


@pytest.mark.parametrize("adapter", ["linear", "pca"])
def test_a_text_that_is_known_gets_the_known_input_vector(adapter, trained):
    """With frozen vectors the input of a new item is exact, whatever its head row."""
    settings = {"item_vector_norm": "standardize", "item_adapter": adapter}
    sizes = {"d_model": 8, "d_kv": 4, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    settings["rec_llm_config"] = sizes
    recommender = Recommender.load(trained("LiteLLM4Rec", **settings))
    texts = recommender.catalogue.texts
    assert recommender.add_items([texts[4], {"id": "x", "title": "X", "text": texts[9]}]) == [
        "new-1",
        "x",
    ]
    vectors = recommender.model.item_tower.vectors
    torch.testing.assert_close(vectors[25:], vectors[[4, 9]], atol=1e-5, rtol=1e-5)
    ids = recommender.catalogue.ids
    (old,), (new,) = (recommender.recommend([[i]], k=26, exclude_seen=False) for i in (ids[9], "x"))
    assert [r.id for r in old] == [r.id for r in new]
    assert {"new-1", "x"} <= {r.id for r in old}
    assert {r.id: r.title for r in old}["x"] == "X"


def test_new_items_follow_the_recipe_of_training(trained, llm_folders, tmp_path):
    layers = [lambda size: (Dense(size, 8), 8), lambda size: (Normalize(), size)]
    options = {"prompts": {"p": "toy "}, "default": "p", "pooling_mode": "lasttoken"}
    folder = save_recipe(tmp_path / "own", llm_folders["bert"], layers, **options)
    recommender = Recommender.load(trained("LiteLLM4Rec", item_llm=str(folder)))
    recommender.add_items([recommender.catalogue.texts[4]])
    vectors = recommender.model.item_tower.vectors
    assert vectors.shape == (26, 8)
    torch.testing.assert_close(vectors[25], vectors[4], atol=1e-5, rtol=1e-5)


def test_a_tied_head_scores_a_known_text_as_its_item(trained):
    recommender = Recommender.load(trained("LiteLLM4Rec", tie_head=True))
    recommender.add_items([{"id": "x", "text": recommender.catalogue.texts[9]}])
    (row,) = recommender.recommend([["i3", "i4"]], k=25, exclude_seen=False)
    scores = {r.id: r.score for r in row}
    assert scores["x"] == pytest.approx(scores[recommender.catalogue.ids[9]], abs=1e-5)


def test_head_rows_are_those_of_the_regression(trained):
    recommender = Recommender.load(trained("LiteLLM4Rec", **PREFIX))
    before = recommender.recommend([["i3"], ["i5", "i6"]], k=24, exclude_seen=False)
    text = "title: toy story, genre: comedy"
    recommender.add_items([text])
    new = recommender._new_items
    x = new.encode([text])
    mean = recommender.model.head.weight[:24].mean(0).numpy()
    row = mean + new.calibration * (new.head_ridge(x) - mean)
    np.testing.assert_allclose(recommender.model.head.weight[-1:], row, atol=1e-5)
    expected = x + new.input_ridge(x)
    np.testing.assert_allclose(recommender.model.item_tower.vectors[-1:], expected, atol=1e-5)
    after = recommender.recommend([["i3"], ["i5", "i6"]], k=25, exclude_seen=False)
    for old, now in zip(before, after, strict=True):  # the others keep their scores
        kept = {r.id: r.score for r in now if r.id != "new-1"}
        assert kept == pytest.approx({r.id: r.score for r in old}, abs=1e-5)
    assert len(recommender.recommend([["new-1"]])[0]) == 10


class PlainScores(torch.nn.Module):
    """Scores are products of rows with a fixed vector for each item that a history ends with."""

    ITEM_SEQ, ITEM_SEQ_LEN, max_seq_length, rec_llm = "items", "lengths", 5, None

    def __init__(self, rows):
        super().__init__()
        self.head = torch.nn.Linear(rows.shape[1], len(rows), bias=False)
        self.head.weight.data, self.n_items = rows, len(rows) + 1

    def forward(self, items, lengths):
        return self.head.weight[items.gather(1, lengths[:, None] - 1)[:, 0] - 1]

    def full_sort_predict(self, batch):
        users = self(batch["items"], batch["lengths"])
        return torch.nn.functional.pad(users @ self.head.weight.T, (1, 0))


def test_calibration_undoes_shrinking():
    """Twins that are the rows, drawn to a third of their distance from the mean, need factor 3."""
    rows = torch.randn(400, 6, generator=torch.Generator().manual_seed(5)) + 1.0
    twins = rows.mean(0) + (rows - rows.mean(0)) / 3
    found = calibrate(PlainScores(rows), torch.arange(1, 401), twins)
    assert found == pytest.approx(3.0, rel=0.1)
    assert calibrate(PlainScores(rows), torch.arange(1, 401), rows) == pytest.approx(1, abs=0.1)
    nowhere = rows.mean(0).expand_as(rows)  # no distance to scale
    assert calibrate(PlainScores(rows), torch.arange(1, 401), nowhere) == MAX_FACTOR


def test_histories_are_drawn_from_the_model():
    rows = torch.randn(30, 4, generator=torch.Generator().manual_seed(5))
    ids = list(range(2, 31))  # item 1 has no text
    histories = sample_histories(PlainScores(rows), ids, torch.Generator().manual_seed(0))
    assert len(histories) == 29
    assert all(len(set(history)) == 5 for history in histories)
    assert all(1 <= item <= 30 for history in histories for item in history)
    again = sample_histories(PlainScores(rows), ids, torch.Generator().manual_seed(0))
    assert histories == again


def test_added_items_are_saved_and_more_can_follow(trained, tmp_path):
    first = Recommender.load(trained("LiteLLM4Rec", **PREFIX))
    first.add_items(["toy story"])
    first.save_pretrained(tmp_path / "packed")
    second = Recommender.load(tmp_path / "packed")
    assert (first.runtime.name, second.runtime.name) == ("torch", "onnx")
    (found,), (expected,) = (r.recommend([["i3", "new-1"]]) for r in (second, first))
    assert [r.id for r in found] == [r.id for r in expected]
    assert [r.score for r in found] == pytest.approx([r.score for r in expected], abs=1e-5)
    assert "1 items were added after training" in (tmp_path / "packed/README.md").read_text()
    for recommender in (first, second):
        assert recommender.add_items(["golden eye", {"text": "four rooms", "id": 7}]) == [
            "new-2",
            "7",
        ]
    found, expected = (r.recommend([["7", "i1"]], k=27) for r in (second, first))
    assert [r.id for r in found[0]] == [r.id for r in expected[0]]


@pytest.mark.parametrize(
    "items, message",
    [
        ([], "items must be a list of texts or mappings"),
        ("toy story", "items must be a list of texts or mappings, found 'toy story'"),
        (["toy", " "], "item 1: its text must not be ' '"),
        ([{"title": "toy"}], "item 0: its text must be a text, found None"),
        ([("q", "toy")], "item 0: give its text, or a mapping"),
        ([{"text": "toy", "id": None}], "item 0: an id is missing"),
        ([{"text": "toy", "id": float("nan")}], "item 0: an id is missing"),
        ([{"text": "toy", "id": ""}], "item 0: an id must not be ''"),
        ([{"text": "toy", "id": "[PAD]"}], r"item 0: an id must not be '\[PAD\]'"),
        ([{"text": "bad \ud800"}], "item 0: its text is not valid Unicode"),
        ([{"text": "toy", "title": "bad \ud800"}], "item 0: its title is not valid Unicode"),
        (7, "items must be a list of texts or mappings, found 7"),
        ([{"text": "toy", "year": 1999}], "item 0: give its text, or a mapping with text, id and"),
        ([{"text": "toy", "id": "i3"}], "item 0: the id 'i3' is taken"),
        (["a", {"text": "toy", "id": "new-1"}], "item 1: the id 'new-1' is taken"),
    ],
)
def test_items_that_cannot_be_added(items, message, trained):
    recommender = Recommender.load(trained("LiteLLM4Rec", **PREFIX))
    with pytest.raises(RequestError, match=message):
        recommender.add_items(items)
    assert len(recommender.catalogue) == 24


def test_tables_and_numbers_name_new_items(trained):
    recommender = Recommender.load(trained("LiteLLM4Rec", **PREFIX))
    table = pd.DataFrame({"id": [901, 902], "text": ["toy", "story"], "title": ["Toy", None]})
    assert recommender.add_items(table) == ["901", "902"]
    assert recommender.catalogue.titles[-2:] == ["Toy", "story"]
    assert recommender.add_items(({"id": np.int64(7), "text": "rooms"},)) == ["7"]
    assert recommender.recommend([np.array([901, 7])], k=1)


def test_models_that_cannot_take_new_items(trained, tmp_path):
    with pytest.raises(RequestError, match="SASRec identifies items by id only"):
        Recommender.load(trained("SASRec")).add_items(["toy"])
    full = trained("LiteLLM4Rec", item_llm_training="full", item_vector_norm="unit")
    with pytest.raises(RequestError, match="the folder keeps only the vectors of its items"):
        Recommender.load(full).add_items(["toy"])
    folder = shutil.copytree(trained("LiteLLM4Rec", **PREFIX), tmp_path / "model")
    config = folder / "config.json"
    text = config.read_text()
    name = Recommender.load(folder)._bundle.settings["item_llm"]
    config.write_text(text.replace(name, "/nowhere/bert"))
    with pytest.raises(RecboleLiteError, match="'/nowhere/bert': no such directory"):
        Recommender.load(folder).add_items(["toy"])


def test_another_item_llm_than_in_training_is_noticed(trained, llm_folders, tmp_path):
    folder = trained("LiteLLM4Rec", item_vector_norm="unit")
    recommender = Recommender.load(folder)
    recommender._bundle.settings["item_llm"] = str(llm_folders["roberta"])
    with pytest.raises(RequestError, match="gives other vectors here than in training"):
        recommender.add_items(["toy"])
