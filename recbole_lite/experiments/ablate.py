"""Ablation tables: one thing changed per row, over seeds, compared on the same users.

A row is a file of plain configuration keys, ``properties/ablation/<row>.yaml``. It is laid over
everything else, the command line included: the command line describes the model that all rows
share, and ``--rec_llm_init=scratch``, say, would make the row ``scratch`` equal to the others if
it came first.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from logging import getLogger
from pathlib import Path
from typing import Any

import numpy as np

from recbole_lite.config.command_line import parse_overrides
from recbole_lite.config.configurator import LiteConfig, paths_of
from recbole_lite.config.keys import affecting, with_current_names
from recbole_lite.config.yaml_files import read_yaml
from recbole_lite.quick_start import run_one
from recbole_lite.report.ablation import render, summarise
from recbole_lite.report.rank_metrics import is_of_ranks, metric_values
from recbole_lite.text.item_llm_settings import check_item_llm_is_read
from recbole_lite.trainer.initial_weights import next_train_stage
from recbole_lite.utils.environment import environment
from recbole_lite.utils.errors import (
    ConfigError,
    RecboleLiteError,
    TrainingError,
    best_effort,
    one_line,
)
from recbole_lite.utils.files import to_json, to_plain, write_json, write_text
from recbole_lite.utils.paths import PROPERTIES
from recbole_lite.utils.suggestions import suggest

ROWS = PROPERTIES / "ablation"
DEFAULT_OUT = Path("results", "ablation")  # / name of the dataset
SPLIT = {"LS": "valid_and_test"}
AGAIN = "the same command writes it from the results"


@dataclass
class Row:
    """One row of the table."""

    name: str  # the model's for the base row, else the file's
    path: Path | None = None  # the file; None for the base row
    changes: dict[str, Any] = field(default_factory=dict)  # what the file sets
    configs: dict[int, LiteConfig] = field(default_factory=dict)  # by seed
    same_as: str | None = None  # an earlier row with the very same settings, whose results count
    records: dict[int, dict] = field(default_factory=dict)  # results by seed
    problem: str | None = None  # why a seed has no result, in one line
    given_up: bool = False  # the problem would come again with the next seed


@dataclass(frozen=True)
class AblationOptions:
    """What is compared, and where the results go."""

    rows: Iterable[str] | None = None  # names of files in rows_folder; None: all of them
    seeds: Iterable[int] | None = None  # None: the configuration's alone
    out: str | Path | None = None  # folder; None: results/ablation/<dataset>
    rows_folder: str | Path = ROWS
    command: str = ""  # what the user typed, for the records
    log: Callable[[str], None] = getLogger().info  # told of each result in a line


def ablate(
    model: str | None = None,
    dataset: str | None = None,
    config_file_list: Iterable[str | Path] | None = None,
    config_dict: Mapping[str, Any] | None = None,
    overrides: Iterable[str] | None = None,
    options: AblationOptions | None = None,
) -> dict[str, Any]:
    """Train and compare the base configuration and its rows.

    The first seed of all rows comes first, then the second: an interrupted table is complete as
    far as it goes. Each result is written as soon as it is there, ``<out>/<row>-<seed>.json``,
    and is reused if its settings are the same; the table is ``<out>/ablation.md`` and
    ``ablation.json``.

    Parameters
    ----------
    model, dataset, config_file_list, config_dict, overrides
        The base configuration, see :class:`~recbole_lite.config.configurator.LiteConfig`; `model`
        is LiteLLM4Rec unless given.
    options : AblationOptions, optional

    Returns
    -------
    dict
        As :func:`~recbole_lite.report.ablation.summarise` makes it.

    Raises
    ------
    ConfigError
        An unknown row, or settings that are wrong in any of the rows; before the first training.
        What goes wrong later is listed in the table.
    """
    options = options or AblationOptions()
    base = _Base(
        model or "LiteLLM4Rec",
        dataset,
        paths_of(config_file_list),
        # A run is repeated as a whole, so it needs nothing to be continued from.
        {"checkpoint_every": 0, **(config_dict or {})},
        list(overrides or []),
    )
    config = base.configure(Row("base"), None)
    _check_base(base, config, options.seeds)
    seeds = list(dict.fromkeys(options.seeds or [config["seed"]]))
    rows = find_rows(options.rows, Path(options.rows_folder), config["model"])
    table = [Row(config["model"]), *rows]
    _configure(table, base, seeds)
    out = Path(options.out or DEFAULT_OUT / config["dataset"])
    for seed in seeds:
        for row in table:
            if not row.given_up and row.same_as is None:
                _fill(row, seed, out, options)
    about = {
        "dataset": config["dataset"],
        "seeds": seeds,
        "command": options.command,
        "environment": environment(),
    }
    summary = summarise(_described(table), about)
    with best_effort(str(out), AGAIN):
        write_json(out / "ablation.json", summary)
        write_text(out / "ablation.md", render(summary))
    return summary


def find_rows(names: Iterable[str] | None, folder: Path, base: str) -> list[Row]:
    """Read the rows' files.

    `names` are in the order of the table, `base`, the base row's, may be among them; None: all, by
    name.

    Raises
    ------
    ConfigError
        No such row, or a file that cannot be one.
    """
    files = {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    if base in files:
        raise ConfigError(f"{files[base]}: {base} is the name of the base row; rename the file")
    if names is None:
        names = files
    chosen = [name for name in dict.fromkeys(names) if name != base]
    unknown = [f"unknown row {n!r}{suggest(n, files)}" for n in chosen if n not in files]
    if unknown:
        raise ConfigError(f"{'; '.join(unknown)}; rows in {folder}: {', '.join(files) or 'none'}")
    return [_read_row(files[name]) for name in chosen]


def _read_row(path: Path) -> Row:
    settings = read_yaml(path)
    for key in sorted((affecting("run") | {"seed"}) & set(settings)):
        raise ConfigError(f"{settings[key].origin}: a row cannot set {key}")
    return Row(path.stem, path, {key: setting.value for key, setting in settings.items()})


# -- configuration ----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Base:
    """Sources of the base configuration."""

    model: str
    dataset: str | None
    files: list[str | Path]
    values: dict[str, Any]
    overrides: list[str]

    def configure(self, row: Row, seed: int | None) -> LiteConfig:
        """Configuration of a row: its file comes last, and nothing above files sets its keys."""
        own = {*row.changes, *(["seed"] if seed is not None else [])}
        overrides = [text for text in self.overrides if not own & set(parse_overrides([text]))]
        return LiteConfig(
            self.model,
            self.dataset,
            config_file_list=[*self.files, *([row.path] if row.path else [])],
            config_dict={k: v for k, v in self.values.items() if k not in row.changes},
            overrides=[*overrides, *([f"--seed={seed}"] if seed is not None else [])],
        )


def _check_base(base: _Base, config: LiteConfig, seeds) -> None:
    if seeds is not None and "seed" in parse_overrides(base.overrides):
        raise ConfigError("--seed and --seeds: give one of them")
    if config["resume"]:
        raise ConfigError("resume: an ablation reuses the results in its folder; leave resume out")
    if next_train_stage(config):
        raise ConfigError("train_stage: a pre-training has no test figures to compare")


def _configure(table: list[Row], base: _Base, seeds: list[int]) -> None:
    """Configure all rows before the first is trained: a mistake must not cost a training."""
    for row in table:
        row.configs = {seed: base.configure(row, seed) for seed in seeds}
        _check_row(row, row.configs[seeds[0]])
    first: dict[str, str] = {}
    for row in table:
        settings = json.dumps(comparable(row.configs[seeds[0]].settings), sort_keys=True)
        row.same_as = first.get(settings)
        first.setdefault(settings, row.name)


def _check_row(row: Row, config: LiteConfig) -> None:
    for stage in config["stages"] or []:
        for key in sorted(set(stage) & set(row.changes)):
            raise ConfigError(f"row {row.name}: {key} is set by one of the stages as well")
    check_item_llm_is_read(config, row.changes, f"row {row.name}")
    if config["eval_args"]["split"] != SPLIT:
        raise ConfigError(
            f"row {row.name}: an ablation compares users by their one test item, eval_args split "
            f"{SPLIT}; found {config['eval_args']['split']}"
        )


def comparable(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as they come back from JSON, by their names now, less those of no figure."""
    plain = with_current_names(json.loads(to_json(settings)))
    return {k: v for k, v in plain.items() if k not in affecting("output", "downloads")}


# -- results ----------------------------------------------------------------------------------


def _fill(row: Row, seed: int, out: Path, options: AblationOptions) -> None:
    """Put the result of one run into its row: from its file, or by training."""
    path, label = out / f"{row.name}-{seed}.json", f"{row.name}, seed {seed}"
    record = _finished(path, row.configs[seed].settings)
    if record is not None:
        options.log(f"{label}: reused from {path}")
    else:
        options.log(f"{label}: training")
        try:
            result = run_one(row.configs[seed], resume=False, samples=False, per_user=True)
        except RecboleLiteError as error:
            row.problem = row.problem or one_line(error, limit=110)  # a cell of the table
            # A loss that is not finite may be the seed's; anything else would come again.
            row.given_up = not isinstance(error, TrainingError)
            options.log(f"{label}: not run: {row.problem}")
            return
        record = _record(row, seed, result, options.command)
        with best_effort(str(path), "the row is in the table, but will be trained again"):
            _write_record(path, record)
            options.log(f"{label}: written to {path}")
    row.records[seed] = record


def _finished(path: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """Record of a run with these settings, if there is one."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # none, or damaged
        return None
    same = comparable(record.get("settings", {})) == comparable(settings)
    return record if same else None


def _record(row: Row, seed: int, result: dict[str, Any], command: str) -> dict[str, Any]:
    """What is kept of a run; of each user only the rank, which gives every top-k metric."""
    users = result["per_user"]
    return {
        "row": row.name,
        "seed": seed,
        "changes": row.changes,
        "data": result["data"],
        "valid": to_plain(result["best_valid_result"]) or {},
        "test": to_plain(result["test_result"]) or {},
        "epochs": result["epochs"],
        "history": result["history"],
        "seconds": result["seconds"],
        "parameters": result["parameters"],
        "run_dir": result["run_dir"],
        "settings": row.configs[seed].settings,
        "test_set": result.get("test_set"),
        "environment": environment(),
        "command": command,
        "ranks": dict(zip(users["users"], map(int, users["ranks"]), strict=True)),
    }


def _write_record(path: Path, record: dict[str, Any]) -> None:
    """Write a result: an epoch on a line, thousands of users on another."""
    text = to_json({k: v for k, v in record.items() if k not in ("ranks", "history")}, indent=1)
    epochs = ",\n".join(f"  {to_json(epoch)}" for epoch in record["history"])
    text = f'{text[:-2]},\n "history": [\n{epochs}\n ],\n "ranks": {to_json(record["ranks"])}\n}}\n'
    write_text(path, text)


def _described(table: list[Row]) -> list[dict[str, Any]]:
    """Rows as :func:`~recbole_lite.report.ablation.summarise` takes them."""
    by_name, described = {row.name: row for row in table}, []
    for row in table:
        source = by_name[row.same_as or row.name]
        runs = [
            {**record, "per_user": per_user_values(record)} for record in source.records.values()
        ]
        about = {"row": row.name, "changes": row.changes, "same_as": row.same_as}
        described.append({**about, "problem": source.problem, "runs": runs})
    return described


def per_user_values(record: dict[str, Any]) -> dict[str, np.ndarray]:
    """Top-k metrics of each user, from the ranks."""
    ranks = np.array(list(record["ranks"].values()))
    names = record["test"] if len(ranks) else ()
    return {name: metric_values(name, ranks) for name in names if is_of_ranks(name)}
