"""int8 that is right on every processor: with and without dot products of four pairs (VNNI)."""

import numpy as np
import onnx
import pytest
from built_models import HISTORIES, build, graph_of
from onnx import helper, numpy_helper
from onnxruntime import InferenceSession
from onnxruntime.quantization import QuantType, quantize_dynamic

from recbole_lite.inference.onnx_runtime import OnnxRuntime
from recbole_lite.inference.quantize import quantize, quantize_by_pairs


def without_vnni(activations, weights):
    """Integer product by AVX2's vpmaddubsw: u8 times s8, two at a time, added in 16 bits."""
    products = activations.astype(np.int32)[:, :, None] * weights.astype(np.int32)[None]
    pairs = products.reshape(len(activations), -1, 2, weights.shape[1]).sum(2)
    return np.clip(pairs, -(2**15), 2**15 - 1).sum(1)


def exact(activations, weights):
    return activations.astype(np.int64) @ weights.astype(np.int64)


def int8_weights(path):
    tensors = onnx.load(str(path)).graph.initializer
    arrays = [numpy_helper.to_array(t) for t in tensors if t.data_type == onnx.TensorProto.INT8]
    return [array for array in arrays if array.ndim == 2]  # the others are zero points


@pytest.fixture
def largest_products(tmp_path):
    """A graph whose weights and activations are all as large as they can be."""
    weights = np.where(np.arange(8) % 2, 1.0, -1.0) * np.ones((64, 8))
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["y"], name="product"),
        helper.make_node("MatMul", ["y", "head"], ["all_scores"], name="head_product"),
    ]
    arrays = {"w": weights.astype(np.float32), "head": np.eye(8, dtype=np.float32)}
    graph = helper.make_graph(
        nodes,
        "largest",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 64])],
        [helper.make_tensor_value_info("all_scores", onnx.TensorProto.FLOAT, ["n", 8])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    path = tmp_path / "model.onnx"
    onnx.save_model(model, str(path))
    return path, np.ones((3, 64), np.float32), weights


def test_the_largest_products_do_not_overflow(largest_products):
    path, x, weights = largest_products
    small = quantize(path)
    found = InferenceSession(str(small)).run(None, {"x": x})[0]  # on whatever processor this is
    np.testing.assert_allclose(found, x @ weights, rtol=0.02)
    (ours,) = int8_weights(small)
    activations = np.full((3, 64), 255, np.uint8)
    assert np.array_equal(without_vnni(activations, ours), exact(activations, ours))
    # What was tried first, all eight bits, would be wrong by half on a processor without VNNI.
    eight = path.with_name("eight.onnx")
    quantize_dynamic(
        str(path), str(eight), weight_type=QuantType.QInt8, nodes_to_quantize=["product"]
    )
    (theirs,) = int8_weights(eight)
    wrong, right = without_vnni(activations, theirs), exact(activations, theirs)
    assert (np.abs(wrong) < 0.6 * np.abs(right)).all()


@pytest.mark.parametrize("kind", ["t5", "gpt2, recency"])
def test_no_pair_of_a_model_can_overflow(config_for, tmp_path, kind):
    model = build(config_for, kind)
    path = tmp_path / "model.onnx"
    path.write_bytes(graph_of(model, kind))
    small = quantize(path)
    matrices = int8_weights(small)
    # GPT-2: query, key and value in one; out, up, down. T5: those of the first layer are a table.
    assert len(matrices) == (3 + 6 if kind == "t5" else 2 * 4)
    for matrix in matrices:
        # The worst that activations can do: 255 where weights are positive, 0 elsewhere.
        for worst in (matrix > 0, matrix < 0):
            activations = np.where(worst, 255, 0).astype(np.uint8).T
            found, wanted = (f(activations, matrix) for f in (without_vnni, exact))
            assert np.array_equal(found, wanted)
    found, expected = (OnnxRuntime(p, 1).scores(HISTORIES)[:, 1:] for p in (small, path))
    assert 0 < np.abs(found - expected).max() < 0.3 * expected.std()


def test_scales_by_hand():
    matrix = np.array([[1.0, -3.0, 0.0], [2.0, 4.0, 0.0], [-5.0, 1.0, 0.0]], np.float32)
    weights, scales = quantize_by_pairs(matrix)
    # Largest: a weight of 5 alone; 4 and 1, neighbours of one sign; nothing.
    np.testing.assert_allclose(scales, [5 / 127, 5 / 127, 1.0])
    assert weights.tolist() == [[25, -76, 0], [51, 102, 0], [-127, 25, 0]]
    assert weights.dtype == np.int8
    one, _ = quantize_by_pairs(matrix[:1])
    assert one.tolist() == [[127, -127, 0]]


def test_neighbours_fit_into_16_bits_whatever_they_are():
    draw = np.random.default_rng(0)
    for rows in (1, 2, 7, 64):
        matrix = draw.standard_t(2, (rows, 50)).astype(np.float32)
        weights, scales = quantize_by_pairs(matrix)
        for part in (np.maximum(weights.astype(int), 0), np.maximum(-weights.astype(int), 0)):
            assert (part[:-1] + part[1:]).max(initial=0) * 255 < 2**15
        assert np.abs(weights * scales - matrix).max() <= scales.max() / 2 + 1e-6
