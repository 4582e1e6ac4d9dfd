"""Datasets and their loaders; the functions have the names and contracts of RecBole's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from logging import getLogger
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from recbole.data import dataset as recbole_datasets
from recbole.data.dataloader import NegSampleEvalDataLoader
from recbole.data.dataset import Dataset
from recbole.data.utils import create_samplers
from recbole.data.utils import get_dataloader as get_recbole_dataloader
from recbole.utils import ModelType

from recbole_lite.config.registry import reads_any_length
from recbole_lite.data.atomic_reader import AtomicTable
from recbole_lite.data.column_settings import check_counts
from recbole_lite.data.dataset import LiteGeneralDataset, LiteSequentialDataset, SequencesMixin
from recbole_lite.data.loaders import HistoryMaskLoader, ResamplingLoader, eval_loader
from recbole_lite.data.prefix_windows import PrefixWindows
from recbole_lite.data.repeated_targets import warn_of_repeats
from recbole_lite.data.sharding import shard_loaders, skip_empty_batches
from recbole_lite.data.topn_candidates import attach_candidates
from recbole_lite.data.vocabulary import Vocabulary
from recbole_lite.data.windows import RandomSegments, ReplayedWindows, ResampledWindows, Windows
from recbole_lite.utils.errors import ConfigError, DataError
from recbole_lite.utils.process_group import as_single_process

if TYPE_CHECKING:
    from recbole_lite.config.configurator import LiteConfig


def create_dataset(
    config: LiteConfig,
    trained: Vocabulary | None = None,
    tables: Mapping[str, AtomicTable] | None = None,
) -> Dataset:
    """Read and filter the dataset that `config` names, and let its ``data_rules`` take effect.

    Parameters
    ----------
    config : LiteConfig
    trained : Vocabulary, optional
        Of a checkpoint: the internal ids will be those that it was trained with.
    tables : mapping of str to AtomicTable, optional
        Data in place of files (:func:`recbole_lite.data.frames.read_frames`).

    Raises
    ------
    DataError, ConfigError
        A file is missing or malformed (with its line), or the filters leave nothing.
    OtherIdsError
        The data have other users, items or values of features than `trained`.
    """
    dataset = _read_dataset(config, trained, tables)
    if config["data_rules"]:
        config.apply_data_rules(_measures(dataset))
    return dataset


def _measures(dataset) -> dict[str, float]:
    """What ``data_rules`` goes by."""
    counts = count_data(dataset)
    rows = counts["interactions"]
    return {
        **counts,
        "interactions_per_user": rows / max(counts["users"], 1),
        "interactions_per_item": rows / max(counts["items"], 1),
        "text_fields": len(dataset.item_text_fields()),
    }


def _read_dataset(config, trained, tables) -> Dataset:
    own = getattr(recbole_datasets, f"{config['model']}Dataset", None)
    if own is not None and issubclass(own, recbole_datasets.KGSeqDataset):
        _check_graph(config)
    if own is not None and config["benchmark_filename"]:
        raise ConfigError(
            f"benchmark_filename: {config['model']} lays its samples in a way of its own, which "
            "needs one file of interactions; leave benchmark_filename out"
        )
    if own is not None:  # RecBole lays the samples of a few models, e.g. DIEN, in its own way
        return type(f"Lite{own.__name__}", (SequencesMixin, own), {})(config, trained, tables)
    if config["MODEL_TYPE"] == ModelType.SEQUENTIAL:
        return LiteSequentialDataset(config, trained, tables)
    return LiteGeneralDataset(config, trained, tables)


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
        Loaders for training, validation and test, as RecBole's function of this name does. Of a
        data set in two parts, training and test, the validation is empty.
    """
    for key in ("save_dataset", "save_dataloaders"):
        if config[key]:
            # RecBole's files are pickles, and reading a pickle can run any code.
            getLogger().warning(f"{key} is ignored: recbole-lite writes and reads no pickles")
    check_counts(config, dataset)
    phases = ("train", "valid", "test")
    parts = dataset.build()
    if len(parts) == 2:
        parts.insert(1, parts[1].copy(parts[1].inter_feat.select([])))
    _check_parts(config, dataset, parts)
    parts[1:] = [_sampled(config, part) for part in parts[1:]]
    classes = [_loader_class(config, *each) for each in zip(phases, parts, strict=True)]
    if config["task"] == "topn":
        attach_candidates(config, dataset, parts)
        if getattr(parts[0].inter_feat, "candidates", None) is not None:
            classes[0] = ResamplingLoader
    warn_of_repeats(config, parts)
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


def _sampled(config, part):
    """A part of an evaluation with the rows that ``eval_users`` leaves, in their order."""
    count = config["eval_users"]
    if count is None or len(part) <= count:
        return part
    if not isinstance(part.inter_feat, Windows):
        getLogger().warning(f"eval_users is ignored with eval_args {config['eval_args']}")
        return part
    # Not by the seed: runs with other seeds are compared on the same users.
    rows = np.random.default_rng(0).choice(len(part), count, replace=False)
    return part.copy(part.inter_feat[np.sort(rows)])


def get_dataloader(config: LiteConfig, phase: str) -> Callable:
    """Loader of a part, for code that makes its loaders by hand as RecBole's examples do.

    Parameters
    ----------
    config : LiteConfig
    phase : str
        ``train``, ``valid`` or ``test``.

    Returns
    -------
    callable
        ``(config, part of dataset.build(), sampler, shuffle=False)`` -> the loader that
        :func:`data_preparation` would make: with the windows of ``train_strategy``, or with the
        mask of ``eval_exclude_history``.
    """
    return partial(_make_loader, phase)


def _make_loader(phase, config, dataset, sampler=None, shuffle=False):
    return _loader_class(config, phase, dataset)(config, dataset, sampler, shuffle=shuffle)


def _loader_class(config, phase: str, part) -> type:
    """Class of a part's loader; lays the windows of training."""
    loader = get_recbole_dataloader(config, phase)
    if phase != "train":
        loader = eval_loader(config, loader, part)
    if not isinstance(part.inter_feat, Windows):
        if phase == "train" and config["history_drop_ratio"]:
            getLogger().warning(f"history_drop_ratio is ignored: {config['model']} has no windows")
        return loader
    part.inter_feat.cuts_padding = _cuts_padding(config, loader)
    if phase != "train":
        part.inter_feat.lists_seen = _searches_unseen(config)
        return loader
    windows = part.inter_feat = _training_windows(config, part.inter_feat)
    windows.drop_ratio = config["history_drop_ratio"]
    resampled = windows.cuts_padding or isinstance(windows, ResampledWindows) or windows.drop_ratio
    return ResamplingLoader if resampled else loader


def count_data(dataset) -> dict[str, int]:
    """Number of users, items and interactions of a data set that is not split yet."""
    return {
        "users": dataset.user_num - 1,  # id 0 is padding
        "items": dataset.item_num - 1,
        "interactions": dataset.inter_num,
    }


def _check_parts(config, dataset, parts):
    """Refuse data of which nothing is left to train on, or to be measured on."""
    given = getattr(dataset, "part_names", None) is not None  # RecBole's own has no such thing
    leave_one_out = config["eval_args"]["split"] == {"LS": "valid_and_test"} and not given
    if len(parts[0]) and (len(parts[2]) or not (leave_one_out or given)):
        return
    missing = "training" if not len(parts[0]) else "the test"
    if given:
        raise DataError(
            f"the parts of {dataset.dataset_name} leave nothing for {missing}: it needs a row with "
            "an earlier one of its user, or with a history",
            dataset.inter_path,
        )
    need = "; no user has 3 interactions or more" if leave_one_out else ""
    raise DataError(
        f"the split leaves no interactions for {missing}{need}. Add data, or change eval_args or "
        "the filters",
        Path(dataset.dataset_path, f"{dataset.dataset_name}.inter"),
    )


def _cuts_padding(config, loader: type) -> bool:
    """Whether batches end at their longest history: the model's results must not depend on it."""
    # RecBole's loader of sampled items concatenates users, who must have the same width, and
    # S3Rec's pre-training pads by MAX_ITEM_LIST_LENGTH itself.
    fixed = issubclass(loader, NegSampleEvalDataLoader) or config["train_stage"] == "pretrain"
    return bool(config["cut_padding"] and not fixed and reads_any_length(config.model_class))


def _searches_unseen(config) -> bool:
    """Whether a model is told what its users have had, which its search then leaves out."""
    searches = getattr(config.model_class, "searches_unseen", False)
    return bool(searches and config["eval_exclude_history"] and config["constrained_beams"])


def _training_windows(config, windows):
    """Lay the training windows as ``train_strategy`` says."""
    if config["train_strategy"] == "sampling":
        windows = RandomSegments(windows)
    elif config["train_strategy"] == "prefix":
        windows = PrefixWindows(windows, config["prefix_overlap"])
    elif windows.store.is_known is not None:
        windows = ReplayedWindows(windows)
    if config["loss_exclude_history"]:
        windows.lists_seen = getattr(config.model_class, "can_exclude_history", False)
        if not windows.lists_seen:
            getLogger().warning(
                f"loss_exclude_history is ignored: {config['model']}'s loss counts every item"
            )
    return windows
