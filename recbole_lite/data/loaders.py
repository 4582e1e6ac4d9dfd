"""Loaders: evaluation that masks each user's history, training on resampled windows."""

from __future__ import annotations

from functools import cached_property
from itertools import islice
from logging import getLogger

import numpy as np
import torch
from recbole.data.dataloader import (
    FullSortEvalDataLoader,
    NegSampleEvalDataLoader,
    TrainDataLoader,
)
from recbole.data.dataloader.abstract_dataloader import AbstractDataLoader
from recbole.utils import EvaluatorType, ModelType
from torch.utils.data import BatchSampler, RandomSampler, SequentialSampler

from recbole_lite.config.registry import knows_candidates
from recbole_lite.data.length_buckets import LengthBuckets, batches_by_length
from recbole_lite.data.repeated_targets import repeated_rows
from recbole_lite.data.windows import CANDIDATES, ResampledWindows, Windows

# Largest batch of an evaluation by length: users, and positions of their histories. Small batches
# have less padding; eval_batch_size can be lower.
_LARGEST_BATCH = {"cpu": (256, 4096)}
_LARGEST_BATCH_ELSEWHERE = (1024, 65536)
# On a CPU fewer users, as long as their scores do not fit into 6 MB of cache.
_CACHED_SCORES, _FEWEST_USERS = 1_500_000, 64
_MOST_SCORES = 2**28  # at once: 1 GiB, and RecBole's loop copies some of them


class HistoryMaskLoader(FullSortEvalDataLoader):
    r"""Full ranking over windows, for sequential and general models alike.

    RecBole's trainer sets the scores of the items that a loader calls "history" to -inf. For
    sequential models RecBole's own loader never names any; this one names the user's whole
    history before the target (``eval_exclude_history: True``), which is the ranking over
    I \ I_u of the paper, or none (``False``, RecBole's protocol). A target that the user has had
    before is a seen item like the others. Where windows have candidates (``task: topn``), the
    loader names everything else as well.

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
        """History of each user before the first target; ``[n_users]`` tensors of ids.

        For users without a target, all their items. With ``eval_exclude_history: False`` none.
        """
        windows = self._dataset.inter_feat
        store = windows.store
        items, starts = store.columns[self.iid_field].numpy(), store.starts
        ends = starts[1:].copy()
        np.minimum.at(ends, windows[self.uid_field].numpy(), windows.rows)
        if not self.config["eval_exclude_history"]:
            ends = starts[:-1]
        history = np.empty(len(ends), dtype=object)
        history[:] = [
            torch.from_numpy(np.unique(items[start:end])).long()
            for start, end in zip(starts[:-1], ends, strict=True)
        ]
        return history

    def _init_batch_size_and_step(self):
        self.step = self.config["eval_batch_size"]
        self.set_batch_size(self.step)
        windows = self._dataset.inter_feat
        if windows.cuts_padding:
            device = self.config["device"].type
            rows, tokens = _LARGEST_BATCH.get(device, _LARGEST_BATCH_ELSEWHERE)
            if device == "cpu":
                cached = _CACHED_SCORES // self._dataset.item_num
                rows = min(rows, max(cached, _FEWEST_USERS))
            rows = min(rows, max(_MOST_SCORES // self._dataset.item_num, 1))
            self.batches = batches_by_length(windows.lengths(), min(self.step, rows), tokens)
        else:
            self.batches = batches_by_length(np.zeros(len(windows)), self.step)  # in their order

    def collate_fn(self, index):
        """Batch of windows, what to mask in it, and where the targets are."""
        batch = self.transform(self._dataset, self._dataset[index])
        history = None
        if self.config["eval_exclude_history"]:
            history = self._dataset.inter_feat.history(index)
        if CANDIDATES in batch:
            candidates = batch[CANDIDATES]
            others = torch.ones(len(candidates), self._dataset.item_num, dtype=torch.bool)
            others.scatter_(1, candidates, False)
            if history is not None:
                others[history] = True
            history = others
            if not knows_candidates(self.config.model_class):
                del batch.interaction[CANDIDATES]
        return batch, history, torch.arange(len(index)), batch[self.iid_field]


class RowsMaskLoader(FullSortEvalDataLoader):
    """Full ranking of a general model over a split that gives a user several targets.

    RecBole leaves all targets out of the history that it masks, also those that the user has had
    in an earlier part.
    """

    def __init__(self, config, dataset, sampler, shuffle=False):
        super().__init__(config, dataset, sampler, shuffle=shuffle)
        history = self.uid2history_item
        if not config["eval_exclude_history"]:
            for user in self.uid_list.tolist():
                history[user] = history[user][:0]
            return
        rows = dataset.inter_feat[repeated_rows(dataset, _earlier_parts(sampler))]
        pairs = zip(rows[self.uid_field].tolist(), rows[self.iid_field].tolist(), strict=True)
        for user, item in set(pairs):
            history[user] = torch.cat([history[user], torch.tensor([item])])


class SampledMaskLoader(NegSampleEvalDataLoader):
    """Ranking of a general model against sampled items, none of which the user has had.

    A target that the user has had before would be the only such item among them, and therefore
    recognisable. It gets no score, which makes it a miss.
    """

    def __init__(self, config, dataset, sampler, shuffle=False):
        super().__init__(config, dataset, sampler, shuffle=shuffle)
        self._repeated = torch.from_numpy(repeated_rows(dataset, _earlier_parts(sampler)))

    def collate_fn(self, index):
        """Batch of RecBole's, without the rows of repeated targets."""
        batch, owner, positive_u, positive_i = super().collate_fn(index)
        dropped = []
        for user in self.uid_list[np.array(index)]:  # RecBole's order: targets, their negatives
            targets = self._repeated[self.uid2index[user]]
            dropped += [targets, torch.zeros(len(targets) * (self.times - 1), dtype=torch.bool)]
        kept = ~torch.cat(dropped)
        return batch[kept], owner[kept], positive_u, positive_i


def _earlier_parts(sampler) -> list:
    """Parts before that of one of RecBole's samplers."""
    return sampler.datasets[: sampler.phases.index(sampler.phase)]


def eval_loader(config, loader_class: type, part) -> type:
    """Loader class of a part of an evaluation, in place of that which RecBole has for it."""
    full = loader_class is FullSortEvalDataLoader
    # RecBole's loader of sampled negatives cannot be empty.
    if isinstance(part.inter_feat, Windows) and (full or not len(part)):
        return HistoryMaskLoader
    if config["MODEL_TYPE"] == ModelType.SEQUENTIAL:
        return loader_class
    if full:
        return RowsMaskLoader
    ranks = config["eval_type"] == EvaluatorType.RANKING and config["eval_exclude_history"]
    return SampledMaskLoader if ranks else loader_class


class _RandomRows(RandomSampler):
    """Torch's sampler, row for row, without a Python list of all rows."""

    def __iter__(self):
        order = torch.randperm(len(self), generator=self.generator)
        for rows in order.split(65536):
            yield from rows.tolist()
        # Torch draws a second one, unused; the next pass must begin at the same state.
        torch.randperm(len(self), generator=self.generator)


class ResamplingLoader(TrainDataLoader):
    """Training on what each epoch resamples: windows (``ResampledWindows``), candidates.

    They come from the loader's own generator, whose state a checkpoint holds. Windows that are cut
    to the longest history of a batch can come in batches of similar length (``bucket_by_length``).

    Attributes
    ----------
    buckets : LengthBuckets or None
        None: the batches are torch's.
    """

    def __init__(self, config, dataset, sampler, shuffle=False):
        self.buckets: LengthBuckets | None = None
        super().__init__(config, dataset, sampler, shuffle)
        windows, tokens = dataset.inter_feat, config["max_tokens_per_batch"]
        if shuffle and windows.cuts_padding and (tokens or config["bucket_by_length"]):
            self.buckets = LengthBuckets(windows, self.step, tokens, self.generator)

    @property
    def _index_sampler(self):
        """What torch's loaders take the rows of each batch from."""
        if self.buckets is None and isinstance(self.sampler, RandomSampler):
            rows = _RandomRows(self.sampler.data_source, generator=self.sampler.generator)
            return BatchSampler(rows, self.batch_size, drop_last=False)
        return self.buckets or super()._index_sampler

    @property
    def targets_per_batch(self) -> float | None:
        """Mean of a pass, where it differs between the batches (``max_tokens_per_batch``)."""
        if self.buckets is None or self.buckets.max_tokens is None:
            return None
        return float(self._dataset.inter_feat.target_counts().sum() / len(self.buckets))

    def __iter__(self):
        windows = self._dataset.inter_feat
        if windows.candidates is not None:
            windows.candidates.resample(self.generator)
        if isinstance(windows, ResampledWindows):
            windows.resample(self.generator)
        if windows.drop_ratio:
            windows.draw_dropped(self.generator)
        # The number of windows may change; this is the list that torch's loader indexes.
        resizable = isinstance(self.sampler, (RandomSampler, SequentialSampler))
        if resizable and len(self.sampler.data_source) != len(windows):
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
