"""What ``recbole-lite compare`` takes: folders of runs, and results that other commands wrote."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole_lite.report.run_folder import PROTOCOL, RunRecord, read_metrics, read_users
from recbole_lite.utils.errors import ReportError

_NEEDED = ("ranks", "data", "test")  # keys
_SHARED = ("data", "test", "valid", "epochs", "parameters", "candidates")  # with metrics.json


@dataclass(frozen=True)
class RunResult:
    """A finished run with the rank of each user's test item."""

    name: str  # short, and no other run's
    run: RunRecord  # settings and metrics
    ranks: dict[str, int]  # by raw user id, of the test item; 0: beyond the metrics' largest_k


def read_result(path: str | Path) -> RunResult:
    """Read a run's folder, or a result file of ``ablate`` or ``reproduce``.

    Raises
    ------
    ReportError
        There is no such thing, it is damaged, or it has no ranks of users.
    """
    path = Path(path)
    if path.suffix == ".json":
        return _read_file(path)
    run = read_metrics(path)
    ranks = {user: row["rank"] for user, row in read_users(path).items()}
    if not ranks:
        why = "the split gives a user several test items, or no metric ranks"
        if not run.metrics["test"]:
            why = "the run was not tested: its split leaves no test part"
        elif "test_set" not in run.metrics:
            why = f"users.csv is missing: recbole-lite report {shlex.quote(str(path))} writes it"
        raise ReportError(
            f"{path}: no ranks of single users ({why}); such runs cannot be compared user by user"
        )
    return RunResult(run.name, run, ranks)


def _read_file(path: Path) -> RunResult:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ReportError(f"{path}: cannot be read: {error}") from None
    known = None
    if isinstance(content, dict):
        known = _protocol_of_ablate(content) or _protocol_of_reproduce(content)
    if known is None:
        raise ReportError(
            f"{path}: no result of `recbole-lite ablate` or `recbole-lite reproduce`; give such a "
            "file (of a single row), or the folder of a run"
        )
    missing = [key for key in _NEEDED if not content.get(key)]
    if missing:
        raise ReportError(
            f"{path}: has no {' and no '.join(missing)}, which a comparison user by user needs"
        )
    sha256 = content.get("test_set")
    metrics = {
        **known,
        **{key: content.get(key) for key in _SHARED},
        "seconds": content.get("seconds", {}),
        "test_set": sha256 and {"users": len(content["ranks"]), "sha256": sha256},
    }
    settings = content.get("settings") or content["config_dict"]
    return RunResult(path.stem, RunRecord(path, settings, metrics), content["ranks"])


def _protocol_of_ablate(content: dict[str, Any]) -> dict[str, Any] | None:
    """Of a result that knows every setting; None: it is none."""
    settings = content.get("settings")
    if not isinstance(settings, dict):
        return None
    return {
        "model": content.get("row", settings.get("model")),
        "dataset": settings.get("dataset"),
        "largest_k": max(settings.get("topk", [0])),
        "protocol": {key: settings.get(key) for key in PROTOCOL},
    }


def _protocol_of_reproduce(content: dict[str, Any]) -> dict[str, Any] | None:
    """Of a result that knows the settings it was given; None: it is none.

    One of an older version has no ``protocol``: what it was not given is None, so that it can be
    compared with its like, and with nothing else.
    """
    given = content.get("config_dict")
    if not isinstance(given, dict) or "side" not in content:
        return None
    names = (name.partition("@")[2] for name in content.get("test") or {})
    return {
        "model": content["side"],
        "dataset": content.get("dataset"),
        "largest_k": content.get("largest_k") or max((int(k) for k in names if k), default=0),
        "protocol": content.get("protocol") or {key: given.get(key) for key in PROTOCOL},
    }
