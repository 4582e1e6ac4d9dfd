"""Scores and top items of an exported model by onnxruntime; needs neither torch nor RecBole."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from filelock import FileLock

from recbole_lite.inference import ranking
from recbole_lite.inference.ranking import Histories, Ranked
from recbole_lite.utils.errors import CheckpointError, MissingDependencyError, RequestError

FORMAT_VERSION = 2  # of exported graphs
# Prefix of the names of operators that refuse an input; onnxruntime's message holds the name.
REFUSED = "refused: "
# Attention is padded to the longest history of a call: larger batches are split into parts of
# similar length (docs/inference.md).
USERS_AT_ONCE = 64


class OnnxRuntime:
    """An exported model in onnxruntime, on the CPU.

    Parameters
    ----------
    graph : str, Path or bytes
        ``model.onnx`` or ``model.int8.onnx`` of an export, the graph in a model's folder, or its
        content.
    threads : int, optional
        Default: ``OMP_NUM_THREADS`` if it is set, else onnxruntime's default, all cores.
    mapped : Path, optional
        File of a copy that is optimised for this processor, written if it does not exist. Its
        weights are mapped into memory, so that several processes hold them once. Older copies in
        its folder are removed.

    Attributes
    ----------
    n_items : int
        Ids go from 1 to ``n_items - 1``.
    max_length : int
        Number of last items of a history that the model reads.

    Raises
    ------
    CheckpointError
        The file is missing, damaged, or of another format.
    MissingDependencyError
        onnxruntime is not installed.
    """

    name = "onnx"

    def __init__(
        self,
        graph: str | Path | bytes,
        threads: int | None = None,
        mapped: Path | None = None,
    ):
        source = "the graph" if isinstance(graph, bytes) else graph
        if source is graph and not Path(graph).is_file():
            raise CheckpointError(
                f"{graph}: no such file; type: recbole-lite export --model=RUN_FOLDER --out=FOLDER"
            )
        try:
            self.session = (
                _session(graph, threads) if mapped is None else _shared(graph, threads, mapped)
            )
        except MissingDependencyError:
            raise
        except Exception as error:  # onnxruntime's have no common class
            raise CheckpointError(f"{source}: onnxruntime cannot read it: {error}") from None
        facts = self.session.get_modelmeta().custom_metadata_map
        _check_format(source, facts)
        self.n_items, self.max_length = int(facts["n_items"]), int(facts["max_length"])

    def scores(self, histories: Histories) -> np.ndarray:
        """Scores of all items, ``[B, n_items]`` float32, -inf for padding (id 0).

        Parameters
        ----------
        histories : sequence of sequence of int, or numpy.ndarray
            Internal ids, oldest first; an array ``[B, L]`` is padded with 0 on the left or right.

        Raises
        ------
        RequestError
            An empty history, padding between items, an id outside the catalogue.
        """
        found = np.empty((len(histories), self.n_items), np.float32)
        for rows, items, exclude in self._parts(histories, None):
            found[rows] = self._run(["all_scores"], items, exclude, 1)[0]
        return found

    def rank(
        self,
        histories: Histories,
        k: int,
        exclude: Histories | None = None,
        candidates: np.ndarray | None = None,
    ) -> Ranked:
        """Items with the highest scores for each history.

        Parameters
        ----------
        histories
            See :meth:`scores`.
        k : int
        exclude : like `histories`, optional
            Internal ids that are not recommended to row b; rows may be empty.
        candidates : numpy.ndarray, optional
            ``[C]`` internal ids to choose from; default: all.

        Returns
        -------
        (numpy.ndarray [B, K] int64, numpy.ndarray [B, K] float32)
            Ids, best first, and their scores; K = min(k, number of candidates). Score -inf and
            id 0 mark places for which no item is left.

        Raises
        ------
        RequestError
            See :meth:`scores`; also for ids in `exclude` outside the catalogue.
        """
        if candidates is not None:
            return ranking.top_k(self.scores(histories), k, exclude, candidates)
        k = min(k, self.n_items - 1)
        ids = np.empty((len(histories), k), np.int64)
        scores = np.empty((len(histories), k), np.float32)
        for rows, items, seen in self._parts(histories, exclude):
            scores[rows], ids[rows] = self._run(["scores", "ids"], items, seen, k)
        return ids, scores

    def warm_up(self, users: int = 32) -> None:
        """Run batches of several sizes once, so that no request pays for memory allocation."""
        for count in {1, min(users, USERS_AT_ONCE)}:
            self.rank([[1] * self.max_length] * count, 1, [[1]] * count)

    def _parts(self, histories, exclude) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Row numbers ``[b]`` of a part, their items ``[b, L]`` and excluded ids ``[b, S]``."""
        order = np.arange(len(histories))
        if len(order) > USERS_AT_ONCE:
            order = np.argsort(ranking.lengths(histories), kind="stable")
        for begin in range(0, len(order), USERS_AT_ONCE):
            rows = order[begin : begin + USERS_AT_ONCE]
            seen = np.zeros((len(rows), 0), np.int64)
            if exclude is not None:
                seen = ranking.pad(exclude, rows)
            yield rows, ranking.pad(histories, rows, self.max_length), seen

    def _run(self, outputs: list[str], items, exclude, k: int) -> list[np.ndarray]:
        inputs = {"items": items, "exclude": exclude, "k": np.array([k], np.int64)}
        try:
            return self.session.run(outputs, inputs)
        except Exception as error:  # onnxruntime's have no common class
            _, refused, why = str(error).partition(f"Name:'{REFUSED}")
            if not refused:
                raise
            raise RequestError(why.partition("'")[0]) from None


def _session(graph: str | Path | bytes, threads: int | None, written: Path | None = None):
    """Session of a graph, which can be written as onnxruntime runs it, weights in a file apart."""
    try:
        import onnxruntime
    except ImportError:
        raise MissingDependencyError(
            "onnxruntime is not installed; type: pip install onnxruntime"
        ) from None
    options = onnxruntime.SessionOptions()
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]  # "4,2": with nested levels
    options.intra_op_num_threads = threads or (int(asked) if asked.isdigit() else 0)
    options.log_severity_level = 4  # errors are raised anyway
    if written is not None:
        options.optimized_model_filepath = str(written)
        for key, value in {
            "optimized_model_external_initializers_file_name": f"{written.stem}.weights",
            "optimized_model_external_initializers_min_size_in_bytes": "1024",
            "save_external_prepacked_constant_initializers": "1",
        }.items():
            options.add_session_config_entry(f"session.{key}", value)
    return onnxruntime.InferenceSession(
        graph if isinstance(graph, bytes) else str(graph),
        options,
        providers=["CPUExecutionProvider"],
    )


def _shared(graph: str | Path | bytes, threads: int | None, mapped: Path):
    with FileLock(mapped.with_name(".lock")):
        if not mapped.exists():
            unfinished = mapped.with_suffix(".part")
            _session(graph, threads, unfinished)
            unfinished.rename(mapped)
        session = _session(mapped, threads)
        for old in mapped.parent.glob("*.*"):  # processes that have mapped them keep them
            if old.stem not in (mapped.stem, ".lock"):
                old.unlink()
    return session


def _check_format(source, facts) -> None:
    version = facts.get("format_version")
    if version is None or int(version) < FORMAT_VERSION:
        raise CheckpointError(
            f"{source}: not a graph of this version of recbole-lite; export the model again"
        )
    if int(version) > FORMAT_VERSION:
        raise CheckpointError(
            f"{source}: format version {version}, written by recbole-lite "
            f"{facts.get('recbole_lite')}; this one reads {FORMAT_VERSION}: upgrade"
        )
