"""Export of a trained model to an ONNX graph, from item ids to the best items."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from recbole_lite import __version__
from recbole_lite.inference import graph_inputs_outputs
from recbole_lite.inference.onnx_runtime import FORMAT_VERSION
from recbole_lite.inference.packed_encoder import Packing, ScoringModule
from recbole_lite.model.abstract_recommender import NextItemModel
from recbole_lite.utils.errors import ConfigError, MissingDependencyError
from recbole_lite.utils.files import write_atomically, write_json

OPSET = 20  # the first with Gelu
OPSETS = range(18, 24)  # supported by torch's exporter and the checker, and tested
LARGEST = 2**31 - 2**20  # bytes: protobuf's limit with a margin
MODEL_FILE, INT8_FILE = "model.onnx", "model.int8.onnx"
ITEMS_FILE, ABOUT_FILE = "items.json", "export.json"


def export_onnx(
    model: NextItemModel, items: Sequence[tuple[str, str]], out: str | Path, opset: int = OPSET
) -> Path:
    """Write ``model.onnx``, ``items.json`` and ``export.json``.

    Parameters
    ----------
    model : NextItemModel
        Trained LiteLLM4Rec or ItemLM.
    items : sequence of (str, str)
        Raw id and title of the items with internal ids 1, 2, ...
    out : str or Path
        Folder; files of the same names are replaced, and ``model.int8.onnx`` is removed.
    opset : int
        ONNX operator set version, one of `OPSETS`.

    Returns
    -------
    Path
        ``model.onnx``, see :func:`build_graph`, also for the errors.
    """
    graph = build_graph(model, opset)
    out = Path(out)
    path = out / MODEL_FILE
    (out / INT8_FILE).unlink(missing_ok=True)  # of another model
    write_atomically(path, lambda name: name.write_bytes(graph))
    listed = [{"id": None, "title": None}, *({"id": raw, "title": title} for raw, title in items)]
    write_json(out / ITEMS_FILE, listed)
    about = {"format_version": FORMAT_VERSION, "recbole_lite": __version__, "opset": opset}
    about.update(max_length=int(model.max_seq_length), n_items=int(model.n_items))
    write_json(out / ABOUT_FILE, about)
    return path


def build_graph(model: NextItemModel, opset: int = OPSET) -> bytes:
    """Export a model to a serialised ONNX graph with dynamic batch size and lengths.

    =================  =======================  =============================================
    input ``items``    int64 [batch, length]    internal ids, oldest first; padded with 0 on the
                                                left or the right; of longer rows the last
                                                ``max_length`` items are read
    input ``exclude``  int64 [batch, excluded]  ids not to recommend, 0 for none; may be [batch, 0]
    input ``k``        int64 [1]                number of items to recommend
    ``scores``         float32 [batch, k]       best first; -inf if no item is left
    ``ids``            int64 [batch, k]         internal ids; 0 if no item is left
    ``all_scores``     float32 [batch, n_items]  before exclusion; column 0 (padding) is -inf
    =================  =======================  =============================================

    A row without any item, padding between items, and ids that are negative or too large make the
    run fail; the name of the failing operator states the reason. The graph's metadata hold
    ``n_items``, ``max_length``, ``format_version`` and ``recbole_lite``.

    Raises
    ------
    ConfigError
        The model cannot be exported or exceeds 2 GiB, or `opset` is not in `OPSETS`.
    MissingDependencyError
        onnx or onnxscript is not installed.
    """
    onnx = require_onnx(opset)
    check_exportable(model)
    graph = _export(model, opset)
    n_items, max_length = int(model.n_items), int(model.max_seq_length)
    graph_inputs_outputs.add_inputs_outputs(graph, n_items, max_length)
    if graph.ByteSize() > LARGEST:
        raise ConfigError(
            f"the model takes {graph.ByteSize() / 2**30:.1f} GiB; an ONNX file holds 2 GiB at most"
        )
    onnx.checker.check_model(graph)
    facts = {"n_items": n_items, "max_length": max_length, "format_version": FORMAT_VERSION}
    facts = {**facts, "recbole_lite": __version__}
    onnx.helper.set_model_props(graph, {key: str(value) for key, value in facts.items()})
    return graph.SerializeToString()


def check_exportable(model: torch.nn.Module) -> None:
    """Refuse a model that cannot be exported.

    Raises
    ------
    ConfigError
    """
    if not isinstance(model, NextItemModel):
        raise ConfigError(
            f"LiteLLM4Rec and ItemLM can be exported, found {type(model).__name__}; use its "
            "full_sort_predict"
        )


def require_onnx(opset: int = OPSET):
    """Import onnx, and check that a version of its operators is in `OPSETS`.

    Raises
    ------
    MissingDependencyError
        onnx or onnxscript is not installed.
    ConfigError
        The version is not in `OPSETS`.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            f"export needs {error.name}; type: pip install 'recbole-lite[onnx]'"
        ) from None
    if opset not in OPSETS:
        raise ConfigError(f"opset must be from {OPSETS[0]} to {OPSETS[-1]}, found {opset!r}")
    return onnx


def update_export_file(out: str | Path, **facts: Any) -> None:
    """Add `facts` (plain data) to ``export.json``."""
    path = Path(out) / ABOUT_FILE
    write_json(path, {**json.loads(path.read_text(encoding="utf-8")), **facts})


@torch.no_grad()
def _export(model: NextItemModel, opset: int):
    """Graph of :class:`ScoringModule`."""
    dim = torch.export.Dim
    items, users = {0: dim("packed_items")}, dim("batch")
    length = dim("longest", max=int(model.max_seq_length))
    # Sizes other than 0 and 1, which the exporter would treat as constants.
    packing = Packing.from_padded(torch.tensor([[1, 1], [1, 0]]))
    # About packages that are not used here; and a line for each constant that is shared.
    with muted("torch.onnx"), muted("onnx_ir", "onnxscript", level=logging.WARNING):
        program = torch.onnx.export(
            ScoringModule(model),
            tuple(vars(packing).values()),
            dynamo=True,
            input_names=graph_inputs_outputs.PACKED,
            output_names=[graph_inputs_outputs.ALL_SCORES],
            dynamic_shapes=(items, items, items, {0: users, 1: length}, {0: users}),
            opset_version=opset,
            verbose=False,
        )
    return _strip_metadata(program.model_proto)


def _strip_metadata(model):
    """Remove the exporter's stack traces, which hold paths of this machine, from every node."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.initializer, *graph.value_info, *graph.input):
        del part.metadata_props[:]
        part.doc_string = ""
    for output in graph.output:
        del output.metadata_props[:]
    return model


@contextmanager
def muted(*names: str | None, level: int = logging.ERROR) -> Iterator[None]:
    """Suppress warnings, and log records below `level` of some loggers (None: the root)."""
    before = {logger: logger.level for logger in map(logging.getLogger, names)}
    for logger in before:
        logger.setLevel(level)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, old in before.items():
            logger.setLevel(old)
