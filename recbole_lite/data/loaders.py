"""Loaders: evaluation that knows what each user has had, training on drawn segments."""

from __future__ import annotations

from itertools import islice
from logging import getLogger

import torch
from recbole.data.dataloader import FullSortEvalDataLoader, TrainDataLoader
from recbole.data.dataloader.abstract_dataloader import AbstractDataLoader
from torch.utils.data import RandomSampler, SequentialSampler

from recbole_lite.data.windows import CANDIDATES, DrawnWindows
from recbole_lite.registry import knows_candidates


class HistoryMaskLoader(FullSortEvalDataLoader):
    r"""Full ranking over windows, for sequential and general models alike.

    RecBole's trainer sets the scores of the items that a loader calls "history" to -inf. For
    sequential models RecBole's own loader never names any; this one names the user's whole
    history before the target (``eval_exclude_history: True``), which is the ranking over
    I \ I_u of the paper, or none (``False``, RecBole's protocol). Where windows have candidates
    (``task: topn``), it names everything else.
    """

    def __init__(self, config, dataset, sampler, shuffle=False):
        # FullSortEvalDataLoader builds tables of general models in Python loops; the windows
        # make them unnecessary, so its own constructor is passed over.
        self.logger = getLogger()
        self.uid_field, self.iid_field = dataset.uid_field, dataset.iid_field
        self.sample_size = len(dataset)
        AbstractDataLoader.__init__(self, config, dataset, sampler, shuffle=False)

    def _init_batch_size_and_step(self):
        self.step = self.config["eval_batch_size"]
        self.set_batch_size(self.step)

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


class DrawingLoader(TrainDataLoader):
    """Training on what each epoch draws anew: windows (``Segments``, ``Prefixes``), candidates.

    They come from the loader's own generator, whose state a checkpoint holds.
    """

    def __iter__(self):
        windows = self._dataset.inter_feat
        if windows.candidates is not None:
            windows.candidates.draw(self.generator)
        if isinstance(windows, DrawnWindows):
            windows.draw(self.generator)
        # A draw may give another number of windows; this is the list that torch's loader indexes.
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
