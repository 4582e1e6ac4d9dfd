"""Item vectors before the trials, so that each text is encoded once."""

from __future__ import annotations

from collections.abc import Callable
from logging import getLogger
from pathlib import Path
from typing import Any

from recbole_lite.config.configurator import translate_errors
from recbole_lite.config.keys import affecting
from recbole_lite.data import create_dataset
from recbole_lite.experiments.tune.space import Space
from recbole_lite.text.item_vectors import load_item_vectors
from recbole_lite.utils.errors import ConfigError, RecboleLiteError

# Combinations of what the vectors depend on; the first trial that needs others encodes them.
AT_MOST = 32


def cache_dir(config, folder: Path) -> str | None:
    """Folder that all trials take item vectors from; None where the model reads none.

    Where the configuration keeps them nowhere it is one in the sweep's folder: the trials have to
    share them.
    """
    if "item_embedding_cache_dir" not in config.settings:
        return None
    chosen = config["item_embedding_cache_dir"] or folder / "item_embeddings"
    return str(Path(chosen).resolve())


def prepare(space: Space, configure: Callable[[dict[str, Any]], Any]) -> None:
    """Read the data, and fill the cache of item vectors for every trial that there can be.

    `configure` gives the configuration of a trial with the values of some parameters.

    Raises
    ------
    RecboleLiteError
        The data or the vectors cannot be had by any trial. What concerns some of them only is
        left to fail there, and logged. The data leave nothing for validation.
    """
    combinations = space.combinations(affecting("vectors"), AT_MOST)
    dataset, failures = None, []
    for params in combinations:
        config = configure(params)
        dataset = dataset or create_dataset(config)
        if not reads_vectors(config, space.keys):
            continue
        try:
            load_item_vectors(config, dataset)
        except RecboleLiteError as error:
            failures.append(error)
            getLogger().warning(f"{params}: {error}")
    if len(failures) == len(combinations):
        raise failures[0]
    with translate_errors(f"{config['dataset']} cannot be split", config):
        validation = dataset.build()[1]
    if not len(validation):
        raise ConfigError(
            f"eval_args: a sweep selects by validation, and {config['eval_args']['split']} has no "
            "validation part; use another split, then train on all data with best.yaml"
        )


def reads_vectors(config, swept: list[str]) -> bool:
    """Whether the model starts from fixed vectors; a trained Item LLM has them change."""
    if config["item_init"] == "random" and "item_init" not in swept:
        return False
    if "item_embedding_cache_dir" not in config.settings:
        return False
    if not (config["item_vectors"] or config["item_llm"]):
        return False
    stages = config["stages"] or [{}]
    how = {stage.get("item_llm_training", config["item_llm_training"]) for stage in stages}
    return "full" not in how
