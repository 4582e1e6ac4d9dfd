"""The record of a run, in the run's folder beside its checkpoints.

==================  ============================================================================
``config.yaml``     every setting; ``--config_files=.../config.yaml`` runs it again
``metrics.json``    results, counts, seconds and memory of each step, what the test set was
``history.csv``     a line per epoch: loss, validation, seconds
``users.csv``       a line per test user: item, rank, and what the groups of the report go by
``samples.json``    ten users with titles
``environment.json``  versions, machine, commit
``report.html``     all of these, to be looked at
==================  ============================================================================

The report is made from these files alone, so that it can be made again at any time.
"""

from __future__ import annotations

import csv
import io
import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from recbole_lite.config.keys import affecting
from recbole_lite.config.yaml_files import Loader
from recbole_lite.trainer import checkpoint
from recbole_lite.utils.errors import ReportError

METRICS_FILE = "metrics.json"
USERS_FILE = "users.csv"
SAMPLES_FILE = "samples.json"
ENVIRONMENT_FILE = "environment.json"
REPORT_FILE = "report.html"
USER_COLUMNS = (
    "user_id", "item_id", "rank", "item_interactions", "item_quartile", "history_length",
)  # fmt: skip
# What two runs must have in common for their figures to be compared; a key that one of them does
# not know (an older version's) is None there.
PROTOCOL = tuple(sorted(affecting("result")))


@dataclass
class RunRecord:
    """What a run's folder tells."""

    folder: Path
    settings: dict[str, Any]  # every key
    metrics: dict[str, Any]  # content of metrics.json
    # Lines of history.csv, without empty cells.
    history: list[dict[str, float]] = field(default_factory=list)
    # Raw id -> line of users.csv, numbers read; empty where the run has none.
    users: dict[str, dict[str, Any]] = field(default_factory=dict)
    samples: list[dict[str, Any]] = field(default_factory=list)  # see samples.sample_users
    environment: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.name


def read_run(folder: str | Path) -> RunRecord:
    """Read a run's folder; files that only describe it may be missing.

    Raises
    ------
    ReportError
        It is none, the run has not ended, or a file is damaged; with what to do.
    """
    folder = Path(folder)
    record = read_metrics(folder)
    path = folder / checkpoint.HISTORY_FILE
    record.history = [
        {name: float(cell) for name, cell in row.items() if cell not in ("", None)}
        for row in (_read_csv(path) if path.is_file() else [])
    ]
    record.users = read_users(folder)
    for name, path in (("samples", SAMPLES_FILE), ("environment", ENVIRONMENT_FILE)):
        if (folder / path).is_file():
            setattr(record, name, _read(folder / path, json.loads))
    return record


def read_metrics(folder: str | Path) -> RunRecord:
    """Read settings and metrics only; errors as :func:`read_run`."""
    folder = Path(folder)
    if not folder.is_dir():
        raise ReportError(f"{folder}: no such folder; give the folder of a run")
    if not (folder / METRICS_FILE).is_file():
        what = f"the run has not ended: --resume={shlex.quote(str(folder))} continues it"
        if not (folder / checkpoint.YAML_FILE).is_file():
            what = "it is not the folder of a run"
        raise ReportError(f"{folder}: no {METRICS_FILE} ({what})")
    metrics = _read(folder / METRICS_FILE, json.loads)
    if not isinstance(metrics, dict) or not {"model", "dataset", "test"} <= set(metrics):
        raise ReportError(f"{folder / METRICS_FILE}: not the metrics of a recbole-lite run")
    return RunRecord(folder, _read_settings(folder / checkpoint.YAML_FILE), metrics)


def read_users(folder: Path) -> dict[str, dict[str, Any]]:
    """Read ``users.csv``; empty where there is none."""
    path = folder / USERS_FILE
    if not path.is_file():
        return {}
    users = {}
    for line, row in enumerate(_read_csv(path), 2):
        try:
            numbers = {name: int(row[name]) for name in USER_COLUMNS[2:]}
            users[row["user_id"]] = {"item_id": row["item_id"], **numbers}
        except (KeyError, TypeError, ValueError):
            raise ReportError(
                f"{path}, line {line}: cannot be read; expected {','.join(USER_COLUMNS)}"
            ) from None
    return users


def comparable_runs(record: RunRecord) -> tuple[list[RunRecord], list[str]]:
    """Finished runs in the same parent folder, on the same test set under the same protocol.

    Returns
    -------
    tuple
        Records without histories and samples, the newest first; folders that cannot be read.
    """
    found, unreadable = [], []
    for path in sorted(record.folder.resolve().parent.glob(f"*/{METRICS_FILE}")):
        if path.parent == record.folder.resolve():
            continue
        try:
            other = read_metrics(path.parent)
        except ReportError as error:
            unreadable.append(str(error))
            continue
        if other.metrics["test"] and protocol_difference(record, other) is None:
            found.append(other)
    found.sort(key=lambda other: other.metrics["finished"], reverse=True)
    return found, unreadable


def protocol_difference(a: RunRecord, b: RunRecord) -> str | None:
    """Why the figures of two runs cannot be compared, in one line; None: they can."""
    for key in ("dataset", "data", "part_files"):
        if a.metrics.get(key) != b.metrics.get(key):
            return f"{key}: {_told(a.metrics.get(key))} and {_told(b.metrics.get(key))}"
    mine, its = (run.metrics.get("protocol") or {} for run in (a, b))
    for key in PROTOCOL:
        if mine.get(key) != its.get(key):
            return f"{key}: {_told(mine.get(key))} and {_told(its.get(key))}"
    mine, its = (run.metrics.get("test_set") or {} for run in (a, b))
    if mine.get("sha256") != its.get("sha256"):
        return "the test sets have other users, items or training data"
    mine, its = (run.metrics.get("candidates") for run in (a, b))
    if mine and its and mine != its:
        return "the candidates differ (topn_seed draws them in the order of the data's lines)"
    return None


def _told(value: Any) -> str:
    if isinstance(value, dict) and all(isinstance(v, int) for v in value.values()):
        return ", ".join(f"{count:,} {name}" for name, count in value.items())
    return str(value)


def _read(path: Path, parse: Callable[[str], Any]) -> Any:
    try:
        return parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, csv.Error, yaml.YAMLError) as error:
        raise ReportError(f"{path}: cannot be read: {error}") from None


def _read_csv(path: Path) -> list[dict[str, str]]:
    return _read(path, lambda text: list(csv.DictReader(io.StringIO(text, newline=""))))


def _read_settings(path: Path) -> dict[str, Any]:
    settings = _read(path, lambda text: yaml.load(text, Loader=Loader))
    if not isinstance(settings, dict):
        raise ReportError(f"{path}: expected lines of `key: value`")
    return settings
