"""Loaders: evaluation that masks each user's history, training on resampled windows."""

from __future__ import annotations

from functools import cached_property
from itertools import islice
from logging import getLogger

import numpy as np
import torch
from recbole.data.dataloader import FullSortEvalDataLoader, TrainDataLoader
from recbole.data.dataloader.abstract_dataloader import AbstractDataLoader
from recbole.utils import ModelType
from torch.utils.data import RandomSampler, SequentialSampler

from recbole_lite.config.registry import encodes_by_length, knows_candidates, loss_is_mean_over_rows
from recbole_lite.data.length_buckets import LengthBuckets, batches_by_length
from recbole_lite.data.windows import CANDIDATES, ResampledWindows

# Most users, and positions of their histories, at once in an evaluation by length. Small batches
# have less padding, and on a CPU their memory is used again; eval_batch_size can be lower.
_MOST = {"cpu": (256, 4096)}


class HistoryMaskLoader(FullSortEvalDataLoader):
    r"""Full ranking over windows, for sequential and general models alike.

    RecBole's trainer sets the scores of the items that a loader calls "history" to -inf. For
    sequential models RecBole's own loader never names any; this one names the user's whole
    history before the target (``eval_exclude_history: True``), which is the ranking over
    I \ I_u of the paper, or none (``False``, RecBole's protocol). Where windows have candidates
    (``task: topn``), it names everything else.

    Attributes
    ----------
    batches : list of numpy.ndarray
        Rows of each batch. Where windows are cut to the longest history of a batch, they are read
        from the longest to the shortest; ``uid_list`` and all results keep the order of the data.
    """

    def __init__(self, config, dataset, sampler, shuffle=False):
        # FullSortEvalDataLoader builds tables of general models in Python loops; the windows
        # make them unnecessary here, so its own constructor is passed over. RecBole's case study
        # reads one of the tables, which is made when it is asked for.
        self.logger = getLogger()
        self.is_sequential = config["MODEL_TYPE"] == ModelType.SEQUENTIAL
        self.uid_field, self.iid_field = dataset.uid_field, dataset.iid_field
        self.sample_size = len(dataset)
        self.batches: list[np.ndarray] = []
        AbstractDataLoader.__init__(self, config, dataset, sampler, shuffle=False)

    @property
    def _index_sampler(self):
        """What torch's loaders take the rows of each batch from."""
        return self.batches

    @property
    def uid_list(self) -> torch.Tensor:
        """Users in the order of the batches, ``[n]`` internal ids."""
        return self._dataset.inter_feat[self.uid_field]

    @cached_property
    def uid2history_item(self) -> np.ndarray:
        """History of each user before the target, without targets; ``[n_users]`` tensors of ids.

        For users without a target, all their items.
        """
        windows = self._dataset.inter_feat
        store = windows.store
        items, starts = store.columns[self.iid_field].numpy(), store.starts
        ends = starts[1:].copy()
        targets = [set() for _ in ends]
        for user, row in zip(windows[self.uid_field].numpy(), windows.rows, strict=True):
            ends[user] = min(ends[user], row)
            targets[user].add(items[row])
        history = np.empty(len(ends), dtype=object)
        for user, held_out in enumerate(targets):
            seen = np.unique(items[starts[user] : ends[user]])
            history[user] = torch.from_numpy(seen[~np.isin(seen, list(held_out))])
        return history

    def _init_batch_size_and_step(self):
        self.step = self.config["eval_batch_size"]
        self.set_batch_size(self.step)
        windows = self._dataset.inter_feat
        if windows.cuts_padding:
            rows, tokens = _MOST.get(self.config["device"].type, (1024, 65536))
            self.batches = batches_by_length(windows.lengths(), min(self.step, rows), tokens)
        else:
            self.batches = batches_by_length(np.zeros(len(windows)), self.step)  # in their order

    def collate_fn(self, index):
        """Batch of windows, what to mask in it, and where the targets are."""
        batch = self.transform(self._dataset, self._dataset[index])
        history = None
        if CANDIDATES in batch:
            candidates = batch[CANDIDATES]
            others = torch.ones(len(candidates), self._dataset.item_num, dtype=torch.bool)
            history = others.scatter_(1, candidates, False)
            if not knows_candidates(self.config.model_class):
                del batch.interaction[CANDIDATES]
        elif self.config["eval_exclude_history"]:
            history = self._dataset.inter_feat.history(index)
        return batch, history, torch.arange(len(index)), batch[self.iid_field]


class ResamplingLoader(TrainDataLoader):
    """Training on what each epoch resamples: windows (``ResampledWindows``), candidates.

    They come from the loader's own generator, whose state a checkpoint holds. Windows that are cut
    to the longest history of a batch come in batches of similar length, unless the model itself
    reads mixed batches without padding.

    Attributes
    ----------
    buckets : LengthBuckets or None
        None: the batches are torch's.
    targets_per_batch : float or None
        Mean of a pass, where it differs between the batches (``max_tokens_per_batch``).
    """

    def __init__(self, config, dataset, sampler, shuffle=False):
        self.buckets: LengthBuckets | None = None
        super().__init__(config, dataset, sampler, shuffle)
        windows, tokens = dataset.inter_feat, config["max_tokens_per_batch"]
        mixed = encodes_by_length(config.model_class) and tokens is None
        mixed = mixed or not loss_is_mean_over_rows(config.model_class)
        if shuffle and windows.cuts_padding and not mixed:
            self.buckets = LengthBuckets(windows, self.step, tokens, self.generator)

    @property
    def _index_sampler(self):
        """What torch's loaders take the rows of each batch from."""
        return self.buckets or super()._index_sampler

    @property
    def targets_per_batch(self) -> float | None:  # noqa: D102
        if self.buckets is None or self.buckets.max_tokens is None:
            return None
        return float(self._dataset.inter_feat.target_counts().sum() / len(self.buckets))

    def __iter__(self):
        windows = self._dataset.inter_feat
        if windows.candidates is not None:
            windows.candidates.resample(self.generator)
        if isinstance(windows, ResampledWindows):
            windows.resample(self.generator)
        # The number of windows may change; this is the list that torch's loader indexes.
        if isinstance(self.sampler, (RandomSampler, SequentialSampler)):
            self.sampler.data_source[:] = range(len(windows))
        return super().__iter__()


class FirstBatches:
    """The first batches of each pass over a loader, which is looked through to otherwise."""

    def __init__(self, loader, number: int):
        self._loader, self._number = loader, number

    def __iter__(self):
        return islice(iter(self._loader), self._number)

    def __len__(self):
        return min(self._number, len(self._loader))

    def __getattr__(self, name):
        return getattr(self._loader, name)
