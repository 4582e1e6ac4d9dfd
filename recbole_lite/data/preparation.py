"""Datasets and their loaders; the functions have the names and contracts of RecBole's."""

from __future__ import annotations

from logging import getLogger
from pathlib import Path
from typing import TYPE_CHECKING

from recbole.data import dataset as recbole_datasets
from recbole.data.dataloader import FullSortEvalDataLoader, NegSampleEvalDataLoader
from recbole.data.dataset import Dataset
from recbole.data.utils import create_samplers, get_dataloader
from recbole.utils import ModelType

from recbole_lite.config.registry import reads_any_length
from recbole_lite.data.column_settings import check_counts
from recbole_lite.data.dataset import LiteGeneralDataset, LiteSequentialDataset, SequencesMixin
from recbole_lite.data.loaders import HistoryMaskLoader, ResamplingLoader
from recbole_lite.data.prefix_windows import PrefixWindows
from recbole_lite.data.sharding import shard_loaders, skip_empty_batches
from recbole_lite.data.topn_candidates import attach_candidates
from recbole_lite.data.vocabulary import Vocabulary
from recbole_lite.data.windows import RandomSegments, ResampledWindows, Windows
from recbole_lite.utils.errors import DataError
from recbole_lite.utils.process_group import as_single_process

if TYPE_CHECKING:
    from recbole_lite.config.configurator import LiteConfig


def create_dataset(config: LiteConfig, trained: Vocabulary | None = None) -> Dataset:
    """Read and filter the dataset that `config` names.

    Parameters
    ----------
    config : LiteConfig
    trained : Vocabulary, optional
        Of a checkpoint: the internal ids will be those that it was trained with.

    Raises
    ------
    DataError, ConfigError
        A file is missing or malformed (with its line), or the filters leave nothing.
    OtherIdsError
        The data have other users, items or values of features than `trained`.
    """
    own = getattr(recbole_datasets, f"{config['model']}Dataset", None)
    if own is not None and issubclass(own, recbole_datasets.KGSeqDataset):
        _check_graph(config)
    if own is not None:  # RecBole lays the samples of a few models, e.g. DIEN, in its own way
        return type(f"Lite{own.__name__}", (SequencesMixin, own), {})(config, trained)
    if config["MODEL_TYPE"] == ModelType.SEQUENTIAL:
        return LiteSequentialDataset(config, trained)
    return LiteGeneralDataset(config, trained)


def _check_graph(config):
    """RecBole's models of sequences and a knowledge graph read two more files."""
    for suffix in ("kg", "link"):
        path = Path(config["data_path"], f"{config['dataset']}.{suffix}")
        if not path.is_file():
            raise DataError(
                f"{config['model']} reads a knowledge graph, but this file does not exist; provide "
                ".kg and .link, and the trained vectors of entities (keys additional_feat_suffix "
                "and preload_weight, docs/recbole.md)",
                path,
            )


def data_preparation(config: LiteConfig, dataset: Dataset):
    """Split a dataset and make its loaders.

    Returns
    -------
    tuple
        Loaders for training, validation and test, as RecBole's function of this name does.
    """
    for key in ("save_dataset", "save_dataloaders"):
        if config[key]:
            # RecBole's files are pickles, and reading a pickle can run any code.
            getLogger().warning(f"{key} is ignored: recbole-lite writes and reads no pickles")
    check_counts(config, dataset)
    phases = ("train", "valid", "test")
    parts = dataset.build()
    _check_parts(config, dataset, parts)
    classes = [get_dataloader(config, phase) for phase in phases]
    _cut_padding(config, parts, classes)
    if isinstance(parts[0].inter_feat, Windows):
        parts[0].inter_feat = _training_windows(config, parts[0].inter_feat)
        windows = parts[0].inter_feat
        if windows.cuts_padding or isinstance(windows, ResampledWindows):
            classes[0] = ResamplingLoader
    if config["task"] == "topn":
        attach_candidates(config, dataset, parts)
        if getattr(parts[0].inter_feat, "candidates", None) is not None:
            classes[0] = ResamplingLoader
    for i in (1, 2):
        if classes[i] is FullSortEvalDataLoader and isinstance(parts[i].inter_feat, Windows):
            classes[i] = HistoryMaskLoader
    samplers = (None, None, None)
    negatives = config["train_neg_sample_args"]["distribution"] != "none"
    if negatives or classes[1:] != [HistoryMaskLoader] * 2:
        samplers = create_samplers(config, dataset, parts)  # a set per user: not for nothing
    classes[1:] = [skip_empty_batches(config, loader) for loader in classes[1:]]
    with as_single_process(config):
        loaders = tuple(
            loader(config, part, sampler, shuffle=phase == "train" and config["shuffle"])
            for loader, phase, part, sampler in zip(classes, phases, parts, samplers, strict=True)
        )
    return shard_loaders(config, loaders)


def count_data(dataset) -> dict[str, int]:
    """Number of users, items and interactions of a data set that is not split yet."""
    return {
        "users": dataset.user_num - 1,  # id 0 is padding
        "items": dataset.item_num - 1,
        "interactions": dataset.inter_num,
    }


def _check_parts(config, dataset, parts):
    """Refuse data of which nothing is left to train on, or to be measured on."""
    leave_one_out = config["eval_args"]["split"] == {"LS": "valid_and_test"}
    if len(parts[0]) and (len(parts[2]) or not leave_one_out):
        return
    missing = "training" if not len(parts[0]) else "the test"
    need = "; no user has 3 interactions or more" if leave_one_out else ""
    raise DataError(
        f"the split leaves no interactions for {missing}{need}. Add data, or change eval_args or "
        "the filters",
        Path(dataset.dataset_path, f"{dataset.dataset_name}.inter"),
    )


def _cut_padding(config, parts, loaders) -> None:
    """Cut batches to their longest history where the model's results do not depend on that."""
    # S3Rec's pre-training pads by MAX_ITEM_LIST_LENGTH itself.
    fixed = not reads_any_length(config.model_class) or config["train_stage"] == "pretrain"
    for part, loader in zip(parts, loaders, strict=True):
        # RecBole's loader of sampled items concatenates users, who must have the same width.
        joined = issubclass(loader, NegSampleEvalDataLoader)
        if isinstance(part.inter_feat, Windows):
            part.inter_feat.cuts_padding = config["bucket_by_length"] and not (fixed or joined)


def _training_windows(config, windows):
    """Lay the training windows as ``train_strategy`` says."""
    if config["train_strategy"] == "sampling":
        windows = RandomSegments(windows)
    elif config["train_strategy"] == "prefix":
        windows = PrefixWindows(windows, config["prefix_overlap"])
    if config["loss_exclude_history"]:
        windows.lists_seen = getattr(config.model_class, "can_exclude_history", False)
        if not windows.lists_seen:
            getLogger().warning(
                f"loss_exclude_history is ignored: {config['model']}'s loss counts every item"
            )
    return windows
