"""Which runtime computes the scores of a model (torch, onnx, blocks, ann), and opening it.

Torch and RecBole are imported where they are needed: a graph runs without them.
"""

from __future__ import annotations

from functools import cached_property
from logging import getLogger
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from recbole_lite.config.registry import require_recbole
from recbole_lite.inference import graph_file
from recbole_lite.inference.history_inputs import one_of
from recbole_lite.inference.model_folder import ModelBundle
from recbole_lite.inference.onnx_runtime import OnnxRuntime
from recbole_lite.utils.errors import (
    CheckpointError,
    MissingDependencyError,
    RequestError,
    one_line,
)

if TYPE_CHECKING:
    import torch

    from recbole_lite.inference.torch_runtime import TorchRuntime

RUNTIMES = ("auto", "onnx", "torch", "blocks", "ann")
ITEM_TYPES = ("float32", "bfloat16", "float16")
_LARGE = 2**20  # items from which blocks are ranked


class ModelRuntimes:
    """The torch model and the runtime of a folder, each built or opened at first use.

    See :meth:`.recommender.Recommender.load` for arguments and errors.

    Attributes
    ----------
    requested : str
        `runtime`, or blocks where auto means them.
    torch_reason : str or None
        Why torch computes the scores; None if onnxruntime does.
    """

    def __init__(self, bundle: ModelBundle, device, runtime: str, item_dtype: str):
        one_of(item_dtype, "item_dtype", ITEM_TYPES)
        one_of(runtime, "runtime", RUNTIMES)
        self._bundle, self._device, self._item_dtype = bundle, device, item_dtype
        large = len(bundle.catalogue) > _LARGE or item_dtype != "float32"
        if runtime == "auto" and large and bundle.model in graph_file.EXPORTABLE:
            runtime = "blocks"
        self.requested = runtime
        self._mapped: Path | None = None  # folder of a graph that is mapped into memory
        self._model: torch.nn.Module | None = None
        self._runtime: OnnxRuntime | TorchRuntime | None = None
        self.torch_reason = self._reason_for_torch()
        if self.torch_reason or not self._graph.exists():
            self._build()  # a model that cannot be built is an error of loading

    def _reason_for_torch(self) -> str | None:
        runtime, model = self.requested, self._bundle.model
        if runtime == "ann":
            from recbole_lite.inference.item_index import check_installed

            check_installed()
        if self.by_blocks and model not in graph_file.EXPORTABLE:
            raise RequestError(
                f"runtime: {runtime} ranks {' and '.join(graph_file.EXPORTABLE)}, and this is a "
                f"{model}; set torch"
            )
        if runtime == "torch" or self.by_blocks:
            return "asked for"
        if model not in graph_file.EXPORTABLE:
            reason = f"{model} has no graph"
        elif str(self._device).partition(":")[0] != "cpu":
            reason = f"onnxruntime runs on the CPU here, device is {self._device}"
        else:
            missing = None if self._graph.exists() else graph_file.missing_package()
            if missing is None:
                return None
            reason = f"{missing} is not installed; type: pip install 'recbole-lite[onnx]'"
            if runtime == "onnx":
                raise MissingDependencyError(f"runtime: onnx: {reason}")
        if runtime == "onnx":
            raise RequestError(f"runtime: onnx: {reason}; set auto or torch")
        return reason

    @property
    def by_blocks(self) -> bool:
        """Whether torch ranks blocks of the catalogue, or an index does."""
        return self.requested in ("blocks", "ann")

    @cached_property
    def _graph(self) -> Path:
        return graph_file.graph_path(self._bundle)  # reads the whole file of weights

    @property
    def model(self) -> torch.nn.Module:
        """The torch model in evaluation mode."""
        if self._model is None:
            self._build()
        return self._model  # type: ignore[return-value]

    @property
    def runtime(self) -> OnnxRuntime | TorchRuntime:
        """What computes the scores."""
        if self._runtime is None and not self.torch_reason:
            self._runtime = self._open_graph()
        if self._runtime is None:
            self._runtime = self._open_torch()
        return self._runtime

    def use_torch(self, reason: str) -> None:
        """Compute the scores in torch from now on: the model has changed."""
        self.torch_reason, self._runtime = reason, None

    def map_weights(self, folder: Path) -> None:
        """See :meth:`.recommender.Recommender.map_weights`."""
        self._mapped, self._runtime = folder, None

    def free_model(self) -> None:
        """Free the memory of the torch model if onnxruntime computes the scores."""
        if not self.torch_reason:
            self._model = None

    def saved_vectors(self) -> np.ndarray | None:
        """The items' vectors beside the graph in use; None without them."""
        if self.torch_reason:
            return None
        path = graph_file.vectors_path(self._graph)
        return np.load(path) if path.exists() else None

    def _build(self) -> None:
        require_recbole()
        folder = self._bundle.weights.parent
        try:
            import torch
        except ModuleNotFoundError:
            raise MissingDependencyError(
                f"{folder}: torch is not installed, and runs this model "
                f"({self.torch_reason or 'its graph is missing'}); type: pip install torch, or "
                "pack the model with its graph: recbole-lite pack"
            ) from None

        from recbole_lite.inference.loading import build_model

        try:
            self._model = build_model(self._bundle, torch.device(self._device))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            # Settings were edited or truncated. Errors about weights have their own messages.
            raise CheckpointError(
                f"{folder}: its settings do not describe a {self._bundle.model} ({one_line(error)})"
            ) from error

    def _open_torch(self) -> TorchRuntime:
        from recbole_lite.inference import block_runtime, torch_runtime

        if not self.by_blocks:
            return torch_runtime.TorchRuntime(self.model)
        model = self.model
        self._bundle.__dict__.pop("tensors", None)  # free its memory; read again if need be
        if self.requested == "blocks":
            return block_runtime.BlockRuntime(model, self._item_dtype)
        return block_runtime.IndexRuntime(
            model, self._graph.with_suffix(".faiss"), self._item_dtype
        )

    def _open_graph(self) -> OnnxRuntime | None:
        """The graph in onnxruntime, exported if necessary; None if the export fails."""
        if self._graph.exists():
            try:
                return self._onnx(self._graph)
            except CheckpointError as error:
                getLogger().warning(f"{one_line(error)}; the graph is exported again")
                self._graph.unlink(missing_ok=True)
        try:
            graph = graph_file.export_graph(self._bundle, self.model)
        except Exception as error:  # of the exporter, about unknown operators
            if self.requested == "onnx":
                raise CheckpointError(
                    f"runtime: onnx: the export failed: {one_line(error)}"
                ) from error
            getLogger().warning(
                f"the export to ONNX failed, torch runs the model: {one_line(error)}"
            )
            self.torch_reason = "the export failed"
            return None
        self._model = None  # free its memory
        return self._onnx(graph)

    def _onnx(self, graph: Path | bytes) -> OnnxRuntime:
        mapped = self._mapped and self._mapped / self._graph.name
        return OnnxRuntime(graph, mapped=mapped)
