"""The folder of a trained model: all that recommending needs, and nothing that can run code.

::

    config.json          settings; in its section "recommender" the format's version, the
                         architecture, what was measured
    items.jsonl          raw ids, titles and texts of the items
    best.safetensors     the weights (model.safetensors in a packed folder, and where the
                         weights of training are not those of recommending)
    model-*.onnx         a graph of the same model, made when it is first needed or by packing
                         (recbole_lite.inference.graph_file)

A finished run's folder is one, beside its checkpoints. Reading needs torch only for the weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from logging import getLogger
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import numpy as np

from recbole_lite import __version__
from recbole_lite.config.keys import affecting
from recbole_lite.config.saved_config import BEST_FILE, CONFIG_FILE, load_config
from recbole_lite.inference.catalogue import Catalogue
from recbole_lite.utils.errors import CheckpointError, ConfigError, DataError
from recbole_lite.utils.files import write_atomically

if TYPE_CHECKING:
    import torch

FORMAT_VERSION = 1
SECTION = "recommender"
ITEMS_FILE = "items.jsonl"
WEIGHTS_FILE = "model.safetensors"
SUPPORTED = ("LiteLLM4Rec", "ItemLM", "SASRec", "GRU4Rec", "BERT4Rec")


@dataclass
class ModelBundle:
    """What a folder holds.

    Attributes
    ----------
    model, dataset : str
    settings : dict
        Of the run; paths of the machine may be missing.
    about : dict
        Section "recommender" of ``config.json``.
    catalogue : Catalogue
    weights : Path
        File of the weights.
    """

    model: str
    dataset: str
    settings: dict[str, Any]
    about: dict[str, Any]
    catalogue: Catalogue
    weights: Path

    @cached_property
    def tensors(self) -> dict[str, torch.Tensor]:
        """The weights as ``checkpoint.model_tensors`` names them, read at first use.

        Raises
        ------
        CheckpointError
            Missing, damaged, of another epoch than the rest, or not finite.
        """
        from recbole_lite.trainer.checkpoint import load_weights

        tensors, facts = load_weights(self.weights)
        _check_tensors(self.weights, tensors)
        _check_epoch(self.weights.parent, self.about, facts)
        return tensors

    @property
    def added(self) -> int:
        """Number of items that were added after training; they stand last."""
        return self.about.get("added", 0)


def is_supported(model: str) -> bool:
    """Whether a model of this name recommends from nothing but a list of items."""
    return model in SUPPORTED


def is_packed(folder: str | Path) -> bool:
    """Whether a folder is a packed one: weights to recommend with, no checkpoint of training."""
    folder = Path(folder)
    return (folder / WEIGHTS_FILE).exists() and not (folder / BEST_FILE).exists()


def complete(
    folder: str | Path,
    model: torch.nn.Module,
    dataset,
    config,
    counts: Mapping[str, int],
    results: Mapping[str, Any],
) -> None:
    """Add to a run's folder what recommending needs beside its checkpoint.

    Parameters
    ----------
    folder : str or Path
        Of the run; its best weights are there.
    model : torch.nn.Module
        With the best weights.
    dataset : LiteSequentialDataset
        Gives ids, titles and texts.
    config : LiteConfig
    counts : mapping
        Users, items, interactions.
    results : mapping
        ``valid`` and ``test``, metrics by name or None.
    """
    from recbole_lite.trainer.checkpoint import load_weights

    folder = Path(folder)
    content = load_config(folder)
    model.eval()
    tensors, facts = load_weights(folder / BEST_FILE)
    catalogue_of(dataset, config).save(folder / ITEMS_FILE)
    weights = BEST_FILE
    if any(name.startswith("item_tower.item_llm.") for name in tensors):
        weights = WEIGHTS_FILE
        _save_tensors(folder / weights, _with_fixed_vectors(model, tensors), facts)
    content[SECTION] = {
        "format_version": FORMAT_VERSION,
        "recbole_lite": __version__,
        "weights": weights,
        "epoch": facts.get("epoch"),
        "architecture": _architecture(model),
        "data": dict(counts),
        "results": dict(results),
    }
    _save_config(folder, content)


def complete_run(folder: str | Path) -> bool:
    """Complete the folder of a run from its data set; metrics that are not there stay unknown.

    Returns
    -------
    bool
        False for a packed folder, which has no checkpoint of training.

    Raises
    ------
    CheckpointError, DataError, ModelFilesError
        The checkpoint, the data set or a language model cannot be read.
    """
    from recbole_lite.data import create_dataset
    from recbole_lite.quick_start import count_data, load_data_and_model
    from recbole_lite.trainer.checkpoint import load_weights

    folder = Path(folder)
    content = load_config(folder)
    if is_packed(folder):
        return False
    if not is_supported(content["model"]):
        raise CheckpointError(_cannot(folder, content["model"]))
    config, model, dataset, *_ = load_data_and_model(folder)
    _, facts = load_weights(folder / BEST_FILE)
    about = content.get(SECTION, {})
    results = about.get("results") if about.get("epoch") == facts.get("epoch") else None
    valid = {config["valid_metric"].lower(): facts["valid_score"]}
    results = results or {"valid": valid, "test": None}
    counts = count_data(create_dataset(config))  # the one above has been split
    complete(folder, model, dataset, config, counts, results)
    return True


def _cannot(folder, model: str) -> str:
    return (
        f"{folder}: {model} cannot recommend from a list of items alone; those that can: "
        + ", ".join(SUPPORTED)
    )


def catalogue_of(dataset, config) -> Catalogue:
    """Ids, titles, texts and counts of a dataset's items; without a ``.item`` file no texts."""
    from recbole_lite.report.samples import item_titles
    from recbole_lite.text.item_llm_settings import TextFields
    from recbole_lite.text.item_vectors import item_texts

    ids = [str(token) for token in dataset.field2id_token[dataset.iid_field]]
    try:
        titles = item_titles(dataset, config["title_field"])
        texts = item_texts(TextFields.from_config(config), dataset)
    except (DataError, ConfigError) as error:  # a training that has ended must not fail here
        getLogger().warning(f"items are named by their ids alone: {error}")
        titles, texts = ids, [""] * len(ids)
    return Catalogue(ids[1:], titles[1:], texts[1:], _counts(dataset))


def _counts(dataset) -> list[int]:
    """Interactions of items 1, 2, ..., over all parts of the split."""
    feat = dataset.inter_feat
    columns = feat.store.columns if hasattr(feat, "store") else feat
    items = np.asarray(columns[dataset.iid_field])
    return np.bincount(items, minlength=dataset.item_num)[1:].tolist()


def read(folder: str | Path) -> ModelBundle:
    """Read a folder.

    Raises
    ------
    CheckpointError
        It is no model's, not finished, damaged, or of a newer format; with what to do.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(
            f"{folder}: {'a file, not a folder' if folder.exists() else 'no such folder'}; give "
            "the folder of a finished run (saved/...) or of a packed model"
        )
    content = load_config(folder)
    if not isinstance(content, dict) or not isinstance(content.get("settings"), dict):
        raise CheckpointError(
            f"{folder}: not a model of recbole-lite ({CONFIG_FILE} has no settings)"
        )
    model, about = str(content.get("model")), content.get(SECTION)
    if not is_supported(model):
        raise CheckpointError(_cannot(folder, model))
    if not isinstance(about, dict):
        raise CheckpointError(
            f"{folder}: lacks what recommending needs beside the checkpoint (the run has not "
            "ended, or an older version wrote it); type: recbole-lite pack "
            f"--model={quote(str(folder))}"
        )
    _check_version(folder, about)
    name = about.get("weights")
    if name not in (BEST_FILE, WEIGHTS_FILE):
        raise CheckpointError(f"{folder / CONFIG_FILE}: names no weights, but {name!r}")
    if not (folder / name).is_file():
        raise CheckpointError(f"{folder / name}: no such file; has the run saved anything?")
    catalogue = Catalogue.load(folder / ITEMS_FILE)
    dataset = str(content.get("dataset"))
    return ModelBundle(model, dataset, content["settings"], about, catalogue, folder / name)


def write(folder: str | Path, contents: ModelBundle) -> None:
    """Write a packed folder, without what belongs to the machine that trained."""
    folder = Path(folder)
    local = affecting("machine", "output", "start", "session")
    settings = {key: value for key, value in contents.settings.items() if key not in local}
    about = {**contents.about, "recbole_lite": __version__, "format_version": FORMAT_VERSION}
    about["weights"] = WEIGHTS_FILE
    contents.catalogue.save(folder / ITEMS_FILE)
    _save_tensors(folder / WEIGHTS_FILE, contents.tensors, {"epoch": about.get("epoch")})
    head = {"model": contents.model, "dataset": contents.dataset, "settings": settings}
    _save_config(folder, {**head, SECTION: about})


# -- parts ------------------------------------------------------------------------------------


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


def _check_tensors(path, tensors):
    bad = [key for key, t in tensors.items() if t.is_floating_point() and not t.isfinite().all()]
    if bad:
        raise CheckpointError(f"{path}: {bad[0]} holds NaN or infinity; train anew")


def _check_epoch(folder, about, facts):
    if facts.get("epoch") != about.get("epoch"):
        raise CheckpointError(
            f"{folder}: the weights are of epoch {facts.get('epoch')}, the description of "
            f"{about.get('epoch')}; type: recbole-lite pack --model={quote(str(folder))}"
        )


def _architecture(model) -> dict[str, Any] | None:
    """Configuration of the Recommendation LLM, so that nothing is asked of the hub."""
    rec_llm = getattr(model, "rec_llm", None)
    if rec_llm is None:
        return None
    return json.loads(rec_llm.encoder.config.to_json_string(use_diff=False))


def _with_fixed_vectors(model, tensors) -> dict[str, torch.Tensor]:
    """Weights in which the vectors of a trained Item LLM stand in its place."""
    gone = ("item_tower.item_llm.", "item_tower.norm.")
    fixed = {name: tensor for name, tensor in tensors.items() if not name.startswith(gone)}
    fixed["item_tower.vectors"] = model.item_tower.fixed_vectors().cpu()
    return fixed


def _save_tensors(path, tensors, facts):
    from safetensors.torch import save_file

    metadata = {"facts": json.dumps(facts)}
    write_atomically(path, lambda name: save_file(tensors, name, metadata=metadata))


def _save_config(folder, content):
    text = json.dumps(content, indent=1, ensure_ascii=False)
    path = folder / CONFIG_FILE
    write_atomically(path, lambda name: name.write_text(text, encoding="utf-8"))
