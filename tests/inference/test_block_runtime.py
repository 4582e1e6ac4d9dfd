"""Top items by blocks and from an index against the scores of all items at once."""

import sys

import numpy as np
import pytest
import torch
from built_models import HISTORIES, build

from recbole_lite import Recommender
from recbole_lite.inference import block_runtime, item_index
from recbole_lite.inference.block_runtime import BlockRuntime, IndexRuntime
from recbole_lite.inference.torch_runtime import TorchRuntime
from recbole_lite.utils.errors import CheckpointError, MissingDependencyError, RequestError

EXCLUDED = [[3], [], [7, 8, 9, 10, 11], [4, 6, 1, 2, 3, 5], list(range(1, 20))]
CANDIDATES = np.array([21, 2, 3, 9, 7, 8, 24])


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(block_runtime, "ITEMS_AT_ONCE", 5)


def assert_same(found, wanted):
    np.testing.assert_array_equal(found[0], wanted[0])
    np.testing.assert_allclose(found[1], wanted[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["ItemLM, gpt2", "ItemLM, t5", "gpt2, tied", "t5"])
def test_blocks_rank_as_all_scores(config_for, kind):
    model = build(config_for, kind)
    scores = TorchRuntime(model).scores(HISTORIES)
    ranked = [
        TorchRuntime(model).rank(HISTORIES, *rest)
        for rest in ((7, EXCLUDED), (7, EXCLUDED, CANDIDATES), (99,))
    ]
    runtime = BlockRuntime(model)
    np.testing.assert_allclose(runtime.scores(HISTORIES), scores, rtol=1e-4, atol=1e-5)
    assert_same(runtime.rank(HISTORIES, 7, EXCLUDED), ranked[0])
    assert_same(runtime.rank(HISTORIES, 7, EXCLUDED, CANDIDATES), ranked[1])
    assert_same(runtime.rank(HISTORIES, 99), ranked[2])


def test_items_are_kept_in_half_the_memory(config_for):
    model = build(config_for, "ItemLM, gpt2")
    table = model.items.weight.detach().bfloat16().float()
    runtime = BlockRuntime(model, "bfloat16")
    assert runtime.head.dtype == torch.bfloat16
    assert runtime.head.data_ptr() == model.items.weight[1:].data_ptr()  # one table
    users = runtime.users(HISTORIES)
    wanted = users @ table[1:].T
    np.testing.assert_allclose(runtime.scores(HISTORIES)[:, 1:], wanted, rtol=1e-5, atol=1e-6)


def test_the_index_leaves_exclusions_and_candidates_exact(config_for, tmp_path, monkeypatch):
    pytest.importorskip("faiss")
    model = build(config_for, "ItemLM, gpt2")
    wanted = [
        TorchRuntime(model).rank(HISTORIES, *rest)
        for rest in ((4, EXCLUDED), (9, EXCLUDED), (4, EXCLUDED, CANDIDATES))
    ]
    path = tmp_path / "items.faiss"
    for _ in range(2):  # made, then read
        runtime = IndexRuntime(model, path)
        assert_same(runtime.rank(HISTORIES, 4, EXCLUDED), wanted[0])
    searched = item_index.search

    def few(index, users, k):  # an index that misses all but the best two
        found = searched(index, users, k)
        found[:, 2:] = -1
        return found

    monkeypatch.setattr(item_index, "search", few)
    assert_same(runtime.rank(HISTORIES, 9, EXCLUDED), wanted[1])
    assert_same(runtime.rank(HISTORIES, 4, EXCLUDED, CANDIDATES), wanted[2])
    with pytest.raises(CheckpointError, match=r"it is another model's; delete it"):
        item_index.open_index(path, (30, 16), lambda: ())
    path.write_bytes(b"no index")
    with pytest.raises(CheckpointError, match="damaged"):
        item_index.open_index(path, (24, 16), lambda: ())


def test_lists_that_are_all_searched_find_the_best(tmp_path, monkeypatch):
    pytest.importorskip("faiss")
    monkeypatch.setattr(item_index, "_FEWEST", 100)
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(1100, 8)).astype(np.float16).astype(np.float32)
    users = rng.normal(size=(5, 8)).astype(np.float32)
    index = item_index.open_index(
        tmp_path / "items.faiss", vectors.shape, lambda: (vectors[:600], vectors[600:])
    )
    assert index.nlist == 32
    monkeypatch.setattr(item_index, "_FEWEST_LISTS", 32)
    wanted = np.argsort(-(users @ vectors.T), axis=1)[:, :10]
    np.testing.assert_array_equal(item_index.search(index, users, 10), wanted)


def test_recommender_ranks_by_blocks_and_by_index(trained, monkeypatch):
    folder = trained("ItemLM")
    histories = [["i1", "i2"], ["i5"]]
    plain = Recommender.load(folder, runtime="torch").recommend(histories, 5)
    for runtime in ("blocks", "ann"):
        recommender = Recommender.load(folder, runtime=runtime)
        assert recommender.runtime.name == runtime
        found = recommender.recommend(histories, 5)
        assert [[one.id for one in row] for row in found] == [
            [one.id for one in row] for row in plain
        ]
        own = recommender.recommend(histories, 2, candidates=[["i3", "i9"], ["i4", "i7"]])
        assert [sorted(one.id for one in row) for row in own] == [["i3", "i9"], ["i4", "i7"]]
        with pytest.raises(RequestError, match=f"add_items: not with runtime {runtime}"):
            recommender.add_items(["a text"])
    assert Recommender.load(folder, item_dtype="float16").runtime.name == "blocks"
    with pytest.raises(RequestError, match="item_dtype must be one of"):
        Recommender.load(folder, item_dtype="int8")
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'recbole-lite\[ann\]'"):
        Recommender.load(folder, runtime="ann")


def test_other_models_have_no_blocks(trained):
    with pytest.raises(RequestError, match="runtime: blocks ranks LiteLLM4Rec and ItemLM"):
        Recommender.load(trained("SASRec"), runtime="blocks")
