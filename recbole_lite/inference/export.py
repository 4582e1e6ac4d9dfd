"""A trained model as an ONNX graph: from item ids to the best items, without torch."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from recbole_lite import __version__
from recbole_lite.errors import ConfigError, MissingDependencyError
from recbole_lite.files import write_atomically
from recbole_lite.inference.dense import Dense
from recbole_lite.inference.encoder import build_encoder
from recbole_lite.model.lite_llm4rec import LiteLLM4Rec

FORMAT_VERSION = 1
OPSET = 20
LARGEST = 2**31 - 2**20  # what protobuf can hold, with some room
MODEL_FILE, INT8_FILE = "model.onnx", "model.int8.onnx"
ITEMS_FILE, ABOUT_FILE = "items.json", "export.json"
ALL_SCORES = "all_scores"


def export_onnx(model: LiteLLM4Rec, items: Sequence[tuple[str, str]], out: str | Path) -> Path:
    """Write ``model.onnx``, ``items.json`` and ``export.json``.

    The graph, its batch and lengths free:

    =================  =======================  =============================================
    input ``items``    int64 [batch, length]    internal ids, oldest first, 0 behind; at least
                                                one item a row, at most ``max_length``
    input ``exclude``  int64 [batch, excluded]  ids not to recommend, 0 for none; may be [batch, 0]
    input ``k``        int64 [1]                how many
    ``scores``         float32 [batch, k]       best first; -inf where no item is left
    ``ids``            int64 [batch, k]         internal ids; 0 where no item is left
    ``all_scores``     float32 [batch, items]   before exclusion; column 0 (padding) is -inf
    =================  =======================  =============================================

    Parameters
    ----------
    model : LiteLLM4Rec
        Trained.
    items : sequence of (str, str)
        Raw id and title of the items with internal ids 1, 2, ...
    out : str or Path
        Folder; what is in it under the same names is replaced, a ``model.int8.onnx`` removed.

    Returns
    -------
    Path
        Of ``model.onnx``.

    Raises
    ------
    ConfigError
        The model is larger than 2 GiB.
    MissingDependencyError
        onnx, onnxscript or onnxruntime is not installed.
    """
    onnx = require_onnx()
    out = Path(out)
    graph = _with_top_items(onnx, _graph(model))
    if graph.ByteSize() > LARGEST:
        raise ConfigError(
            f"the model takes {graph.ByteSize() / 2**30:.1f} GiB; an ONNX file holds 2 GiB at most"
        )
    onnx.checker.check_model(graph)
    path = out / MODEL_FILE
    (out / INT8_FILE).unlink(missing_ok=True)  # of another model
    write_atomically(path, lambda name: onnx.save_model(graph, str(name)))
    listed = [{"id": None, "title": None}, *({"id": raw, "title": title} for raw, title in items)]
    _write_json(out / ITEMS_FILE, listed)
    about = {"format_version": FORMAT_VERSION, "recbole_lite": __version__, "opset": OPSET}
    about.update(max_length=int(model.max_seq_length), n_items=int(model.n_items))
    _write_json(out / ABOUT_FILE, about)
    return path


def require_onnx():
    """Import onnx.

    Raises
    ------
    MissingDependencyError
        It, onnxscript or onnxruntime is not installed.
    """
    try:
        import onnx
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            f"export needs {error.name}; type: pip install 'recbole-lite[onnx]'"
        ) from None
    return onnx


def add_facts(out: str | Path, **facts: Any) -> None:
    """Add facts (plain data) to ``export.json``."""
    path = Path(out) / ABOUT_FILE
    _write_json(path, {**json.loads(path.read_text(encoding="utf-8")), **facts})


class _Scores(nn.Module):
    """Ids ``[B, L]`` -> scores ``[B, n_items]``."""

    def __init__(self, model: LiteLLM4Rec):
        super().__init__()
        self.encoder = build_encoder(model, kind=Dense)
        self.register_buffer("head", model.head_weight().detach().T.contiguous())

    def forward(self, items):
        return F.pad(self.encoder(items, True) @ self.head, (1, 0), value=-torch.inf)


@torch.no_grad()
def _graph(model: LiteLLM4Rec):
    """Graph of :class:`_Scores`."""
    module = deepcopy(_Scores(model.eval())).cpu()
    # Lengths that are neither 0 nor 1, which the exporter would take for constants.
    example = torch.tensor([[1, 1, 1], [1, 1, 0]])
    shapes = {
        "items": {
            0: torch.export.Dim("batch"),
            1: torch.export.Dim("length", max=int(model.max_seq_length)),
        }
    }
    with _quiet():
        program = torch.onnx.export(
            module,
            (example,),
            dynamo=True,
            input_names=["items"],
            output_names=[ALL_SCORES],
            dynamic_shapes=shapes,
            opset_version=OPSET,
            verbose=False,
        )
    return _without_remarks(program.model_proto)


def _without_remarks(model):
    """Drop what the exporter notes on every node: stack traces, with the paths of this machine."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.initializer, *graph.value_info, *graph.input):
        del part.metadata_props[:]
        part.doc_string = ""
    for output in graph.output:
        del output.metadata_props[:]
    return model


def _with_top_items(onnx, model):
    """Append exclusion and top-k, whose k is an input."""
    helper, kinds = onnx.helper, onnx.TensorProto
    graph = model.graph
    graph.initializer.extend(
        [
            helper.make_tensor("minus_inf", kinds.FLOAT, [1], [float("-inf")]),
            helper.make_tensor("no_item", kinds.INT64, [1], [0]),
        ]
    )
    steps = [
        ("Shape", ["exclude"], ["exclude_shape"], {}),
        ("Expand", ["minus_inf", "exclude_shape"], ["exclude_scores"], {}),
        ("ScatterElements", [ALL_SCORES, "exclude", "exclude_scores"], ["left"], {"axis": 1}),
        ("TopK", ["left", "k"], ["scores", "best"], {"axis": 1}),
        ("IsInf", ["scores"], ["none_left"], {"detect_positive": 0}),
        ("Where", ["none_left", "no_item", "best"], ["ids"], {}),
    ]
    for kind, inputs, outputs, attributes in steps:
        graph.node.append(
            helper.make_node(kind, inputs, outputs, name=f"top_{kind.lower()}", **attributes)
        )
    batch = graph.input[0].type.tensor_type.shape.dim[0].dim_param
    graph.input.extend(
        [
            helper.make_tensor_value_info("exclude", kinds.INT64, [batch, "excluded"]),
            helper.make_tensor_value_info("k", kinds.INT64, [1]),
        ]
    )
    outputs = [
        helper.make_tensor_value_info("scores", kinds.FLOAT, [batch, "k"]),
        helper.make_tensor_value_info("ids", kinds.INT64, [batch, "k"]),
    ]
    kept = list(graph.output)
    del graph.output[:]
    graph.output.extend([*outputs, *kept])
    return model


@contextmanager
def _quiet():
    """Mute the exporter's remarks on packages that are not used here."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _write_json(path: Path, content: Any) -> None:
    text = json.dumps(content, indent=1, ensure_ascii=False)
    write_atomically(path, lambda name: name.write_text(text + "\n", encoding="utf-8"))
