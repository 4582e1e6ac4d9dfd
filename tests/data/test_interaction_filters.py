import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_lite.data.interaction_filters import filter_by_counts, filter_interactions

pairs = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 7)), max_size=120)


def k_core(users, items, user_k, item_k):
    return filter_by_counts((users, items), (lambda n: n >= user_k, lambda n: n >= item_k))


def slow_core(rows, user_k, item_k):
    kept = list(range(len(rows)))
    while True:
        users = [rows[i][0] for i in kept]
        items = [rows[i][1] for i in kept]
        left = [
            i
            for i in kept
            if users.count(rows[i][0]) >= user_k and items.count(rows[i][1]) >= item_k
        ]
        if left == kept:
            return kept
        kept = left


@settings(max_examples=150, deadline=None)
@given(pairs, st.integers(0, 5), st.integers(0, 5))
def test_core_is_that_of_the_slow_loop(rows, user_k, item_k):
    table = np.array(rows, dtype=np.int64).reshape(-1, 2)
    mask = k_core(table[:, 0], table[:, 1], user_k, item_k)
    assert np.flatnonzero(mask).tolist() == slow_core(rows, user_k, item_k)


def test_core_needs_several_rounds():
    # a chain: dropping its end makes the next one too short, and so on
    users = np.array([0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 4])
    items = np.array([0, 1, 1, 2, 2, 3, 3, 4, 5, 5, 5])
    assert np.flatnonzero(k_core(users, items, 2, 2)).tolist() == [8, 9, 10]
    assert k_core(users, items, 4, 2).sum() == 0
    assert k_core(users[:0], items[:0], 2, 2).tolist() == []


def frame(rows):
    table = pd.DataFrame(rows, columns=["user_id", "item_id", "rating", "timestamp"])
    return table.astype({"user_id": "category", "item_id": "category"})


def test_first_in_time_stays_and_the_order_too():
    rows = [
        ("b", "x", 5, 30),
        ("a", "x", 4, 20),
        ("b", "x", 3, 10),  # the first of b and x in time
        ("a", "x", 2, 20),  # same time as row 1: the file's order decides
        ("a", "y", 1, 5),
    ]
    kept = filter_interactions(frame(rows), keep_first=True)
    assert kept["rating"].tolist() == [4, 3, 1]
    assert kept.index.tolist() == [0, 1, 2]
    untimed = filter_interactions(frame(rows).drop(columns="timestamp"), keep_first=True)
    assert untimed["rating"].tolist() == [5, 4, 1]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 3)), max_size=60))
def test_duplicates_as_in_a_loop(rows):
    table = frame([(f"u{u}", f"i{i}", 1, t) for u, i, t in rows])
    first = {}
    for number, (user, item, time) in enumerate(rows):
        if (user, item) not in first or time < rows[first[user, item]][2]:
            first[user, item] = number
    table["rating"] = range(len(table))
    kept = filter_interactions(table, keep_first=True)
    assert kept["rating"].tolist() == sorted(first.values())


def test_ratings_go_before_the_core():
    rows = [("a", "x", 5, 1), ("a", "y", 2, 2), ("b", "x", 4, 3), ("b", "y", 5, 4)]
    kept = filter_interactions(frame(rows), user_k=2, min_rating=3)
    assert kept[["user_id", "item_id"]].to_numpy().tolist() == [["b", "x"], ["b", "y"]]
    assert kept["user_id"].cat.categories.tolist() == ["b"]


@pytest.mark.parametrize("k", [0, 1])
def test_no_filter_keeps_all(k):
    rows = frame([("a", "x", 5, 1), ("a", "x", 5, 1)])
    pd.testing.assert_frame_equal(filter_interactions(rows, user_k=k, item_k=k), rows)
