"""Dynamic int8 quantisation of an exported model with onnxruntime."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from recbole_lite.inference.graph_inputs_outputs import ALL_SCORES
from recbole_lite.inference.onnx_export import INT8_FILE, muted, require_onnx
from recbole_lite.utils.files import write_atomically

_QUANTIZED = "_quantized"  # onnxruntime's suffix for the int8 weights of a matrix


def quantize(path: str | Path) -> Path:
    """Write a copy of an exported model with matrix products in int8.

    Weights have one scale per output; activations have one per call, computed at run time. The
    item vectors, attention and the head stay in float32.

    The scales make the file correct on every processor. Processors without int8 dot products
    (VNNI) add two products of an unsigned activation and a weight in 16 bits, where 2 * 255 * 127
    overflows. Here neighbouring weights of one sign add up to 128 at most, and 255 * 128 fits.

    The copy of ``model.onnx`` (`path`) is ``model.int8.onnx`` in the same folder.

    Raises
    ------
    MissingDependencyError
        onnx or onnxruntime is not installed.
    """
    onnx = require_onnx()
    from onnxruntime.quantization import QuantType, quantize_dynamic

    path = Path(path)
    model = onnx.load(str(path))
    out = path.with_name(INT8_FILE)
    # onnxruntime recommends, by the root logger, a preprocessing that changes nothing here.
    with muted(None), TemporaryDirectory() as folder:
        draft = Path(folder, INT8_FILE)
        quantize_dynamic(
            str(path),
            str(draft),
            weight_type=QuantType.QInt8,
            per_channel=True,
            op_types_to_quantize=["MatMul"],
            nodes_to_quantize=_matmuls_with_weights(model)[:-1],  # the last one is the head
        )
        small = onnx.load(str(draft))
    _scale_by_pairs(onnx, small, model)
    write_atomically(out, lambda name: onnx.save_model(small, str(name)))
    return out


def _scale_by_pairs(onnx, small, model) -> None:
    """Replace onnxruntime's int8 weights, which overflow without VNNI, and their scales."""
    exact = {tensor.name: tensor for tensor in model.graph.initializer}
    made = {tensor.name: tensor for tensor in small.graph.initializer}
    helper = onnx.numpy_helper
    for name in [name for name in made if name.endswith(_QUANTIZED)]:
        stem = name.removesuffix(_QUANTIZED)
        weights, scales = quantize_by_pairs(helper.to_array(exact[stem]))
        made[name].CopyFrom(helper.from_array(weights, name))
        made[f"{stem}_scale"].CopyFrom(helper.from_array(scales, f"{stem}_scale"))


def quantize_by_pairs(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Quantise so that no two neighbouring weights overflow 16 bits with activations of 255.

    Parameters
    ----------
    matrix : numpy.ndarray
        ``[in, out]`` float32.

    Returns
    -------
    (numpy.ndarray [in, out] int8, numpy.ndarray [out] float32)
        Weights and the scale of each output.
    """

    def largest_pair(part: np.ndarray) -> np.ndarray:
        return (part[:-1] + part[1:]).max(0, initial=0.0)

    matrix = matrix.astype(np.float64)
    pairs = [largest_pair(np.maximum(part, 0)) for part in (matrix, -matrix)]
    # 127, not 128: each of the two may be rounded up by 0.5.
    scales = np.maximum(np.abs(matrix).max(0), np.maximum(*pairs)) / 127
    scales[scales == 0] = 1.0
    return np.rint(matrix / scales).astype(np.int8), scales.astype(np.float32)


def _matmuls_with_weights(model) -> list[str]:
    """Names of the matrix products with a constant matrix, in the order of the graph."""
    constants = {tensor.name for tensor in model.graph.initializer}
    assert any(output.name == ALL_SCORES for output in model.graph.output)
    return [
        node.name
        for node in model.graph.node
        if node.op_type == "MatMul" and node.input[1] in constants
    ]
