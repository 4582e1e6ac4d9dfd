"""An exported model in onnxruntime; needs neither torch nor RecBole."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from recbole_lite.errors import CheckpointError, MissingDependencyError

FORMAT_VERSION = 1


class OnnxModel:
    """An exported model.

    Parameters
    ----------
    path : str or Path
        ``model.onnx`` or ``model.int8.onnx``, in the folder that the export made.
    threads : int, optional
        Default: onnxruntime's, all cores.

    Attributes
    ----------
    n_items, max_length : int
        See :class:`~recbole_lite.inference.engine.Engine`.

    Raises
    ------
    CheckpointError
        Missing, damaged, or of a newer format.
    MissingDependencyError
        onnxruntime is not installed.
    """

    def __init__(self, path: str | Path, threads: int | None = None):
        try:
            import onnxruntime
        except ImportError:
            raise MissingDependencyError(
                "onnxruntime is not installed; type: pip install onnxruntime"
            ) from None
        path = Path(path)
        about = _read_about(path.with_name("export.json"))
        self.n_items, self.max_length = int(about["n_items"]), int(about["max_length"])
        options = onnxruntime.SessionOptions()
        if threads:
            options.intra_op_num_threads = threads
        try:
            self.session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's have no common class
            raise CheckpointError(f"{path}: onnxruntime cannot read it: {error}") from None

    def topk(
        self, items: np.ndarray, k: int, exclude: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Scores and internal ids of the best items, ``[B, k]``.

        Parameters
        ----------
        items : numpy.ndarray
            ``[B, L]`` internal ids, 0 behind; L at most ``max_length``.
        k : int
        exclude : numpy.ndarray, optional
            ``[B, S]`` ids not to recommend, 0 for none.
        """
        if exclude is None:
            exclude = np.zeros((len(items), 0), np.int64)
        given = {"items": items, "exclude": exclude, "k": np.array([k])}
        return tuple(self.session.run(["scores", "ids"], given))

    def scores(self, items: np.ndarray) -> np.ndarray:
        """Scores of all items, ``[B, n_items]``, -inf in column 0."""
        none = np.zeros((len(items), 0), np.int64)
        given = {"items": items, "exclude": none, "k": np.array([1])}
        return self.session.run(["all_scores"], given)[0]


def _read_about(path: Path) -> dict:
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        version = int(about["format_version"])
    except FileNotFoundError:
        raise CheckpointError(
            f"{path.parent}: no exported model ({path.name} is missing); type: "
            "recbole-lite export --model=RUN_FOLDER --out=FOLDER"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error!r}") from None
    if version > FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: format version {version}, written by recbole-lite "
            f"{about.get('recbole_lite')}; this one reads up to {FORMAT_VERSION}: upgrade"
        )
    return about
