"""Stable sorting against NumPy's."""

import numpy as np
import pytest

from recbole_lite.data import stable_order as stable_order_module
from recbole_lite.data.stable_order import by_appearance, counts_of, stable_order


@pytest.mark.parametrize("kind", [np.int8, np.int32, np.int64, np.float64])
@pytest.mark.parametrize("size", [0, 1, 1000, 70_000])  # torch sorts many rows in another way
def test_order_is_that_of_lexsort(size, kind):
    rng = np.random.default_rng(0)
    first, second = rng.integers(-50, 50, size), rng.integers(-50, 50, size).astype(kind)
    expected = np.lexsort((second, first))
    np.testing.assert_array_equal(stable_order(first, second), expected)
    np.testing.assert_array_equal(stable_order(second), np.argsort(second, kind="stable"))


def test_large_numbers_are_compared_exactly():
    times = np.array([2**53 + 1, 2**53, -(2**62), 2**62])
    assert stable_order(times).tolist() == [2, 1, 0, 3]
    assert stable_order(np.array([1, 0, 0, 0]), times).tolist() == [2, 1, 3, 0]
    assert stable_order(np.array([0.5, -0.0, 0.0, -1e300])).tolist() == [3, 1, 2, 0]


def test_codes_by_first_appearance():
    assert by_appearance(np.array([3, -1, 1, 3, 0, 1]), 5).tolist() == [3, 1, 0]
    assert by_appearance(np.array([-1, -1], dtype=np.int8), 2).tolist() == []
    assert by_appearance(np.array([], dtype=np.int64), 2).tolist() == []
    assert by_appearance(np.array([-1, 0, 1, -1, 0, 2]), 4).tolist() == [0, 1, 2]
    assert by_appearance(np.array([-1, 127, 0], dtype=np.int8), 128).tolist() == [127, 0]


def test_parts_of_the_first_key_give_the_order_of_the_whole(monkeypatch):
    rng = np.random.default_rng(1)
    keys = rng.integers(0, 40, 500).astype(np.int32), rng.random(500)
    wanted = np.lexsort(keys[::-1])
    monkeypatch.setattr(stable_order_module, "_AT_ONCE", 64)
    np.testing.assert_array_equal(stable_order(*keys), wanted)
    np.testing.assert_array_equal(counts_of(keys[0], 41), np.bincount(keys[0], minlength=41))
