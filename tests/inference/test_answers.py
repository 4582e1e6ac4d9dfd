"""Filters, exclusion, diversity, explanations, similar items and vectors of `Recommender`."""

import csv
import json
import runpy
from pathlib import Path

import numpy as np
import pytest
from tiny_data import GENRES

from recbole_lite import Recommender
from recbole_lite.inference.item_filters import ItemFilters
from recbole_lite.inference.reranking import diverse
from recbole_lite.utils.errors import RequestError

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "vector_index.py"
HISTORIES = [["i3", "i4", "i3"], ["i7"], [f"i{n}" for n in range(12)]]


def genres(i):
    return {GENRES[i % 4], GENRES[(i + 1) % 3]}


@pytest.fixture
def recommender(trained):
    return Recommender.load(trained("LiteLLM4Rec", item_vector_norm="standardize"))


def number(one):
    return int(one.id[1:])


@pytest.mark.parametrize(
    "where, holds",
    [
        ({"genre": "comedy"}, lambda i: "comedy" in genres(i)),
        ({"genre": ["comedy", "thriller"]}, lambda i: genres(i) & {"comedy", "thriller"}),
        ({"year": {"gte": 1991, "lt": 1994}}, lambda i: 1991 <= 1990 + i % 5 < 1994),
        ({"year": 1992, "genre": "action"}, lambda i: i % 5 == 2 and "action" in genres(i)),
        ({"year": {"gt": 1994}}, lambda i: False),
    ],
)
def test_filters_keep_what_holds(where, holds, recommender):
    rows = recommender.recommend(HISTORIES, 24, where=where)
    for row, whole in zip(rows, recommender.recommend(HISTORIES, 24), strict=True):
        wanted = [one for one in whole if holds(number(one))]
        assert [one.id for one in row] == [one.id for one in wanted]
        assert [one.score for one in row] == pytest.approx([one.score for one in wanted], abs=1e-5)


def test_filters_candidates_exclusion_and_popular_items_together(recommender):
    candidates = [["i1", "i2"], ["i5", "i9"], ["i1"], ["i0", "i6", "i10"]]
    rows = recommender.recommend(
        [*HISTORIES, []],
        candidates=candidates,
        where={"year": {"lte": 1991}},
        exclude=["i6", "absent"],
        no_history="popular",
    )
    assert [{one.id for one in row} for row in rows] == [{"i1"}, {"i5"}, set(), {"i0", "i10"}]
    (row,) = recommender.recommend([["i3"]], 24, exclude=[["i5", "i6"]])
    assert len(row) == 21
    with pytest.raises(RequestError, match="exclude: 2 lists for 1 histories"):
        recommender.recommend([["i3"]], exclude=[["i5"], ["i6"]])


@pytest.mark.parametrize(
    "where, message",
    [
        ("comedy", "where maps fields to values"),
        ({}, "where maps fields to values"),
        ({"genres": "comedy"}, "no item has the field 'genres'; did you mean genre?; fields: genr"),
        ({"genre": "comedi"}, "no item has the genre 'comedi'; did you mean comedy?"),
        ({"genre": []}, "genre: the list is empty"),
        ({"genre": [None]}, "genre: values are texts or numbers, found None"),
        ({"genre": {"gte": 3}}, "genre has no numbers; give values"),
        ({"year": {"ge": 3}}, "year: comparisons are gte, gt, lte and lt, found 'ge'"),
        ({"year": {}}, "year: comparisons are gte, gt, lte and lt, found none"),
        ({"year": {"gte": "new"}}, "year: gte needs a number, found 'new'"),
        ({"year": {"gte": True}}, "year: gte needs a number, found True"),
    ],
)
def test_wrong_filters(where, message):
    filters = ItemFilters([{}, {"genre": ["c", "d"], "year": "1990"}, {"genre": "comedy"}])
    with pytest.raises(RequestError) as error:
        filters.matching(where)
    assert message in str(error.value)


def test_an_item_without_a_field_meets_no_condition():
    filters = ItemFilters([{}, {"year": 1990.5}, {}, {"year": 3}])
    assert filters.matching({"year": {"lt": 9999}}).tolist() == [False, True, False, True]
    assert filters.matching({"year": [3.0, 1990.5]}).tolist() == [False, True, False, True]
    filters = ItemFilters([{}, {"year": "1990"}, {"year": "unknown"}, {"year": "1980"}])
    assert filters.matching({"year": {"gte": 1985}}).tolist() == [False, True, False, False]


def test_maximal_marginal_relevance_by_hand():
    scores = [4.0, 3.0, 2.0, 0.0]  # relevance 1, 0.75, 0.5, 0
    vectors = np.array([[1, 0], [1, 0], [0, 1], [-1, 0]], np.float32)
    assert diverse(scores, vectors, 4, 0.0) == [0, 1, 2, 3]
    # After 0: 0.375 - 0.5, 0.25 - 0, 0 + 0.5; then: 0.375 - 0.5, 0.25 - 0.
    assert diverse(scores, vectors, 3, 0.5) == [0, 3, 2]
    assert diverse([2.0, 2.0], vectors[:2], 5, 0.5) == [0, 1]


def test_diversity(recommender):
    plain = recommender.recommend(HISTORIES, 5)
    assert recommender.recommend(HISTORIES, 5, diversity=0) == plain
    rows = recommender.recommend(HISTORIES, 5, diversity=0.7)
    vectors = recommender.item_vectors().astype(float)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    for row, left in zip(rows, recommender.recommend(HISTORIES, 24), strict=True):
        places = [recommender.catalogue.index[one.id] - 1 for one in left]
        cosines = vectors[places] @ vectors[places].T
        relevance = [
            (one.score - left[-1].score) / (left[0].score - left[-1].score) for one in left
        ]
        wanted: list[int] = []
        for _ in range(5):
            values = {
                i: 0.3 * relevance[i] - 0.7 * max((cosines[i, j] for j in wanted), default=0)
                for i in range(len(left))
                if i not in wanted
            }
            wanted.append(max(values, key=values.get))
        assert [one.id for one in row] == [left[i].id for i in wanted]
        assert wanted != [0, 1, 2, 3, 4]
    for wrong in (-0.1, 1.1, True, "much"):
        with pytest.raises(RequestError, match="diversity must be a number from 0 to 1"):
            recommender.recommend(HISTORIES, diversity=wrong)


def test_explanations_are_those_of_leaving_items_out(recommender):
    def log_probability(history, one):
        known, _ = recommender.catalogue.resolve(history)
        (scores,) = recommender.score([known]).astype(float)
        place = recommender.catalogue.index[one.id]
        return scores[place] - np.log(np.exp(scores).sum())

    rows = recommender.recommend(HISTORIES, 3, explain=True)
    plain = recommender.recommend(HISTORIES, 3)
    for history, row, before in zip(HISTORIES, rows, plain, strict=True):
        assert [tuple(one[:3]) for one in row] == [tuple(one) for one in before]
        read = history[-6:]  # MAX_ITEM_LIST_LENGTH
        for one in row:
            if len(set(read)) == 1:
                assert one.because == [(read[0], one.because[0].title, None)]
                continue
            falls = {
                item: log_probability(read, one)
                - log_probability([other for other in read if other != item], one)
                for item in set(read)
            }
            wanted = sorted(falls, key=falls.get, reverse=True)[:3]
            assert [reason.id for reason in one.because] == wanted
            effects = [reason.effect for reason in one.because]
            assert effects == pytest.approx([falls[item] for item in wanted], abs=1e-4)


COSINES = {"loss_type": "InfoNCE", "loss_exclude_history": False, "num_negatives": 5}


@pytest.mark.parametrize(
    ("model", "changes"),
    [
        ("LiteLLM4Rec", {"item_vector_norm": "standardize"}),
        ("LiteLLM4Rec", COSINES),
        *((name, {}) for name in ("ItemLM", "SASRec", "GRU4Rec", "BERT4Rec")),
    ],
)
def test_products_of_vectors_are_the_scores(model, changes, trained):
    recommender = Recommender.load(trained(model, **changes))
    scores = recommender.user_vectors(HISTORIES) @ recommender.item_vectors().T
    known = [recommender.catalogue.resolve(history)[0] for history in HISTORIES]
    recommender.item_vectors()[:] = 0  # a caller's own copy
    np.testing.assert_allclose(scores, recommender.score(known)[:, 1:], atol=1e-4)


def test_similar_items(recommender):
    for by, vectors in (
        ("trained", recommender.item_vectors()),
        ("text", recommender.model.item_tower.vectors[1:].numpy()),
    ):
        place = recommender.catalogue.index["i3"] - 1
        norms = np.linalg.norm(vectors, axis=1)
        cosines = vectors @ vectors[place] / norms / norms[place]
        cosines[place] = -np.inf
        found = recommender.similar("i3", 4, by=by)
        wanted = np.sort(cosines)[::-1][:4]
        assert [one.score for one in found] == pytest.approx(wanted, abs=1e-5)
        for one in found:
            index = recommender.catalogue.index[one.id] - 1
            assert cosines[index] == pytest.approx(one.score, abs=1e-5)
    with pytest.raises(RequestError, match=r"item: 1 id not in the catalogue \('absent'\)"):
        recommender.similar("absent")
    with pytest.raises(RequestError, match="by must be trained or text, found 'x'"):
        recommender.similar("i3", by="x")


def test_a_model_without_texts_has_no_text_vectors(trained):
    with pytest.raises(RequestError, match="the model has no vectors of texts"):
        Recommender.load(trained("SASRec")).similar("i3", by="text")


def test_summary_of_fields():
    filters = ItemFilters([{}, {"genre": ["c", "d"], "year": "1990"}, {"genre": "d"}, {"year": 3}])
    assert filters.summary() == [
        ("genre", ["d", "c"], 2, None, None),
        ("year", ["1990", "3"], 2, 3, 1990),
    ]
    assert [field.values for field in filters.summary(1)] == [["d"], ["1990"]]
    # A range where most are finite numbers: neither titles such as 1917 nor a film named Infinity.
    titles = [{}, {"title": "1917"}, {"title": "Heat"}, {"title": "Infinity"}]
    assert ItemFilters(titles).summary()[0][3:] == (None, None)
    years = [{}, {"year": "1990"}, {"year": "1995"}, {"year": "inf"}, {"genre": "d"}]
    assert ItemFilters(years).summary()[1][3:] == (1990, 1995)


def test_the_example_of_a_vector_index(trained, tmp_path, capsys):
    """Its table holds the vectors, and the largest products are the recommendations."""
    folder = trained("ItemLM")
    runpy.run_path(str(EXAMPLE))["main"](str(folder), str(tmp_path), "i3,i4")
    shown = [line.split("\t")[0] for line in capsys.readouterr().out.splitlines()]
    recommender = Recommender.load(folder)
    (expected,) = recommender.recommend([["i3", "i4"]], 5, exclude_seen=False)
    assert shown == [one.id for one in expected]
    with open(tmp_path / "items.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == recommender.catalogue.ids[1:]
    vectors = [json.loads(row["embedding"]) for row in rows]
    np.testing.assert_allclose(vectors, recommender.item_vectors(), rtol=1e-6)
