"""A finished run's configuration, data and model from its folder and its data set."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recbole.utils import init_seed

from recbole_lite.config.configurator import LiteConfig
from recbole_lite.data import create_dataset, data_preparation
from recbole_lite.data.vocabulary import Vocabulary
from recbole_lite.inference.catalogue import Catalogue
from recbole_lite.inference.model_folder import ITEMS_FILE
from recbole_lite.trainer import checkpoint


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
    model = config.model_class(config, loaders[0]._dataset).to(config["device"])
    tensors, facts = checkpoint.load_weights(path)
    check_rows(facts, folder, trained, dataset)
    checkpoint.restore_model(model, tensors, path)
    return config, model, dataset, *loaders


def trained_vocabulary(folder: Path) -> Vocabulary | None:
    """Raw ids of a run's rows; an older run that has ended knows those of its items."""
    vocabulary = checkpoint.load_vocabulary(folder)
    path = folder / ITEMS_FILE
    if vocabulary is None and path.exists():
        vocabulary = Vocabulary(source=str(path))
        field = checkpoint.load_config(folder)["settings"]["ITEM_ID_FIELD"]
        vocabulary.add([field], Catalogue.load(path).ids[1:])
    return vocabulary


def check_rows(facts: Mapping, folder: Path, trained: Vocabulary | None, dataset) -> None:
    """Check weights against the vocabulary that the data were numbered by, or the data's own."""
    named, source = facts.get("vocabulary"), folder / checkpoint.BEST_FILE
    if named is None and trained is None:
        checkpoint.warn_of_rows(source)
    if trained is None or named != trained.sha256:
        checkpoint.check_vocabulary(named, dataset.vocabulary, source)
