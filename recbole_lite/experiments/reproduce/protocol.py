"""What the user asks ``recbole-lite reproduce`` for, and the rows that answer it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole_lite.config.configurator import OVER_VALUES
from recbole_lite.experiments.reproduce.time_budget import Side, measure, measured, reusable
from recbole_lite.utils.errors import ConfigError, RecboleLiteError, one_line


@dataclass(frozen=True)
class Request:
    """What the user asks for.

    Attributes
    ----------
    dataset, data_path : str
    minutes : float
        Training time of each row.
    weights : {"pretrained", "scratch"}
        Of the language models; with scratch MiniLM reads the items' text.
    tokenizer : str or None
        Folder or hub name of T5's, for P5 and POD with weights from scratch.
    seed : int
    out : Path
        Folder of the results.
    command : str
    say : callable
        Told of each row in a line.
    """

    dataset: str
    data_path: str | None
    minutes: float
    weights: str
    tokenizer: str | None
    seed: int
    out: Path
    command: str
    say: Callable[[str], None]

    @property
    def settings(self) -> dict[str, Any]:
        """Configuration keys of all rows."""
        return {"seed": self.seed, **({"data_path": self.data_path} if self.data_path else {})}

    def settings_of(self, model: str) -> dict[str, Any]:
        """Configuration keys of the rows of a model."""
        chosen = self.settings
        if model in ("P5", "POD", "LightLM") and self.weights == "scratch":
            chosen["llm_init"] = "scratch"
        if model in ("P5", "POD"):
            chosen["tokenizer"] = self.tokenizer
        if model == "LiteLLM4Rec" and self.weights == "scratch":
            chosen |= {"rec_llm_init": "scratch", "item_llm": "minilm"}
        return chosen


class Rows:
    """Rows of a table, each trained once; a row that fails costs no other.

    Parameters
    ----------
    request : Request
    folder : Path
        Of the results, a file a row.
    shared : dict, optional
        Settings of all rows, over those of their models.

    Attributes
    ----------
    results : dict of str to dict
        By the side's name, see :func:`~recbole_lite.experiments.reproduce.time_budget.measure`.
    problems : dict of str to str
        Why a side has none.
    """

    def __init__(self, request: Request, folder: Path, shared: dict[str, Any] | None = None):
        self.request, self.folder, self.shared = request, folder, shared or {}
        self.results: dict[str, dict[str, Any]] = {}
        self.problems: dict[str, str] = {}

    def path(self, side: Side) -> Path:
        """File of a side's result."""
        stem = side.name.replace(", ", "-").replace(" ", "-")
        return self.folder / f"{stem}-{self.request.seed}.json"

    def has(self, side: Side) -> bool:
        """Whether the side need not be trained."""
        found = reusable(self.path(side), side, self.request.minutes, self._settings(side))
        return found is not None

    def train(self, side: Side, by: Callable = measure) -> dict[str, Any] | None:
        """Result of a side, new or reused; None: it fails, which is told.

        Parameters
        ----------
        side : Side
        by : callable
            See :func:`~recbole_lite.experiments.reproduce.time_budget.measured`.
        """
        path, request = self.path(side), self.request
        try:
            result, new = measured(
                path,
                side,
                request.minutes,
                dataset=request.dataset,
                settings=self._settings(side),
                command=request.command,
                by=by,
            )
        except (RecboleLiteError, *OVER_VALUES) as error:  # that of a row costs no other
            self.fail(side, one_line(error, limit=110))
            return None
        self.results[side.name] = result
        request.say(f"{side.name}: {'written to' if new else 'reused from'} {path}")
        return result

    def fail(self, side: Side, why: str) -> None:
        """Note that a side has no result."""
        self.problems[side.name] = why
        self.request.say(f"{side.name}: not run: {why}")

    def check(self) -> None:
        """Refuse a table without any row.

        Raises
        ------
        ConfigError
            No side has a result; with each one's reason.
        """
        if not self.results:
            raise ConfigError("; ".join(f"{name}: {why}" for name, why in self.problems.items()))

    def _settings(self, side: Side) -> dict[str, Any]:
        return {**self.request.settings_of(side.model), **self.shared}
