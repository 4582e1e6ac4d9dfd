"""The ONNX graph in a model's folder, exported once.

Its file name holds a digest of weights and settings, so that the graph of other weights is never
used.
"""

from __future__ import annotations

import hashlib
import json
from functools import partial
from importlib.util import find_spec
from logging import getLogger
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from recbole_lite.inference.model_folder import ModelBundle
from recbole_lite.inference.onnx_runtime import FORMAT_VERSION
from recbole_lite.utils.files import file_sha256, write_atomically

if TYPE_CHECKING:
    import torch

EXPORTABLE = ("LiteLLM4Rec", "ItemLM")  # models that have a graph
PACKAGES = ("onnxruntime", "onnx", "onnxscript")
_LOCK = ".graph.lock"


def graph_path(bundle: ModelBundle) -> Path:
    """Path of the graph of a folder's model, whether it exists or not."""
    source = {
        "format_version": FORMAT_VERSION,
        "model": bundle.model,
        "settings": bundle.settings,
        "architecture": bundle.about.get("architecture"),
        "epoch": bundle.about.get("epoch"),
        "items": len(bundle.catalogue),
        "weights": file_sha256(bundle.weights),
    }
    digest = hashlib.sha256(json.dumps(source, sort_keys=True).encode()).hexdigest()
    return bundle.weights.with_name(f"model-{digest[:16]}.onnx")


def vectors_path(graph: Path) -> Path:
    """Path of the items' vectors beside a graph, ``[n_items - 1, d]`` float32."""
    return graph.with_suffix(".npy")


def _save_array(path: Path, array: np.ndarray) -> None:
    with path.open("wb") as file:  # np.save would add a suffix to the temporary name
        np.save(file, array)


def missing_package() -> str | None:
    """Name of a package that the export needs and that is not installed, or None."""
    return next((name for name in PACKAGES if find_spec(name) is None), None)


def export_graph(bundle: ModelBundle, model: torch.nn.Module) -> Path | bytes:
    """Export the model of a bundle into its folder, unless another process has done so meanwhile.

    The items' vectors are saved beside the graph (:func:`vectors_path`): similar items and diverse
    lists need them. Removes graphs of other weights from the folder.

    Returns
    -------
    Path or bytes
        Path of the graph, or the graph itself if the folder is not writable.

    Raises
    ------
    ConfigError
        The model cannot be exported, or its graph exceeds 2 GiB.
    """
    from filelock import FileLock

    from recbole_lite.inference.onnx_export import build_graph
    from recbole_lite.inference.vectors import item_vectors

    path = graph_path(bundle)
    graph = None
    try:
        with FileLock(path.with_name(_LOCK)):
            if path.exists():
                return path
            graph = build_graph(model)
            vectors = vectors_path(path)
            write_atomically(vectors, partial(_save_array, array=item_vectors(model)))
            write_atomically(path, lambda name: name.write_bytes(graph))
            for kept in (path, vectors):
                for old in set(path.parent.glob(f"model-*{kept.suffix}")) - {kept}:
                    old.unlink()
    except OSError as error:  # another user's folder, a full disk
        getLogger().warning(
            f"{path}: cannot be written, the next start exports it again: {error.strerror}"
        )
        return build_graph(model) if graph is None else graph
    return path
