"""int8 weights for an exported model (dynamic quantisation of onnxruntime)."""

from __future__ import annotations

import logging
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from recbole_lite.inference.graph_inputs_outputs import ALL_SCORES
from recbole_lite.inference.onnx_export import INT8_FILE, require_onnx
from recbole_lite.utils.files import write_atomically

_QUANTIZED = "_quantized"  # how onnxruntime calls the int8 weights of a matrix


def quantize(path: str | Path, head: bool = False) -> Path:
    """Write a copy of an exported model whose matrix products are in int8.

    Weights have one scale per output, activations one per call, found while it runs. The item
    vectors, attention and, unless asked for, the head stay in float32.

    The scales are such that the file is right on every processor. Those without int8 dot products
    (VNNI) add two products of an unsigned activation and a weight in 16 bits, where 2 * 255 * 127
    overflows. Here neighbouring weights of one sign add up to 128 at most, and 255 * 128 fits.

    Parameters
    ----------
    path : str or Path
        Of ``model.onnx``.
    head : bool
        Whether to quantise the head, too.

    Returns
    -------
    Path
        Of ``model.int8.onnx``, in the same folder.

    Raises
    ------
    MissingDependencyError
        onnx or onnxruntime is not installed.
    """
    onnx = require_onnx()
    from onnxruntime.quantization import QuantType, quantize_dynamic

    path = Path(path)
    model = onnx.load(str(path))
    weighted = _weighted_products(model)
    spared = [] if head else [weighted[-1]]  # the head is the last of them
    out = path.with_name(INT8_FILE)
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)  # it advises a preprocessing that changes nothing here
    try:
        with TemporaryDirectory() as folder:
            draft = Path(folder, INT8_FILE)
            quantize_dynamic(
                str(path),
                str(draft),
                weight_type=QuantType.QInt8,
                per_channel=True,
                op_types_to_quantize=["MatMul"],
                nodes_to_quantize=[name for name in weighted if name not in spared],
            )
            small = onnx.load(str(draft))
    finally:
        logger.setLevel(level)
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
    """int8 weights of which no two neighbours overflow 16 bits with activations of 255.

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
    # 127, not 128: each of the two may be rounded up by a half.
    scales = np.maximum(np.abs(matrix).max(0), np.maximum(*pairs)) / 127
    scales[scales == 0] = 1.0
    return np.rint(matrix / scales).astype(np.int8), scales.astype(np.float32)


def _weighted_products(model) -> list[str]:
    """Names of the products with a constant matrix, in the order of the graph."""
    constants = {tensor.name for tensor in model.graph.initializer}
    assert any(output.name == ALL_SCORES for output in model.graph.output)
    return [
        node.name
        for node in model.graph.node
        if node.op_type == "MatMul" and node.input[1] in constants
    ]
