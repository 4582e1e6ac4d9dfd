"""The folder of a finished run: loading its data and model, and adding the recommender's files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from logging import getLogger
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recbole.utils import init_seed

from recbole_lite.config.configurator import LiteConfig
from recbole_lite.config.registry import get_trainer
from recbole_lite.data import count_data, create_dataset, data_preparation
from recbole_lite.data.item_fields import item_fields
from recbole_lite.data.item_titles import item_titles
from recbole_lite.data.vocabulary import Vocabulary
from recbole_lite.inference import model_folder
from recbole_lite.inference.catalogue import Catalogue
from recbole_lite.text.item_llm_settings import TextFields
from recbole_lite.text.item_vectors import item_texts
from recbole_lite.text.lora import is_adapter, merge_lora
from recbole_lite.trainer import checkpoint
from recbole_lite.utils.errors import ConfigError, DataError


def load_data_and_model(
    model_file: str | Path,
    data_path: str | Path | None = None,
    changes: Mapping[str, Any] | None = None,
):
    """Rebuild what a run has made from its folder.

    Parameters
    ----------
    model_file : str or Path
        ``run_dir`` of a result, or a file in it.
    data_path : str or Path, optional
        Where the data set is now; default: where it was.
    changes : dict, optional
        Other settings that are the machine's, e.g. ``item_embedding_cache_dir``.

    Returns
    -------
    tuple
        ``(config, model, dataset, train_data, valid_data, test_data)``, as RecBole's function
        of this name; the model has the weights of the best validation.

    Raises
    ------
    CheckpointError
        There is no whole checkpoint.
    """
    folder = Path(model_file)
    folder = folder if folder.is_dir() else folder.parent
    path = folder / checkpoint.BEST_FILE
    content = checkpoint.load_config(folder)
    settings = {**content["settings"], **(changes or {})}
    if data_path is not None:
        settings["data_path"] = str(data_path)
    config = LiteConfig(content["model"], content["dataset"], config_dict=settings, typed=True)
    init_seed(config["seed"], config["reproducibility"])
    trained = trained_vocabulary(folder)
    dataset = create_dataset(config, trained)
    loaders = data_preparation(config, dataset)
    keep_semantic_ids(loaders[0]._dataset, folder)
    model = config.model_class(config, loaders[0]._dataset).to(config["device"])
    tensors, facts = checkpoint.load_weights(path)
    check_rows(facts, folder, trained, dataset)
    checkpoint.check_initial_vectors(facts, model, path)
    checkpoint.restore_model(model, tensors, path)
    return config, model, dataset, *loaders


def evaluate_saved_run(folder: str | Path, changes: Mapping[str, Any] | None = None) -> tuple:
    """Test the best weights of a finished run, which may have been moved, without records.

    Returns
    -------
    tuple
        ``(trainer, result, dataset, valid_data, test_data)``; the trainer has evaluated the test
        data last.
    """
    here = {"checkpoint_dir": str(Path(folder).parent), "log_wandb": False, **(changes or {})}
    loaded = load_data_and_model(folder, changes=here)
    config, model, dataset, train_data, valid_data, test_data = loaded
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    trainer.disable_tensorboard()
    trainer.eval_collector.data_collect(train_data)  # counts that some metrics need
    progress = config["show_progress"]
    result = trainer.evaluate(test_data, load_best_model=False, show_progress=progress)
    return trainer, result, dataset, valid_data, test_data


def keep_semantic_ids(dataset, folder: str | Path) -> None:
    """Let a model that is built on a data set have the semantic ids of a run, if it has some."""
    dataset.semantic_ids = checkpoint.load_tensor(Path(folder), "semantic_ids")


def trained_vocabulary(folder: Path) -> Vocabulary | None:
    """Raw ids of a run's rows; an older run that has ended knows those of its items."""
    vocabulary = checkpoint.load_vocabulary(folder)
    path = folder / model_folder.ITEMS_FILE
    if vocabulary is None and path.exists():
        vocabulary = Vocabulary(source=str(path))
        field = checkpoint.load_config(folder)["settings"]["ITEM_ID_FIELD"]
        vocabulary.add([field], Catalogue.load(path).ids[1:])
    return vocabulary


def check_rows(facts: Mapping, folder: Path, trained: Vocabulary | None, dataset) -> None:
    """Check weights against the vocabulary that the data were numbered by, or the data's own."""
    named, source = facts.get("vocabulary"), folder / checkpoint.BEST_FILE
    if named is None and trained is None:
        checkpoint.warn_unknown_vocabulary(source)
    if trained is None or named != trained.sha256:
        checkpoint.check_vocabulary(named, dataset.vocabulary, source)


def write_recommender_files(
    folder: str | Path,
    model: torch.nn.Module,
    dataset,
    config,
    counts: Mapping[str, int],
    results: Mapping[str, Any],
    item_id_type: str = "str",
) -> None:
    """Add the files that ``Recommender`` needs beside the checkpoint to a run's folder.

    The folder holds the best weights, and the model has them. `counts` are the numbers of users,
    items and interactions; `results` has ``valid`` and ``test``, metrics by name or None. With
    `item_id_type` ``int``, recommended ids are given as numbers; else as text.
    """
    folder = Path(folder)
    content = checkpoint.load_config(folder)
    model.eval()
    tensors, facts = checkpoint.load_weights(folder / checkpoint.BEST_FILE)
    catalogue_from_dataset(dataset, config).save(folder / model_folder.ITEMS_FILE)
    weights = checkpoint.BEST_FILE
    fixed = _inference_tensors(model, tensors)
    if fixed is not None:
        weights = model_folder.WEIGHTS_FILE
        model_folder.write_tensors(folder / weights, fixed, facts)
    about = {
        "weights": weights,
        "epoch": facts.get("epoch"),
        "architecture": _architecture(model),
        "data": dict(counts),
        "results": dict(results),
    }
    if item_id_type == "int":
        about["item_id_type"] = item_id_type
    model_folder.write_config(folder, content, about)


def restore_recommender_files(folder: str | Path) -> bool:
    """Add the recommender's files to the folder of a run whose end did not write them.

    Needs the data set. Metrics that the folder does not hold stay unknown.

    Returns
    -------
    bool
        False for a packed folder, which has no checkpoint of training.

    Raises
    ------
    CheckpointError, DataError, ModelFilesError
        The checkpoint, the data set or a language model cannot be read.
    """
    folder = Path(folder)
    content = checkpoint.load_config(folder)
    if model_folder.is_packed(folder):
        return False
    model_folder.check_supported(folder, content["model"])
    config, model, dataset, *_ = load_data_and_model(folder)
    _, facts = checkpoint.load_weights(folder / checkpoint.BEST_FILE)
    about = content.get(model_folder.SECTION, {})
    results = about.get("results") if about.get("epoch") == facts.get("epoch") else None
    valid = {config["valid_metric"].lower(): facts["valid_score"]}
    results = results or {"valid": valid, "test": None}
    counts = count_data(create_dataset(config))  # the one above has been split
    write_recommender_files(folder, model, dataset, config, counts, results)
    return True


def check_catalogue(dataset, config) -> None:
    """Check, before a training, the titles and texts that its recommender's files will hold.

    A data set may have neither, unless the settings name them.

    Raises
    ------
    ConfigError, DataError
        A field is missing or empty, a template is malformed, or ``.item`` is, with its line.
    """
    item_titles(dataset, config["title_field"])
    settings = TextFields.from_config(config)
    named = bool(settings.fields or settings.template)
    if not named and not Path(dataset.dataset_path, f"{dataset.dataset_name}.item").is_file():
        return
    try:
        item_texts(settings, dataset)
    except ConfigError:
        if named:
            raise


def catalogue_from_dataset(dataset, config) -> Catalogue:
    """Ids, titles, texts and counts of a dataset's items; texts are empty without ``.item``."""
    ids = [str(token) for token in dataset.field2id_token[dataset.iid_field]]
    try:
        titles = item_titles(dataset, config["title_field"])
        needed = not config["item_vectors"]
        texts = item_texts(TextFields.from_config(config), dataset) if needed else [""] * len(ids)
        fields = item_fields(dataset, config["title_field"], config["seq_separator"])
    except (DataError, ConfigError) as error:  # must not fail after a finished training
        getLogger().warning(f"items are named by their ids alone: {error}")
        titles, texts, fields = ids, [""] * len(ids), [{} for _ in ids]
    feat = dataset.inter_feat
    # The store: before the split.
    items = feat.store.counted_items() if hasattr(feat, "store") else feat[dataset.iid_field]
    items = np.asarray(items)
    counts = np.bincount(items, minlength=dataset.item_num)[1:].tolist()
    return Catalogue(ids[1:], titles[1:], texts[1:], counts, fields[1:])


def _architecture(model) -> dict[str, Any] | None:
    """Configuration of the language model, so that loading needs no access to the Hub."""
    if hasattr(model, "rec_llm"):
        config = model.rec_llm.encoder.config
    elif hasattr(model, "beam_counts"):
        config = (model.llm if model.has_decoder else model.encoder).config
    else:
        return None
    return json.loads(config.to_json_string(use_diff=False))


def _inference_tensors(model, tensors) -> dict[str, torch.Tensor] | None:
    """Weights with the vectors of a trained Item LLM in its place, and with merged adapters.

    None where they are those of training.
    """
    replaced: tuple[str, ...] = ()
    fixed: dict[str, torch.Tensor] = {}
    if any(name.startswith("item_tower.item_llm.") for name in tensors):
        replaced += ("item_tower.item_llm.", "item_tower.norm.")
        fixed["item_tower.vectors"] = model.item_tower.fixed_vectors().cpu()
    if any(name.startswith("rec_llm.") and is_adapter(name) for name in tensors):
        replaced += ("rec_llm.",)
        merged = merge_lora(deepcopy(model.rec_llm)).state_dict()
        fixed |= {f"rec_llm.{name}": tensor.cpu() for name, tensor in merged.items()}
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(replaced)}
    return {**kept, **fixed} if replaced else None
