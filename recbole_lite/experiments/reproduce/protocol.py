"""Request of ``recbole-lite reproduce``: data, budget, models; and the rows that it trains."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole_lite.config.configurator import OVER_VALUES
from recbole_lite.experiments.reproduce.baselines import ModelSpec
from recbole_lite.experiments.reproduce.time_budget import measure, reusable
from recbole_lite.report.format import figure, grid
from recbole_lite.utils.errors import ConfigError, RecboleLiteError, best_effort, one_line
from recbole_lite.utils.files import write_json


@dataclass(frozen=True)
class Request:
    """What the user asks for."""

    dataset: str
    data_path: str | None
    minutes: float  # training time of each row
    weights: str  # of the language models: pretrained; scratch, with MiniLM for the items' text
    tokenizer: str | None  # folder or hub name of T5's, for P5 and POD with weights from scratch
    seed: int
    out: Path  # folder of the results
    command: str
    log: Callable[[str], None]  # told of each row in a line
    models: Sequence[str] = ()  # names of the rows; empty: the paper's
    matmul_backend: str | None = None  # of the trainings; None: the configuration's
    related: Sequence[str] = ()  # names in baselines.RELATED, of rows beside them
    # Of table5, see efficiency.TimingOptions.
    batch_size: int = 32
    repeats: int = 5
    autocast: str | None = None
    # Of benchmark.
    datasets: Sequence[str] = ()  # empty: dataset
    seeds: int = 3  # number of seeds from seed on
    ray_address: str | None = None  # cluster that trains the cells; None: this machine does
    workers: int = 1  # cells at once on this machine
    table_only: bool = False  # train nothing

    @property
    def settings(self) -> dict[str, Any]:
        """Configuration keys of all rows."""
        chosen = {"data_path": self.data_path, "matmul_backend": self.matmul_backend}
        return {"seed": self.seed, **{key: value for key, value in chosen.items() if value}}

    def settings_of(self, model: str) -> dict[str, Any]:
        """Configuration keys of the rows of a model."""
        chosen = self.settings
        if model in ("P5", "POD", "LightLM") and self.weights == "scratch":
            chosen["llm_init"] = "scratch"
        if model == "TIGER" and self.weights == "scratch":
            chosen["item_llm"] = "minilm"
        if model in ("P5", "POD"):
            chosen["tokenizer"] = self.tokenizer
        if model == "LiteLLM4Rec" and self.weights == "scratch":
            chosen |= {"rec_llm_init": "scratch", "item_llm": "minilm"}
        return chosen


class Rows:
    """Rows of a table, each trained once, a file in `folder` each; one that fails costs no other.

    Attributes
    ----------
    results : dict of str to dict
        By the row's name, see :func:`~recbole_lite.experiments.reproduce.time_budget.measure`.
    problems : dict of str to str
        Why a row has none.
    """

    def __init__(self, request: Request, folder: Path):
        self.request, self.folder = request, folder
        self.results: dict[str, dict[str, Any]] = {}
        self.problems: dict[str, str] = {}

    def path(self, spec: ModelSpec) -> Path:
        """File of a model's result."""
        return self.folder / f"{spec.stem}-{self.request.seed}.json"

    def has(self, spec: ModelSpec) -> bool:
        """Whether the model need not be trained."""
        settings = self._settings(spec)
        return reusable(self.path(spec), spec, self.request.minutes, settings) is not None

    def _settings(self, spec: ModelSpec) -> dict[str, Any]:
        """Configuration keys of a row, below its own."""
        request = self.request
        return request.settings if spec.decides_weights else request.settings_of(spec.model)

    def train(self, spec: ModelSpec, by: Callable = measure) -> dict[str, Any] | None:
        """Result of a model, new (made by `by`) or reused; None: it fails, which is logged.

        A result that was made with other settings is made anew (:func:`.time_budget.reusable`).
        """
        path, request = self.path(spec), self.request
        settings, done = self._settings(spec), "reused from"
        try:
            result = reusable(path, spec, request.minutes, settings)
            if result is None:
                result = by(spec, request.dataset, settings, request.minutes, request.command)
                done = "written to"
                with best_effort(str(path), "the row is in the table, but will be trained again"):
                    write_json(path, result, indent=None)
        except (RecboleLiteError, *OVER_VALUES) as error:  # that of a row costs no other
            self.fail(spec, one_line(error, limit=110))
            return None
        self.results[spec.name] = result
        request.log(f"{spec.name}: {done} {path}")
        return result

    def fail(self, spec: ModelSpec, why: str) -> None:
        """Note that a model has no result."""
        self.problems[spec.name] = why
        self.request.log(f"{spec.name}: not run: {why}")

    def check(self) -> None:
        """Refuse a table without any row.

        Raises
        ------
        ConfigError
            No row has a result; with each one's reason.
        """
        if not self.results:
            raise ConfigError("; ".join(f"{name}: {why}" for name, why in self.problems.items()))

    def describe(self) -> list[str]:
        """Markdown: what each row had, the machine, and why rows are missing."""
        rows = [
            [
                name,
                f"{r['parameters']:,}",
                f"{r['all_parameters']:,}" if "all_parameters" in r else "-",
                f"{r['steps']:,}",
                f"{r['steps'] / r['steps_per_epoch']:.2f}",
                f"{r['minutes']:.3g}" if r["step_seconds"] else "-",
                next((f"{name} {figure(value)}" for name, value in r["valid"].items()), "-"),
                figure(r.get("batch_ms"), ".1f"),
                r["beams"] and f"{r['beams']['no_item'] / max(r['beams']['beams'], 1):.1%}",
            ]
            for name, r in self.results.items()
        ]
        head = ["", "trained parameters", "all parameters", "steps", "passes"]
        head += ["minutes of training", "validation", "ms per batch of 32", "beams of no item"]
        environments = next(iter(self.results.values()))["environment"]
        parts = [grid(rows, head), f"Language models start from {self.request.weights} weights."]
        parts.append(
            f"{environments['threads']} thread(s) of {environments['processor']}, "
            f"GPU: {environments['gpu'] or 'none'}, torch {environments['torch']}."
        )
        if self.problems:
            parts.append(
                "\n".join(f"- {name}: not run: {why}" for name, why in self.problems.items())
            )
        return parts


def check_names(wanted: Iterable[str], known: Iterable[str]) -> None:
    """Refuse names of models that a table does not have.

    Raises
    ------
    ConfigError
        With all that there are.
    """
    known = list(known)
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise ConfigError(f"unknown: {'; '.join(unknown)}; there are {'; '.join(known)}")
