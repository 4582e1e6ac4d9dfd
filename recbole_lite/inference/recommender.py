"""`Recommender`: recommendations from a trained model, from raw item ids to ids and scores."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
from huggingface_hub import ModelHubMixin, snapshot_download

from recbole_lite.config.saved_config import BEST_FILE, CONFIG_FILE
from recbole_lite.data.raw_values import is_frame
from recbole_lite.inference import history_inputs, reranking
from recbole_lite.inference.catalogue import Catalogue
from recbole_lite.inference.history_inputs import UnknownItemWarning as UnknownItemWarning
from recbole_lite.inference.model_folder import (
    ITEMS_FILE,
    WEIGHTS_FILE,
    ModelBundle,
    read_bundle,
    write_bundle,
)
from recbole_lite.inference.ranking import filled, top_k
from recbole_lite.inference.runtimes import ModelRuntimes
from recbole_lite.utils.errors import (
    CheckpointError,
    MissingDependencyError,
    RequestError,
    one_line,
)

if TYPE_CHECKING:
    import torch

    from recbole_lite.inference.new_items import NewItemPredictor
    from recbole_lite.inference.onnx_runtime import OnnxRuntime
    from recbole_lite.inference.torch_runtime import TorchRuntime

_REASONS = 3  # of each explained recommendation
_DOWNLOAD = ("revision", "cache_dir", "force_download", "local_files_only", "token")
_MODEL_FILES = ["model-*.onnx", "model-*.npy"]
_HUB_FILES = [CONFIG_FILE, ITEMS_FILE, WEIGHTS_FILE, *_MODEL_FILES, "README.md"]


class Recommendation(NamedTuple):
    """A recommended item; its id is a text, or what a data frame of the training held."""

    id: Any
    title: str
    score: float


class Reason(NamedTuple):
    """An item of a history, and how much it adds to the score of a recommended item.

    The effect is the fall of the logarithm of the softmax probability without the item; None where
    it is the only one.
    """

    id: Any
    title: str
    effect: float | None


class Explained(NamedTuple):
    """A recommended item with the items of the history that add most to its score."""

    id: Any
    title: str
    score: float
    because: list[Reason]


class Recommender(ModelHubMixin):
    """A trained model that recommends to any user with a history of items.

    Created by :meth:`load` (a folder) or :meth:`from_pretrained` (a folder or a repository of the
    Hugging Face Hub). On a CPU, LiteLLM4Rec and ItemLM run in onnxruntime, on a graph that is
    exported into the folder at first use; other models and devices run in torch.

    Parameters
    ----------
    bundle : ModelBundle
        Content of a model's folder.
    device, runtime, item_ids, item_dtype
        See :meth:`load`.
    """

    # Not None: otherwise huggingface_hub copies the arguments, including all weights.
    _hub_mixin_config: ClassVar[dict] = {}  # type: ignore[misc]

    def __init__(
        self,
        bundle: ModelBundle,
        device="cpu",
        runtime: str = "auto",
        item_ids: Iterable[Hashable] | None = None,
        item_dtype: str = "float32",
    ):
        self._bundle = bundle
        self._ids = history_inputs.OriginalIds(item_ids, bundle.about.get("item_id_type"))
        self._runtimes = ModelRuntimes(bundle, device, runtime, item_dtype)
        self._units: dict[str, np.ndarray] = {}  # vectors of length 1
        self._new_items: NewItemPredictor | None = None  # fitted at the first call of add_items

    # -- loading and saving -----------------------------------------------------------------

    @classmethod
    def load(
        cls,
        folder: str | Path,
        device="cpu",
        runtime: str = "auto",
        item_ids: Iterable[Hashable] | None = None,
        item_dtype: str = "float32",
    ) -> Recommender:
        """Load the folder of a finished run, or a packed folder.

        Parameters
        ----------
        folder : str or Path
            ``saved/<run>``, or a folder written by :meth:`save_pretrained`.
        device : str or torch.device
        runtime : {"auto", "onnx", "torch", "blocks", "ann"}
            onnx: onnxruntime, on the CPU; torch: the model itself; blocks: torch, which ranks a
            block of the catalogue at a time; ann: an approximate index of faiss, which is made in
            the folder at first use; auto: blocks of more than a million items, else onnx if
            available.
        item_ids : iterable of hashable, optional
            Items' ids of any type, such as the column of a data frame: histories may hold them,
            and recommendations do. Not needed for texts and whole numbers.
        item_dtype : {"float32", "bfloat16", "float16"}
            Type in which the items' vectors and the head are in memory, with blocks and ann.

        Raises
        ------
        CheckpointError
            The folder does not hold a model, is incomplete or damaged, or has a newer format; the
            message says what to do.
        RequestError, MissingDependencyError
            Unknown runtime, or one that cannot run this model on this device.
        """
        return cls(read_bundle(folder), device, runtime, item_ids, item_dtype)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs) -> Recommender:
        """Load a local folder or a repository of the Hub; see huggingface_hub's ModelHubMixin.

        Raises
        ------
        CheckpointError
            See :meth:`load`; also if there is no such repository.
        """
        if Path(pretrained_model_name_or_path).is_dir():
            return cls.load(pretrained_model_name_or_path, **_load_arguments(kwargs))
        try:
            return super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        except (CheckpointError, RequestError, MissingDependencyError):
            raise
        except Exception as error:  # names, HTTP, file system: many classes
            raise CheckpointError(
                f"{pretrained_model_name_or_path}: neither a local folder nor available on the "
                f"Hugging Face Hub ({one_line(error)})"
            ) from error

    @classmethod
    def _from_pretrained(cls, *, model_id, **kwargs):
        how = {name: kwargs[name] for name in _DOWNLOAD}
        fetched = snapshot_download(model_id, allow_patterns=_HUB_FILES, **how)
        return cls.load(fetched, **_load_arguments(kwargs))

    def save_pretrained(self, save_directory: str | Path, **kwargs) -> str | None:
        """Write a packed folder; see huggingface_hub's ModelHubMixin.

        An existing model card is kept, unless it describes another model.

        Raises
        ------
        RequestError
            The folder is that of a run, whose settings would be lost.
        """
        if (Path(save_directory) / BEST_FILE).exists():
            raise RequestError(f"{save_directory}: the folder of a run; give another one")
        path = Path(save_directory, CONFIG_FILE)
        self._config_before = path.read_text(encoding="utf-8") if path.exists() else None
        return super().save_pretrained(save_directory, **kwargs)

    def _save_pretrained(self, save_directory: Path) -> None:
        write_bundle(save_directory, self._bundle)
        before = self._config_before
        written = (save_directory / CONFIG_FILE).read_text(encoding="utf-8")
        if before is not None and before.rstrip() != written.rstrip():
            (save_directory / "README.md").unlink(missing_ok=True)  # of another model

    def generate_model_card(self, *args, **kwargs):
        """Model card with the data set, the protocol and the measured metrics."""
        from recbole_lite.inference.model_card import model_card

        return model_card(self._bundle)

    # -- parts ------------------------------------------------------------------------------

    @property
    def catalogue(self) -> Catalogue:
        """Items that the model can recommend."""
        return self._bundle.catalogue

    @property
    def about(self) -> Mapping:
        """Format version, architecture, data and measured results."""
        return self._bundle.about

    @property
    def folder(self) -> Path:
        """Folder that the model was loaded from."""
        return self._bundle.weights.parent

    @property
    def excludes_seen(self) -> bool:
        """Whether the items of a history are excluded unless a call says otherwise.

        The run's ``eval_exclude_history``: False after ``repeatable: True``.
        """
        return self._bundle.settings.get("eval_exclude_history") is not False

    @property
    def searches(self) -> bool:
        """Whether a beam search finds the items (TIGER); others are scored all."""
        return self._bundle.settings.get("decoder") is True

    @property
    def name(self) -> str:
        """Names of model and data set, e.g. ``LiteLLM4Rec-ml-1m``."""
        return f"{self._bundle.model}-{self._bundle.dataset}"

    @property
    def model(self) -> torch.nn.Module:
        """The torch model in evaluation mode, built at first use."""
        return self._runtimes.model

    @property
    def runtime(self) -> OnnxRuntime | TorchRuntime:
        """Runtime that computes the scores, opened at first use; its ``name`` is onnx or torch."""
        return self._runtimes.runtime

    # -- recommending -----------------------------------------------------------------------

    def recommend(
        self,
        histories: Any,
        k: int = 10,
        exclude_seen: bool | None = None,
        candidates: Sequence | None = None,
        unknown: str = "warn",
        batch_size: int = 256,
        no_history: str = "empty",
        *,
        where: Mapping[str, Any] | None = None,
        exclude: Sequence | None = None,
        diversity: float = 0.0,
        explain: bool = False,
        probabilities: bool = False,
    ) -> list[list[Recommendation]]:
        """Recommend items to users, given their histories.

        Parameters
        ----------
        histories : iterable of sequence of str, or table
            Raw item ids of each user, oldest first, of any length; the model reads the last
            ``MAX_ITEM_LIST_LENGTH`` of them. Ids may be strings, bytes or numbers, in lists,
            arrays, tensors or columns (:func:`~recbole_lite.inference.history_inputs.raw_id`).
            Or a table of interactions (of pandas, polars, pyarrow; a list of dicts, a dict of
            lists) with columns of users, items and, optionally, times: one history per user, in
            the order of their first rows.
        k : int
            Items per user; fewer if fewer items are available.
        exclude_seen : bool, optional
            Whether to exclude the items of the (whole) history; default: as the run was measured
            (:attr:`excludes_seen`).
        candidates : sequence of str, or of one such sequence per user, optional
            Raw ids to choose from; default: the catalogue.
        unknown : {"warn", "error"}
            Treatment of ids that are not in the catalogue: leave them out with an
            :class:`UnknownItemWarning`, or raise.
        batch_size : int
            Histories scored together.
        no_history : {"empty", "popular", "error"}
            Result for users without a known item: an empty list, the items with the most
            interactions (their number is the score), or an exception for the whole call.
        where : mapping, optional
            Conditions on the items' fields, all of which must hold: field -> value, list of
            values, or comparisons such as ``{"gte": 1990, "lt": 2000}``
            (:meth:`.item_filters.ItemFilters.matching`).
        exclude : sequence of str, or of one such sequence per user, optional
            Raw ids that are not recommended.
        diversity : float
            From 0 (order of scores) to 1: weight of the dissimilarity to the items that stand
            before (:func:`.reranking.diverse`).
        explain : bool
            Add the three items of each history that add most to a score. Costs as many further
            histories as the model reads items.
        probabilities : bool
            Scores are calibrated probabilities that the item is the user's next one, among all
            items that `exclude_seen` leaves (other conditions do not change them); of popular
            items, their share of the interactions. Scores all users a second time.

        Returns
        -------
        list of list of Recommendation
            ``(id, title, score)`` for each history, best first; with `explain` of
            :class:`Explained`, which have ``because``, a list of :class:`Reason`.

        Raises
        ------
        RequestError
            A value out of range, an invalid id, a candidate that is not in the catalogue, an
            unknown id with ``unknown="error"``, or a user without a known item with
            ``no_history="error"``.
        """
        k = self.check_k(k)
        batch_size = history_inputs.whole_number(batch_size, "batch_size", 1)
        diversity = history_inputs.share(diversity, "diversity")
        if explain:
            self._check_scored("explain")
        if probabilities:
            self.check_probabilities()
        if is_frame(histories):
            histories = history_inputs.histories_of(histories, self._bundle.settings)
        histories, candidates, exclude = map(self._ids.as_texts, (histories, candidates, exclude))
        known = history_inputs.resolve_histories(self.catalogue, histories, unknown, no_history)
        chosen = self.choices(candidates, where, len(known))
        left_out = history_inputs.resolve_excluded(self.catalogue, exclude, len(known))
        own = chosen if isinstance(chosen, list) else [chosen] * len(known)  # of each user
        result: list[list] = [[] for _ in known]
        choosing = [row for row, among in enumerate(own) if among is None or len(among)]
        for rows in _chunks([row for row in choosing if known[row]], batch_size):
            among = [own[row] for row in rows] if chosen is own else chosen
            excluded = [left_out[row] for row in rows]
            users = [known[row] for row in rows]
            ranked = self.rank(users, k, exclude_seen, among, excluded, diversity, probabilities)
            for row, (items, scores) in zip(rows, ranked, strict=True):
                result[row] = self.describe(items, scores)
                if explain:
                    result[row] = self._explained(known[row], items, result[row])
        if no_history == "popular":
            for row in (row for row in choosing if not known[row]):
                result[row] = self._popular(k, own[row], left_out[row], probabilities)
                if explain:
                    result[row] = [
                        Explained(one.id, one.title, one.score, []) for one in result[row]
                    ]
        return [[one._replace(id=self._ids.original(one.id)) for one in row] for row in result]

    def choices(
        self, candidates: Any, where: Mapping | None, n_users: int
    ) -> np.ndarray | list[np.ndarray] | None:
        """Internal ids to choose from: for all users, or of each; None: the catalogue.

        `candidates` and `where` are those of :meth:`recommend`, as are the errors.
        """
        chosen = history_inputs.resolve_candidates(self.catalogue, candidates, n_users)
        if where is None:
            return chosen
        allowed = self.catalogue.filters.matching(where)
        if chosen is None:
            return np.flatnonzero(allowed)
        if isinstance(chosen, list):
            return [items[allowed[items]] for items in chosen]
        return chosen[allowed[chosen]]

    def _diverse(
        self, items: list[int], scores: list[float], k: int, diversity: float
    ) -> tuple[list[int], list[float]]:
        if not diversity or not items:
            return items, scores
        vectors = self._unit_vectors("trained")[np.array(items) - 1]
        places = reranking.diverse(scores, vectors, k, diversity)
        return [items[place] for place in places], [scores[place] for place in places]

    def _explained(
        self, history: list[int], items: list[int], found: list[Recommendation]
    ) -> list[Explained]:
        read = history[-self.runtime.max_length :]
        sources, effects = reranking.leave_one_out(self.score, read, items)
        ids, titles, original = self.catalogue.ids, self.catalogue.titles, self._ids.original
        result = []
        for column, one in enumerate(found):
            values = [None] if effects is None else effects[:, column].tolist()
            order = sorted(range(len(sources)), key=lambda row: -(values[row] or 0))[:_REASONS]
            reasons = [
                Reason(original(ids[sources[row]]), titles[sources[row]], values[row])
                for row in order
            ]
            result.append(Explained(*one, because=reasons))
        return result

    def _popular(
        self, k: int, candidates: np.ndarray | None, exclude: list[int], probabilities: bool
    ) -> list[Recommendation]:
        if self.catalogue.counts is None:
            raise RequestError(
                "no_history: popular: the folder does not say how often items occur (an older "
                f"version wrote it); type: recbole-lite pack --model={quote(str(self.folder))}"
            )
        counts = np.array([[-np.inf, *self.catalogue.counts[1:]]])
        if probabilities:
            counts /= max(1, sum(self.catalogue.counts))
        ids, scores = top_k(counts, k, [exclude], candidates)
        return self.describe(*next(filled(ids, scores)))

    def describe(self, items: Sequence[int], scores: Sequence[float]) -> list[Recommendation]:
        """Raw ids, titles and scores of ranked items."""
        ids, titles = self.catalogue.ids, self.catalogue.titles
        pairs = zip(items, scores, strict=True)
        return [Recommendation(ids[item], titles[item], score) for item, score in pairs]

    def rank(
        self,
        histories: Sequence[Sequence[int]],
        k: int,
        exclude_seen: bool | None = None,
        candidates: np.ndarray | list[np.ndarray] | list[np.ndarray | None] | None = None,
        exclude: Sequence[Sequence[int]] | None = None,
        diversity: float = 0.0,
        probabilities: bool = False,
    ) -> Iterator[tuple[list[int], list[float]]]:
        """Best items of one batch of histories, in internal ids of the catalogue.

        Parameters
        ----------
        histories : sequence of sequence of int
            Not empty, each.
        k, exclude_seen, diversity, probabilities
            See :meth:`recommend`.
        candidates : numpy.ndarray, or list of one array or None per history, optional
            Internal ids to choose from; None: the catalogue.
        exclude : sequence of sequence of int, optional
            Further internal ids that are not recommended to each.

        Yields
        ------
        (list of int, list of float)
            Items of one history, best first, and their scores.
        """
        if exclude_seen is None:
            exclude_seen = self.excludes_seen
        seen = histories if exclude_seen else [[]] * len(histories)
        more = [[]] * len(histories) if exclude is None else exclude
        left_out = [[*one, *other] for one, other in zip(seen, more, strict=True)]
        wanted = reranking.pool_size(k, len(self.catalogue)) if diversity else k
        logs = self._log_probabilities(histories, seen) if probabilities else None
        ranked = self._ranked(histories, wanted, left_out, candidates)
        for row, (items, scores) in enumerate(ranked):
            items, scores = self._diverse(items, scores, k, diversity)
            yield items, scores if logs is None else np.exp(logs[row, items]).tolist()

    def _log_probabilities(
        self, histories: Sequence[Sequence[int]], seen: Sequence[Sequence[int]]
    ) -> np.ndarray:
        scores = self.score(histories) / self.check_probabilities()
        scores[:, 0] = -np.inf
        for row, items in zip(scores, seen, strict=True):
            row[list(items)] = -np.inf
        with np.errstate(invalid="ignore"):  # of a user who has had all items
            return reranking.log_probabilities(scores)

    def check_probabilities(self) -> float:
        """Temperature of calibrated probabilities.

        Raises
        ------
        RequestError
            The folder has none, or the model has no scores.
        """
        self._check_scored("probabilities")
        value = (self.about.get("temperature") or {}).get("value")
        if value is None:
            raise RequestError(
                f"probabilities: {self.folder} has no temperature; type: recbole-lite calibrate "
                "--model=RUN with the folder of the training, and pack it again"
            )
        return value

    def _ranked(
        self,
        histories: Sequence[Sequence[int]],
        k: int,
        left_out: list[list[int]],
        candidates: np.ndarray | list[np.ndarray] | list[np.ndarray | None] | None,
    ) -> Iterator[tuple[list[int], list[float]]]:
        if not isinstance(candidates, list):
            yield from filled(*self.runtime.rank(histories, k, left_out, candidates))
            return
        if self.searches or self._runtimes.by_blocks:
            for history, own, out in zip(histories, candidates, left_out, strict=True):
                yield from filled(*self.runtime.rank([history], k, [out], own))
            return
        for row, own, out in zip(self.score(histories), candidates, left_out, strict=True):
            yield from filled(*top_k(row[None], k, [out], own))

    # -- vectors ----------------------------------------------------------------------------

    def similar(self, item: Any, k: int = 10, by: str = "trained") -> list[Recommendation]:
        """Items with the vectors most similar to that of an item; scores are cosines.

        Parameters
        ----------
        item : str
            Raw id.
        k : int
        by : {"trained", "text"}
            Vectors that the model ranks with (:meth:`item_vectors`), or those of the Item LLM.

        Raises
        ------
        RequestError
            No item has this id, or the model has no such vectors.
        """
        k = self.check_k(k)
        raw = history_inputs.raw_id(self._ids.as_texts(item))
        place = self.catalogue.index.get(raw)
        if place is None:
            raise RequestError(f"item: {history_inputs.describe_unknown([raw])}")
        vectors = self._unit_vectors(by)
        cosines = np.concatenate([[-np.inf], vectors @ vectors[place - 1]])
        found = self.describe(*next(filled(*top_k(cosines[None], k, [[place]]))))
        return [one._replace(id=self._ids.original(one.id)) for one in found]

    def item_vectors(self) -> np.ndarray:
        """Vectors of the items in the order of ``catalogue.ids[1:]``, ``[n, d]`` float32.

        ``user_vectors(histories) @ item_vectors().T`` are the scores. Needs torch, unless they
        were saved beside the graph.

        Raises
        ------
        MissingDependencyError
        """
        saved = self._runtimes.saved_vectors()
        if saved is not None:
            return saved
        found = self._vector_tools().item_vectors(self.model)
        return found.copy()  # not the model's weights: callers normalise in place

    def user_vectors(self, histories: Any, unknown: str = "warn") -> np.ndarray:
        """Vectors of users, ``[B, d]`` float32; see :meth:`item_vectors`.

        Parameters
        ----------
        histories, unknown
            See :meth:`recommend`; each history has a known item.

        Raises
        ------
        RequestError, MissingDependencyError
        """
        histories = self._ids.as_texts(histories)
        known = history_inputs.resolve_histories(self.catalogue, histories, unknown, "error")
        tools = self._vector_tools()
        found = [tools.user_vectors(self.model, rows) for rows in _chunks(known, 256)]
        return np.concatenate(found) if found else np.empty((0, self.item_vectors().shape[1]))

    def _check_scored(self, what: str) -> None:
        if self.searches:
            raise RequestError(
                f"{what}: {self._bundle.model} finds items by beam search, which gives ranks and "
                "neither vectors nor scores"
            )

    def _unit_vectors(self, by: str) -> np.ndarray:
        if by not in ("trained", "text"):
            raise RequestError(f"by must be trained or text, found {by!r}")
        if by not in self._units:
            if by == "trained":
                vectors = self.item_vectors()
            else:
                vectors = self._vector_tools().text_vectors(self.model)
            self._units[by] = reranking.normalized(vectors)
            self._runtimes.free_model()
        return self._units[by]

    def _vector_tools(self):
        self._check_scored("vectors")
        try:
            from recbole_lite.inference import vectors
        except ModuleNotFoundError as error:
            if error.name != "torch":
                raise
            raise MissingDependencyError("vectors need torch; type: pip install torch") from None
        return vectors

    def add_items(self, items: Any, vectors: np.ndarray | None = None) -> list[Any]:
        """Add items that the model was not trained on, given their texts or vectors.

        Their vectors are predicted from the Item LLM's vectors (accuracy: docs/recommend.md), or
        from `vectors`.
        :meth:`save_pretrained` saves them. After this call torch computes the scores; a saved
        copy, when loaded, has a graph of its own.

        Parameters
        ----------
        items : sequence of str or mapping, or table
            Texts written like those of the catalogue (``recommender.catalogue.texts``), or
            mappings with ``text`` and, optionally, ``id`` and ``title``, or a table with these
            columns (of pandas, polars, pyarrow; a dict of lists).
        vectors : array-like [n, d], optional
            One row per item, from the source of ``item_vectors``, for a model that was trained
            with it; its items need no ``text``.

        Returns
        -------
        list
            Their raw ids.

        Raises
        ------
        RequestError
            An item has no text or an existing id, the model does not read texts, or `vectors` are
            missing, superfluous, or of another shape.
        ModelFilesError, MissingDependencyError
            The Item LLM cannot be loaded.
        """
        from recbole_lite.inference.new_items import NewItemPredictor, add_items

        if self._runtimes.by_blocks:
            raise RequestError(
                f"add_items: not with runtime {self._runtimes.requested}; load with torch"
            )
        if self._new_items is None:
            self._new_items = NewItemPredictor(self._bundle, self.model)
        ids = add_items(self._bundle, self.model, self._new_items, items, vectors)
        self._runtimes.use_torch("items were added")  # the graph lacks them
        self._units.clear()
        return [self._ids.original(one) for one in ids]

    def score(self, histories: Sequence[Sequence[int]]) -> np.ndarray:
        """Scores of all items for non-empty histories of internal ids.

        Returns
        -------
        numpy.ndarray [B, n_items], float32
            Equal to the model's ``full_sort_predict`` up to rounding; -inf for padding (id 0).
        """
        return self.runtime.scores(histories)

    def map_weights(self, folder: Path) -> None:
        """Share the weights with other processes of this machine that give the same folder.

        The first one writes a copy of the graph, optimised for this processor, into the folder;
        all map it into memory. Models that run in torch are not shared.
        """
        self._runtimes.map_weights(folder)

    def warm_up(self, users: int = 32) -> None:
        """Export the graph if necessary, and run batches of up to `users` histories once."""
        self.runtime.warm_up(users)

    def check_k(self, k) -> int:
        """Check that `k` is a whole number from 1 to the size of the catalogue.

        Raises
        ------
        RequestError
        """
        most, why = len(self.catalogue), " (the number of items in the catalogue)"
        return history_inputs.whole_number(k, "k", 1, most, why)


def _load_arguments(arguments: Mapping) -> dict:
    """Arguments of ``from_pretrained`` that are meant for :meth:`Recommender.load`."""
    return {
        name: arguments[name]
        for name in ("device", "runtime", "item_ids", "item_dtype")
        if name in arguments
    }


def _chunks(rows: list, size: int) -> Iterator[list]:
    return (rows[i : i + size] for i in range(0, len(rows), size))
