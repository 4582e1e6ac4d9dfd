"""Reading and writing the folder of a trained model. Loading it never executes code.

::

    config.json          settings; its section "recommender" holds the format version, the
                         architecture and the measured results
    items.jsonl          raw ids, titles and texts of the items
    best.safetensors     the weights (model.safetensors in a packed folder, and in a run's folder
                         if inference needs other weights than training)
    model-*.onnx         an ONNX graph of the model, exported at first use or by packing
                         (recbole_lite.inference.graph_file)
    model-*.npy          the items' vectors, with the graph

The folder of a finished run has these files beside its checkpoints
(recbole_lite.inference.saved_run writes them). Only the weights need torch.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from recbole_lite import __version__
from recbole_lite.config.keys import affecting
from recbole_lite.config.saved_config import BEST_FILE, CONFIG_FILE, load_config
from recbole_lite.inference.catalogue import Catalogue
from recbole_lite.utils.errors import CheckpointError
from recbole_lite.utils.files import write_atomically, write_json

if TYPE_CHECKING:
    import torch

FORMAT_VERSION = 1
SECTION = "recommender"
ITEMS_FILE = "items.jsonl"
WEIGHTS_FILE = "model.safetensors"
RECOMMENDER_MODELS = ("LiteLLM4Rec", "ItemLM", "SASRec", "GRU4Rec", "BERT4Rec", "TIGER")


@dataclass
class ModelBundle:
    """Content of a model's folder."""

    model: str
    dataset: str
    settings: dict[str, Any]  # of the run; a packed folder has no paths of the training machine
    about: dict[str, Any]  # section "recommender" of config.json
    catalogue: Catalogue
    weights: Path  # file

    @cached_property
    def tensors(self) -> dict[str, torch.Tensor]:
        """Weights by name (see ``checkpoint.model_tensors``), read at first use.

        Raises
        ------
        CheckpointError
            The file is missing or damaged, belongs to another epoch than the other files, or
            holds NaN or infinity.
        """
        from recbole_lite.trainer.checkpoint import load_weights

        tensors, facts = load_weights(self.weights)
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and not tensor.isfinite().all():
                raise CheckpointError(f"{self.weights}: {name} holds NaN or infinity; train again")
        epoch, folder = self.about.get("epoch"), self.weights.parent
        if facts.get("epoch") != epoch:
            raise CheckpointError(
                f"{folder}: the weights are of epoch {facts.get('epoch')}, the description of "
                f"{epoch}; type: recbole-lite pack --model={quote(str(folder))}"
            )
        return tensors

    @property
    def n_added(self) -> int:
        """Number of items added after training; they come last in the catalogue."""
        return self.about.get("added", 0)


def supports_recommender(model: str) -> bool:
    """Whether ``Recommender`` can load a model of this name: it needs only the items' ids."""
    return model in RECOMMENDER_MODELS


def is_packed(folder: str | Path) -> bool:
    """Whether a folder is packed: weights for inference, no checkpoint of training."""
    folder = Path(folder)
    return (folder / WEIGHTS_FILE).exists() and not (folder / BEST_FILE).exists()


def check_supported(folder: Path, model: str) -> None:
    """Refuse a model that ``Recommender`` cannot load.

    Raises
    ------
    CheckpointError
    """
    if not supports_recommender(model):
        raise CheckpointError(
            f"{folder}: {model} cannot recommend from a list of items alone; those that can: "
            + ", ".join(RECOMMENDER_MODELS)
        )


def read_bundle(folder: str | Path) -> ModelBundle:
    """Read a model's folder, except for its weights.

    Raises
    ------
    CheckpointError
        The folder does not hold a model, is incomplete or damaged, or has a newer format; the
        message says what to do.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(
            f"{folder}: {'a file, not a folder' if folder.exists() else 'no such folder'}; give "
            "the folder of a finished run (saved/...) or of a packed model"
        )
    content = load_config(folder)
    model, about = content["model"], content.get(SECTION)
    check_supported(folder, model)
    if not isinstance(about, dict):
        raise CheckpointError(
            f"{folder}: incomplete: files for recommending are missing (the run has not "
            "ended, or an older version wrote it); type: recbole-lite pack "
            f"--model={quote(str(folder))}"
        )
    _check_version(folder, about)
    name = about.get("weights")
    if name not in (BEST_FILE, WEIGHTS_FILE):
        raise CheckpointError(
            f"{folder / CONFIG_FILE}: weights must be {BEST_FILE} or {WEIGHTS_FILE}, found {name!r}"
        )
    if not (folder / name).is_file():
        raise CheckpointError(f"{folder / name}: no such file; has the run saved anything?")
    catalogue = Catalogue.load(folder / ITEMS_FILE)
    dataset, settings = content["dataset"], content["settings"]
    return ModelBundle(model, dataset, settings, about, catalogue, folder / name)


def write_bundle(folder: str | Path, bundle: ModelBundle) -> None:
    """Write a packed folder, without the settings of the training machine."""
    folder = Path(folder)
    local = affecting("machine", "output", "start", "session")
    settings = {key: value for key, value in bundle.settings.items() if key not in local}
    for key in ("item_vectors", "distill_from"):  # new items need to know that there are vectors
        if isinstance(settings.get(key), list):
            settings[key] = [Path(one).name for one in settings[key]]
        elif settings.get(key):
            settings[key] = Path(settings[key]).name
    about = {**bundle.about, "weights": WEIGHTS_FILE}
    bundle.catalogue.save(folder / ITEMS_FILE)
    write_tensors(folder / WEIGHTS_FILE, bundle.tensors, {"epoch": about.get("epoch")})
    content = {"model": bundle.model, "dataset": bundle.dataset, "settings": settings}
    write_config(folder, content, about)


def write_config(folder: Path, content: dict[str, Any], about: dict[str, Any]) -> None:
    """Write ``config.json`` with `about` as its section "recommender"."""
    version = {"format_version": FORMAT_VERSION, "recbole_lite": __version__}
    about = {**version, **about, **version}
    write_json(folder / CONFIG_FILE, {**content, SECTION: about}, finite=False)


def write_tensors(path: Path, tensors: dict[str, torch.Tensor], facts: dict[str, Any]) -> None:
    """Write weights, with `facts` in the metadata of the file."""
    from safetensors.torch import save_file

    metadata = {"facts": json.dumps(facts)}
    write_atomically(path, lambda name: save_file(tensors, name, metadata=metadata))


def _check_version(folder, about):
    version = about.get("format_version")
    if not isinstance(version, int) or version < 1:
        raise CheckpointError(f"{folder}: has format version {version!r}; is it damaged?")
    if version > FORMAT_VERSION:
        raise CheckpointError(
            f"{folder}: has format version {version}, written by recbole-lite "
            f"{about.get('recbole_lite')}; this one ({__version__}) reads up to "
            f"{FORMAT_VERSION}. Type: pip install --upgrade recbole-lite"
        )
