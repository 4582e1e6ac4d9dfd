"""Data: from the official sources to windows of item ids.

:func:`create_dataset` and :func:`data_preparation` have the names and contracts of RecBole's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from recbole.data.dataset import Dataset

    from recbole_lite.config import LiteConfig


def create_dataset(config: LiteConfig) -> Dataset:
    """Read and filter the dataset that `config` names.

    Raises
    ------
    DataError, ConfigError
        A file is missing or malformed (with its line), or the filters leave nothing.
    """
    from recbole.data import dataset as recbole_datasets
    from recbole.utils import ModelType

    from recbole_lite.data.dataset import LiteGeneralDataset, LiteSequentialDataset, SequencesMixin

    own = getattr(recbole_datasets, f"{config['model']}Dataset", None)
    if own is not None:  # RecBole lays the samples of a few models, e.g. DIEN, in its own way
        return type(f"Lite{own.__name__}", (SequencesMixin, own), {})(config)
    if config["MODEL_TYPE"] == ModelType.SEQUENTIAL:
        return LiteSequentialDataset(config)
    if config["MODEL_TYPE"] in (ModelType.GENERAL, ModelType.TRADITIONAL):
        return LiteGeneralDataset(config)
    from recbole_lite.errors import ConfigError

    raise ConfigError(
        f"{config['model']} is a {config['MODEL_TYPE'].name.lower()} model; recbole-lite runs "
        "sequential and general ones"
    )


def data_preparation(config: LiteConfig, dataset: Dataset):
    """Split a dataset and make its loaders.

    Returns
    -------
    tuple
        Loaders for training, validation and test, as RecBole's function of this name does.
    """
    from logging import getLogger

    from recbole.data.utils import create_samplers, get_dataloader

    from recbole_lite.data.loaders import HistoryMaskLoader
    from recbole_lite.data.windows import Windows

    for key in ("save_dataset", "save_dataloaders"):
        if config[key]:
            # RecBole's files are pickles, and reading a pickle can run any code.
            getLogger().warning(f"{key} is ignored: recbole-lite writes and reads no pickles")
    parts = dataset.build()
    loaders = []
    for phase, part, sampler in zip(
        ("train", "valid", "test"), parts, create_samplers(config, dataset, parts), strict=True
    ):
        loader = get_dataloader(config, phase)
        ranks_all = phase != "train" and config["eval_args"]["mode"][phase] == "full"
        if ranks_all and isinstance(part.inter_feat, Windows):
            loader = HistoryMaskLoader
        shuffle = phase == "train" and config["shuffle"]
        loaders.append(loader(config, part, sampler, shuffle=shuffle))
    return tuple(loaders)
