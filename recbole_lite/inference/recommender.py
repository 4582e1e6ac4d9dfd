"""Recommendations from a trained model: raw item ids in; ids, titles and scores out."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from logging import getLogger
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np
from huggingface_hub import ModelHubMixin, snapshot_download

from recbole_lite.config.saved_config import BEST_FILE, CONFIG_FILE
from recbole_lite.inference import graph_file, history_inputs, ranking
from recbole_lite.inference import model_folder as folders
from recbole_lite.inference.catalogue import Catalogue
from recbole_lite.inference.onnx_runtime import OnnxRuntime
from recbole_lite.utils.errors import (
    CheckpointError,
    MissingDependencyError,
    RequestError,
    one_line,
)

if TYPE_CHECKING:
    import torch

    from recbole_lite.inference.torch_runtime import TorchRuntime

RUNTIMES = ("auto", "onnx", "torch")
NO_HISTORY = ("empty", "popular", "error")
_HUB_FILES = [
    "config.json", folders.ITEMS_FILE, folders.WEIGHTS_FILE, "model-*.onnx", "README.md",
]  # fmt: skip


class Recommendation(NamedTuple):
    """An item that is recommended."""

    id: str
    title: str
    score: float


class UnknownItemWarning(UserWarning):
    """Items of a history are not in the catalogue and were left out."""


class Recommender(ModelHubMixin):
    """A trained model that recommends for anyone with a history of items.

    Made by :meth:`load` (a folder) or :meth:`from_pretrained` (a folder or a repository of the
    Hugging Face hub). On a CPU a LiteLLM4Rec or an ItemLM runs in onnxruntime, on a graph that is
    exported into the folder when it is first needed; everything else runs in torch.

    Parameters
    ----------
    contents : ModelBundle
        What a model's folder holds.
    device, runtime
        See :meth:`load`.

    Attributes
    ----------
    catalogue : Catalogue
        Its items.
    about : dict
        Format, architecture, data, measured results.
    """

    # Not None: otherwise huggingface_hub copies the arguments, all weights among them.
    _hub_mixin_config: ClassVar[dict] = {}

    def __init__(self, contents: folders.ModelBundle, device="cpu", runtime: str = "auto"):
        if runtime not in RUNTIMES:
            raise RequestError(f"runtime must be one of {', '.join(RUNTIMES)}, found {runtime!r}")
        self._contents, self._device = contents, device
        self._asked, self._graph = runtime, None
        self._by_torch = self._why_torch(runtime)
        self._model = self._runtime = None
        self._new_items = None  # fitted at the first call of add_items
        if self._by_torch or not self._graph.exists():
            self._build()  # what cannot be built is an error of loading

    def _why_torch(self, runtime: str) -> str | None:
        """Reason for torch; None: onnxruntime it is.

        Raises
        ------
        RequestError, MissingDependencyError
            ``onnx`` is asked for and cannot be had.
        """
        if runtime == "torch":
            return "asked for"
        if self._contents.model not in graph_file.EXPORTABLE:
            reason = f"{self._contents.model} has no graph"
        elif str(self._device).partition(":")[0] != "cpu":
            reason = f"onnxruntime runs on the CPU here, device is {self._device}"
        else:
            self._graph = graph_file.path_of(self._contents)
            missing = None if self._graph.exists() else graph_file.missing_package()
            if missing is None:
                return None
            reason = f"{missing} is not installed; type: pip install 'recbole-lite[onnx]'"
            if runtime == "onnx":
                raise MissingDependencyError(f"runtime: onnx: {reason}")
        if runtime == "onnx":
            raise RequestError(f"runtime: onnx: {reason}; set auto or torch")
        return reason

    # -- loading and saving -----------------------------------------------------------------

    @classmethod
    def load(cls, folder: str | Path, device="cpu", runtime: str = "auto") -> Recommender:
        """Load a finished run's folder, or a packed one.

        Parameters
        ----------
        folder : str or Path
            ``saved/<run>``, or what :meth:`save_pretrained` wrote.
        device : str or torch.device
        runtime : {"auto", "onnx", "torch"}
            onnx: onnxruntime, on the CPU; torch: the model itself; auto: onnx where it can be had.

        Raises
        ------
        CheckpointError
            It is no model's folder, damaged, unfinished or of a newer format; with what to do.
        RequestError, MissingDependencyError
            There is no such runtime, or none for this model and device.
        """
        return cls(folders.read(folder), device, runtime)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs) -> Recommender:
        """Load a local folder or a repository of the hub; see huggingface_hub's ModelHubMixin.

        Raises
        ------
        CheckpointError
            As :meth:`load`; or there is no such repository.
        """
        if Path(pretrained_model_name_or_path).is_dir():
            return cls.load(pretrained_model_name_or_path, **_chosen(kwargs))
        try:
            return super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        except (CheckpointError, RequestError, MissingDependencyError):
            raise
        except Exception as error:  # names, HTTP, file system: many classes
            raise CheckpointError(
                f"{pretrained_model_name_or_path}: neither a local folder nor to be had from the "
                f"Hugging Face hub ({one_line(error)})"
            ) from error

    @classmethod
    def _from_pretrained(
        cls, *, model_id, revision, cache_dir, force_download, local_files_only, token, **kwargs
    ):
        fetched = snapshot_download(
            model_id,
            revision=revision,
            cache_dir=cache_dir,
            force_download=force_download,
            local_files_only=local_files_only,
            token=token,
            allow_patterns=_HUB_FILES,
        )
        return cls.load(fetched, **_chosen(kwargs))

    def save_pretrained(self, save_directory: str | Path, **kwargs) -> str | None:
        """Write a folder to give away; see huggingface_hub's ModelHubMixin.

        A model card that is there already stays as it is, unless it is another model's.

        Raises
        ------
        RequestError
            The folder is a run's, whose settings would be lost.
        """
        if (Path(save_directory) / BEST_FILE).exists():
            raise RequestError(f"{save_directory}: the folder of a run; give another one")
        self._config_before = _bytes_of(Path(save_directory, CONFIG_FILE))
        return super().save_pretrained(save_directory, **kwargs)

    def _save_pretrained(self, save_directory: Path) -> None:
        folders.write(save_directory, self._contents)
        if self._config_before not in (None, _bytes_of(save_directory / CONFIG_FILE)):
            (save_directory / "README.md").unlink(missing_ok=True)  # another model's

    def generate_model_card(self, *args, **kwargs):
        """Model card with the data, the protocol and the measured metrics."""
        from recbole_lite.inference.model_card import model_card

        return model_card(self._contents)

    # -- what it is -------------------------------------------------------------------------

    @property
    def catalogue(self) -> Catalogue:
        """The items."""
        return self._contents.catalogue

    @property
    def about(self) -> Mapping:
        """Format, architecture, data and measured results."""
        return self._contents.about

    @property
    def name(self) -> str:
        """Model and data set, e.g. ``LiteLLM4Rec-ml-1m``."""
        return f"{self._contents.model}-{self._contents.dataset}"

    @property
    def model(self) -> torch.nn.Module:
        """The model itself, in evaluation mode, built at first use."""
        if self._model is None:
            self._build()
        return self._model

    @property
    def runtime(self) -> OnnxRuntime | TorchRuntime:
        """What scores: ``runtime.name`` is ``onnx`` or ``torch``. Made at first use."""
        if self._runtime is None and not self._by_torch:
            self._runtime = self._open_graph()
        if self._runtime is None:
            from recbole_lite.inference.torch_runtime import TorchRuntime

            self._runtime = TorchRuntime(self.model)
        return self._runtime

    def _build(self) -> None:
        import torch

        from recbole_lite.inference.loading import build_model

        try:
            self._model = build_model(self._contents, torch.device(self._device))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            # Settings that were changed by hand or cut off; the weights' own errors say more.
            raise CheckpointError(
                f"{self._contents.weights.parent}: its settings do not describe a "
                f"{self._contents.model} ({one_line(error)})"
            ) from error

    def _open_graph(self) -> OnnxRuntime | None:
        """The graph in onnxruntime, made if need be; None: it cannot be made."""
        if self._graph.exists():
            try:
                return OnnxRuntime(self._graph)
            except CheckpointError as error:
                getLogger().warning(f"{one_line(error)}; it is made anew")
                self._graph.unlink(missing_ok=True)
        try:
            graph = graph_file.make(self._contents, self.model)
        except Exception as error:  # the exporter's, about operators that it does not know
            if self._asked == "onnx":
                raise CheckpointError(f"runtime: onnx: no graph: {one_line(error)}") from error
            getLogger().warning(f"no graph for onnxruntime, torch runs it: {one_line(error)}")
            self._by_torch = "no graph can be made"
            return None
        self._model = None  # what it takes is for others now
        return OnnxRuntime(graph)

    # -- recommending -----------------------------------------------------------------------

    def recommend(
        self,
        histories: Iterable[Sequence],
        k: int = 10,
        exclude_seen: bool = True,
        candidates: Sequence | None = None,
        unknown: str = "warn",
        batch_size: int = 256,
        no_history: str = "empty",
    ) -> list[list[Recommendation]]:
        """Recommend items for users of whom only a history is known.

        Parameters
        ----------
        histories : iterable of sequence of str
            Raw item ids of each user, the earliest first, of any length; the model reads the
            last ``MAX_ITEM_LIST_LENGTH`` of them. Ids may be texts, bytes or numbers, in lists,
            arrays, tensors or columns (:func:`~recbole_lite.inference.history_inputs.raw_id`).
        k : int
            Items for each; fewer are given where no more are left to choose from.
        exclude_seen : bool
            Leave out what is in the (whole) history.
        candidates : sequence of str, or of one such sequence per user, optional
            Raw ids to choose from; default: the catalogue.
        unknown : {"warn", "error"}
            What to do about ids that the catalogue does not have: leave them out with an
            :class:`UnknownItemWarning`, or raise.
        batch_size : int
            Histories that are scored together.
        no_history : {"empty", "popular", "error"}
            What users without a known item get: an empty list, the items with the most
            interactions (their number is the score), or an exception for all.

        Returns
        -------
        list of list of Recommendation
            For each history ``(id, title, score)``, best first.

        Raises
        ------
        RequestError
            A value out of range, ids that are none, candidates or (as asked) ids that the
            catalogue does not have, or no history where ``no_history`` is ``error``.
        """
        for name, value, choices in (
            ("unknown", unknown, ("warn", "error")),
            ("no_history", no_history, NO_HISTORY),
        ):
            if value not in choices:
                raise RequestError(f"{name} must be one of {', '.join(choices)}, found {value!r}")
        k = self.check_k(k)
        batch_size = history_inputs.whole_number(batch_size, "batch_size", 1)
        known = self._known(histories, unknown, no_history)
        among = self._candidates(candidates, len(known))
        result: list[list[Recommendation]] = [[] for _ in known]
        for rows in _chunks([row for row, items in enumerate(known) if items], batch_size):
            chunk = [known[row] for row in rows]
            if isinstance(among, list):
                ranked = self._rank_each(chunk, k, exclude_seen, [among[row] for row in rows])
            else:
                ranked = self.rank(chunk, k, exclude_seen, among)
            for row, (items, scores) in zip(rows, ranked, strict=True):
                result[row] = self.describe(items, scores)
        if no_history == "popular":
            for row in (row for row, items in enumerate(known) if not items):
                result[row] = self._popular(k, among[row] if isinstance(among, list) else among)
        return result

    def _candidates(self, candidates, users: int) -> np.ndarray | list[np.ndarray] | None:
        """Internal ids that all may get, or each user."""
        if candidates is None:
            return None
        rows = history_inputs.rows_of(candidates, "candidates")
        if all(map(history_inputs.is_one_id, rows)):
            return self.among(rows)
        if len(rows) != users:
            raise RequestError(
                f"candidates: {len(rows)} lists for {users} histories; give one list for all, or "
                "one for each"
            )
        return [self.among(row) for row in rows]

    def _rank_each(self, histories, k, exclude_seen, among) -> Iterator[tuple[list, list]]:
        """:meth:`rank` where each user has candidates of their own."""
        for row, history, own in zip(self.score(histories), histories, among, strict=True):
            ids, scores = ranking.top(row[None], k, [history] if exclude_seen else None, own)
            left = int((ids != 0).sum())
            yield ids[0, :left].tolist(), scores[0, :left].tolist()

    def _popular(self, k: int, among: np.ndarray | None) -> list[Recommendation]:
        if self.catalogue.counts is None:
            raise RequestError(
                "no_history: popular: the folder does not say how often items occur (an older "
                f"version wrote it); type: recbole-lite pack --model={quote(str(self._folder))}"
            )
        counts = np.array([[-np.inf, *self.catalogue.counts[1:]]])
        ids, scores = ranking.top(counts, k, None, among)
        return self.describe(ids[0].tolist(), scores[0].tolist())

    def describe(self, items: Sequence[int], scores: Sequence[float]) -> list[Recommendation]:
        """Ids and titles of ranked items."""
        ids, titles = self.catalogue.ids, self.catalogue.titles
        pairs = zip(items, scores, strict=True)
        return [Recommendation(ids[item], titles[item], score) for item, score in pairs]

    def rank(
        self,
        histories: Sequence[Sequence[int]],
        k: int,
        exclude_seen: bool = True,
        among: np.ndarray | None = None,
    ) -> Iterator[tuple[list[int], list[float]]]:
        """Best items of one batch of histories, all in internal ids (of the catalogue).

        Parameters
        ----------
        histories : sequence of sequence of int
            None empty.
        k, exclude_seen
            See :meth:`recommend`.
        among : numpy.ndarray, optional
            As :meth:`among` gives it.

        Yields
        ------
        (list of int, list of float)
            Items of one history, best first, and their scores.
        """
        exclude = histories if exclude_seen else None
        ids, scores = self.runtime.rank(histories, k, exclude, among)
        left = (ids != 0).sum(1).tolist()
        for items, values, n in zip(ids.tolist(), scores.tolist(), left, strict=True):
            yield items[:n], values[:n]

    def add_items(self, items: Sequence[str | Mapping[str, str]]) -> list[str]:
        """Add items that the model was not trained on, known by their text alone.

        What the model needs of them is predicted from the Item LLM's vectors; how well that
        works is measured in docs/recommend.md. :meth:`save_pretrained` keeps them. From now on
        torch scores; what is saved and loaded again has a graph of its own.

        Parameters
        ----------
        items : sequence of str or mapping
            Texts written like those of the catalogue (``recommender.catalogue.texts``), or
            mappings with ``text`` and, if wanted, ``id`` and ``title``.

        Returns
        -------
        list of str
            Their raw ids.

        Raises
        ------
        RequestError
            An item without text or with an id that is taken; a model that knows no texts.
        ModelFilesError, MissingDependencyError
            The Item LLM cannot be had.
        """
        from recbole_lite.inference.new_items import NewItems, add_items

        if self._new_items is None:
            self._new_items = NewItems(self._contents, self.model)
        ids = add_items(self._contents, self.model, self._new_items, items)
        self._by_torch, self._runtime = "items were added", None  # the graph is of the model before
        return ids

    def score(self, histories: Sequence[Sequence[int]]) -> np.ndarray:
        """Scores of all items for histories of internal ids, none empty.

        Returns
        -------
        numpy.ndarray [B, n_items], float32
            Those of the model's ``full_sort_predict`` but for rounding; -inf for padding (id 0).
        """
        return self.runtime.scores(histories)

    def warm_up(self, users: int = 32) -> None:
        """Make the graph if need be, and answer batches of up to `users`."""
        self.runtime.warm_up(users)

    def check_k(self, k) -> int:
        """A `k` that is a number of items of this catalogue.

        Raises
        ------
        RequestError
        """
        most, why = len(self.catalogue), " (the number of items in the catalogue)"
        return history_inputs.whole_number(k, "k", 1, most, why)

    @property
    def _folder(self) -> Path:
        return self._contents.weights.parent

    def _known(self, histories, unknown, no_history) -> list[list[int]]:
        rows, strangers = [], []
        for number, history in enumerate(history_inputs.rows_of(histories, "histories")):
            if history_inputs.is_one_id(history):
                raise RequestError(
                    f"history {number} is {history!r}, not a list of ids; "
                    "for one user write [[...]]"
                )
            known, unheard = self.catalogue.resolve(
                history_inputs.raw_ids(history, f"history {number}")
            )
            if unheard and unknown == "error":
                raise RequestError(f"history {number}: {named_unknown(unheard)}")
            if not known and no_history == "error":
                why = f"has no known item: {named_unknown(unheard)}" if unheard else "is empty"
                raise RequestError(f"history {number} {why}; give at least one known item")
            rows.append(known)
            strangers += unheard
        if strangers:
            warnings.warn(
                f"left out of the histories: {named_unknown(strangers)}",
                UnknownItemWarning,
                stacklevel=3,
            )
        return rows

    def among(self, candidates: Sequence | None) -> np.ndarray | None:
        """Internal ids of candidates, each once; None for None.

        Raises
        ------
        RequestError
            None are given, or one is not in the catalogue.
        """
        if candidates is None:
            return None
        ids = history_inputs.raw_ids(candidates, "candidates")
        known, unknown = self.catalogue.resolve(dict.fromkeys(ids))
        if unknown:
            raise RequestError(f"candidates: {named_unknown(unknown)}")
        if not known:
            raise RequestError("candidates: the list is empty; leave it out to rank all items")
        return np.array(known)


def _bytes_of(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def _chosen(arguments: Mapping) -> dict:
    """Arguments of :meth:`Recommender.load` among those of ``from_pretrained``."""
    return {name: arguments[name] for name in ("device", "runtime") if name in arguments}


def named_unknown(ids: Sequence[str]) -> str:
    """Say which ids the catalogue does not have."""
    distinct = list(dict.fromkeys(ids))
    shown = ", ".join(repr(i) for i in distinct[:5])
    more = f" and {len(distinct) - 5} more" if len(distinct) > 5 else ""
    return f"{len(distinct)} id{'s' * (len(distinct) > 1)} not in the catalogue ({shown}{more})"


def _chunks(rows: list, size: int) -> Iterator[list]:
    return (rows[i : i + size] for i in range(0, len(rows), size))
