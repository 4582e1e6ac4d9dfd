"""The graph in onnxruntime and the model in torch: the same scores, the same refusals."""

import numpy as np
import pytest
import torch
from built_models import HISTORIES, build, graph_of, rows_of, scores_of

from recbole_lite.inference import onnx_runtime, ranking
from recbole_lite.inference.onnx_runtime import OnnxRuntime
from recbole_lite.inference.torch_runtime import TorchRuntime
from recbole_lite.utils.errors import CheckpointError, RequestError

EXPORTED = ["t5", "t5 with a gate", "gpt2, recency", "bert", "ItemLM, llama"]


@pytest.fixture
def model(config_for):
    return build(config_for)


@pytest.fixture(params=["onnx", "torch"])
def scorer(request, model):
    return OnnxRuntime(graph_of(model, "t5"), 1) if request.param == "onnx" else TorchRuntime(model)


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", EXPORTED)
def test_scores_are_those_of_the_model(config_for, kind):
    model = build(config_for, kind)
    expected = scores_of(model, HISTORIES)
    assert expected[:, 1:].std() > 0.1  # or anything would agree
    for scorer in (OnnxRuntime(graph_of(model, kind), 1), TorchRuntime(model)):
        assert (scorer.n_items, scorer.max_length) == (25, 6)
        found = scorer.scores(HISTORIES)
        assert np.isneginf(found[:, 0]).all()
        close(found, expected)
        for row, history in enumerate(HISTORIES):
            close(scorer.scores([history]), expected[[row]])


def test_arrays_of_any_layout(model):
    """Padding behind, in front, on both sides; longer than what is read; wider than any row."""
    scorer, expected = OnnxRuntime(graph_of(model, "t5"), 1), scores_of(model, HISTORIES)
    behind = rows_of(HISTORIES, 30)
    front = np.zeros((5, 25), np.int64)
    around = np.zeros((5, 29), np.int32)
    for row, history in enumerate(HISTORIES):
        front[row, 25 - len(history) :] = history
        around[row, row + 1 : row + 1 + len(history)] = history
    for array in (behind, front, around):
        close(scorer.scores(array), expected)


def test_top_items_leave_out_what_was_seen(model, scorer):
    seen = [[3, 1], [], [7, 8, 9, 10, 11], [4, 6, 6], list(range(1, 20))]
    expected = scores_of(model, HISTORIES)
    for row, items in zip(expected, seen, strict=True):
        row[items] = -np.inf
    for k in (1, 5, 24):
        ids, scores = scorer.rank(HISTORIES, k, seen)
        order = np.argsort(-expected, axis=1, kind="stable")[:, :k]
        close(scores, np.take_along_axis(expected, order, 1))
        assert np.array_equal(ids, np.where(np.isneginf(scores), 0, order))
    assert (ids[4, 5:] == 0).all()  # 19 of 24 items were seen
    assert np.array_equal(scorer.rank(HISTORIES, 24, rows_of(seen, 30))[0], ids)


def test_top_items_among_candidates(model, scorer):
    among = np.array([20, 3, 9, 14])
    ids, scores = scorer.rank(HISTORIES, 3, None, among)
    expected = scores_of(model, HISTORIES)[:, among]
    close(scores, -np.sort(-expected, axis=1)[:, :3])
    assert np.array_equal(ids, among[np.argsort(-expected, axis=1)[:, :3]])
    ids, scores = scorer.rank([[1]], 9, [[20, 9]], among)
    assert sorted(ids[0]) == [0, 0, 3, 14]
    assert np.isneginf(scores[0, 2:]).all()


def test_more_than_there_are(scorer):
    ids, _ = scorer.rank([[1]], 1000)
    assert sorted(ids[0]) == list(range(1, 25))


def test_large_batches_go_in_parts_of_similar_length(model, monkeypatch):
    monkeypatch.setattr(onnx_runtime, "USERS_AT_ONCE", 2)
    scorer = OnnxRuntime(graph_of(model, "t5"), 1)
    widths, run = [], scorer._run

    def watch(outputs, items, exclude, k):
        widths.append(items.shape[1])
        return run(outputs, items, exclude, k)

    monkeypatch.setattr(scorer, "_run", watch)
    close(scorer.scores(HISTORIES), scores_of(model, HISTORIES))
    assert widths == [2, 6, 6]  # lengths 1 and 2, 3 and 6, 19 cut to 6
    seen = [[n + 1] for n in range(5)]
    expected = scores_of(model, HISTORIES)
    np.put_along_axis(expected, np.array(seen), -np.inf, 1)
    close(scorer.rank(HISTORIES, 3, seen)[1], -np.sort(-expected, axis=1)[:, :3])


def test_no_histories_no_lists(scorer):
    assert scorer.scores([]).shape == (0, 25)


HOLE = r"a row of items has padding \(0\) between items"
EMPTY = r"a row of items is empty or all padding"
STRANGE = r"an id in items is not from 0 \(padding\) to 24"


@pytest.mark.parametrize(
    "histories, message",
    [
        ([[4, 5], []], EMPTY),
        ([[]], EMPTY),
        (np.zeros((2, 3)), EMPTY),
        (np.array([[1, 2], [0, 0]]), EMPTY),
        (np.array([[1, 0, 2]]), HOLE),
        (np.array([[1, 2, 3, 4], [0, 1, 0, 2]]), HOLE),
        (np.array([[9, 8, 0, 0, 0, 7, 0]]), HOLE),
        ([[1], [2, 25]], STRANGE),
        ([[99999]], STRANGE),
        ([[-1, 3]], STRANGE),
        ([[1] * 10 + [-25]], STRANGE),
    ],
)
def test_what_cannot_be_ranked_is_refused_by_the_graph(model, histories, message):
    scorer = OnnxRuntime(graph_of(model, "t5"), 1)
    for call in (scorer.scores, lambda rows: scorer.rank(rows, 3)):
        with pytest.raises(RequestError, match=message):
            call(histories)


@pytest.mark.parametrize("seen", [[[25]], [[-1]], [[3, 1 << 40]]])
def test_excluded_ids_are_items(model, seen):
    with pytest.raises(RequestError, match=r"an id in exclude is not from 0 \(padding\) to 24"):
        OnnxRuntime(graph_of(model, "t5"), 1).rank([[1]], 3, seen)


def test_files_that_are_no_graph(model, tmp_path, monkeypatch):
    with pytest.raises(CheckpointError, match=r"nowhere\.onnx: no such file; type: recbole"):
        OnnxRuntime("nowhere.onnx")
    graph = graph_of(model, "t5")
    path = tmp_path / "model.onnx"
    path.write_bytes(graph[:100])
    with pytest.raises(CheckpointError, match=r"model.onnx: onnxruntime cannot read it"):
        OnnxRuntime(path)
    path.write_bytes(graph)
    for version, message in ((1, "written by recbole-lite .*upgrade"), (3, "export the model aga")):
        monkeypatch.setattr(onnx_runtime, "FORMAT_VERSION", version)
        with pytest.raises(CheckpointError, match=message):
            OnnxRuntime(path)


def test_threads_follow_the_environment(model, monkeypatch):
    graph = graph_of(model, "t5")
    for value, given, expected in (
        ("3", None, 3),
        ("3", 2, 2),
        ("", None, 0),
        ("4,2", None, 4),
        ("x", None, 0),
    ):
        monkeypatch.setenv("OMP_NUM_THREADS", value)
        options = OnnxRuntime(graph, given).session.get_session_options()
        assert options.intra_op_num_threads == expected


def test_of_equal_scores_the_lower_id_comes_first():
    scores = np.array([[-np.inf, 1.0, 3.0, 3.0, 2.0, 3.0]], np.float32)
    ids, values = ranking.top_k(scores, 3)
    assert ids.tolist() == [[2, 3, 5]]
    assert values.tolist() == [[3.0, 3.0, 3.0]]


def test_torch_runs_models_with_positions_for_all_of_the_padding(config_for):
    from recbole_lite import create_dataset, data_preparation

    config = config_for("SASRec")
    train_data, *_ = data_preparation(config, create_dataset(config))
    model = config.model_class(config, train_data._dataset).eval()
    expected = scores_of(model, HISTORIES)
    expected[:, 0] = -np.inf
    scorer = TorchRuntime(model)
    close(scorer.scores(HISTORIES), expected)
    close(scorer.scores([[3]]), expected[[0]])
    assert scorer.device == torch.device("cpu")


def test_a_mapped_copy(model, tmp_path):
    graph = graph_of(model, "t5")
    plain = OnnxRuntime(graph, 1)
    (tmp_path / "older.onnx").touch()
    for _ in range(2):  # written, found
        mapped = OnnxRuntime(graph, 1, tmp_path / "model-1.onnx")
        np.testing.assert_array_equal(mapped.scores(HISTORIES), plain.scores(HISTORIES))
    names = {path.name for path in tmp_path.iterdir()}
    assert names >= {"model-1.onnx", "model-1.weights"}
    assert names.isdisjoint({"older.onnx", "model-1.part"})
    with pytest.raises(CheckpointError, match="onnxruntime cannot read it"):
        OnnxRuntime(b"damaged", 1, tmp_path / "model-2.onnx")
