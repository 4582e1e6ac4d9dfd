"""int8 weights for an exported model (dynamic quantisation of onnxruntime)."""

from __future__ import annotations

import logging
from pathlib import Path

from recbole_lite.files import write_atomically
from recbole_lite.inference.export import INT8_FILE, require_onnx
from recbole_lite.inference.graph_ends import ALL_SCORES


def quantize(path: str | Path, head: bool = False) -> Path:
    """Write a copy of an exported model whose matrix products are in int8.

    Weights have one scale per output, activations one per call, found while it runs. The item
    vectors, attention and, unless asked for, the head stay in float32.

    Weights take 7 bits (-64 to 64). Processors without int8 dot products (VNNI) add two products of
    an unsigned activation and a weight in 16 bits, where larger ones overflow: 2 * 255 * 64 fits,
    2 * 255 * 127 does not. Unsigned weights would be right as well, but slower than float32.

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
    weighted = _weighted_products(onnx.load(str(path)))
    spared = [] if head else [weighted[-1]]  # the head is the last of them
    out = path.with_name(INT8_FILE)
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)  # it advises a preprocessing that changes nothing here
    try:
        write_atomically(
            out,
            lambda name: quantize_dynamic(
                str(path),
                str(name),
                weight_type=QuantType.QInt8,
                per_channel=True,
                reduce_range=True,
                op_types_to_quantize=["MatMul"],
                nodes_to_quantize=[name for name in weighted if name not in spared],
            ),
        )
    finally:
        logger.setLevel(level)
    return out


def _weighted_products(model) -> list[str]:
    """Names of the products with a constant matrix, in the order of the graph."""
    constants = {tensor.name for tensor in model.graph.initializer}
    assert any(output.name == ALL_SCORES for output in model.graph.output)
    return [
        node.name
        for node in model.graph.node
        if node.op_type == "MatMul" and node.input[1] in constants
    ]
