"""The ONNX graph in a model's folder: found by what it was made of, made once.

Its name holds a digest of weights and settings: a graph of other weights is never taken.
"""

from __future__ import annotations

import hashlib
import json
from importlib.util import find_spec
from logging import getLogger
from pathlib import Path
from typing import TYPE_CHECKING

from recbole_lite.inference.model_folder import ModelBundle
from recbole_lite.inference.onnx_runtime import FORMAT_VERSION
from recbole_lite.utils.files import file_sha256, write_atomically

if TYPE_CHECKING:
    import torch

EXPORTABLE = ("LiteLLM4Rec", "ItemLM")  # models that have a graph
PACKAGES = ("onnxruntime", "onnx", "onnxscript")
_LOCK = ".graph.lock"


def path_of(contents: ModelBundle) -> Path:
    """Where the graph of a folder's model is, or would be."""
    made_of = {
        "format_version": FORMAT_VERSION,
        "model": contents.model,
        "settings": contents.settings,
        "architecture": contents.about.get("architecture"),
        "epoch": contents.about.get("epoch"),
        "items": len(contents.catalogue),
        "weights": file_sha256(contents.weights),
    }
    digest = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()
    return contents.weights.with_name(f"model-{digest[:16]}.onnx")


def missing_package() -> str | None:
    """Package without which no graph can be made."""
    return next((name for name in PACKAGES if find_spec(name) is None), None)


def make(contents: ModelBundle, model: torch.nn.Module) -> Path | bytes:
    """Export a model into its folder, unless somebody else has done so meanwhile.

    Graphs of other weights in the same folder are removed.

    Parameters
    ----------
    contents : ModelBundle
    model : torch.nn.Module
        Built from it.

    Returns
    -------
    Path or bytes
        The graph itself where the folder cannot be written to.

    Raises
    ------
    ConfigError
        The model has no graph, or one of more than 2 GiB.
    """
    from filelock import FileLock

    from recbole_lite.inference.onnx_export import build_graph

    path = path_of(contents)
    graph = None
    try:
        with FileLock(path.with_name(_LOCK)):
            if path.exists():
                return path
            graph = build_graph(model)
            write_atomically(path, lambda name: name.write_bytes(graph))
            for old in set(path.parent.glob("model-*.onnx")) - {path}:
                old.unlink()
    except OSError as error:  # a folder of somebody else's, a full disk
        getLogger().warning(f"{path}: cannot be kept for the next time: {error.strerror}")
        return build_graph(model) if graph is None else graph
    return path
