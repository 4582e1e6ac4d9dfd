"""Checks of the settings that say how a model is measured: eval_args, metrics, topk."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from recbole.evaluator.register import metric_types, metrics_dict
from recbole.utils import EvaluatorType

from recbole_lite.config.validation import fit
from recbole_lite.utils.errors import ConfigError
from recbole_lite.utils.suggestions import suggest

SPLITS = ("valid_and_test", "valid_only", "test_only")
_MODE = re.compile(r"full|labeled|(uni|pop)[1-9]\d*")
_WITHOUT_K = {"gauc"}  # the metric that ranks, but not a list of K


def check_protocol(settings: Mapping[str, Any], sequential: bool) -> None:
    """Check ``eval_args``, ``benchmark_filename``, ``metrics``, ``topk`` and ``valid_metric``.

    Parameters
    ----------
    settings : mapping
        The complete settings; of ``eval_args`` all keys.
    sequential : bool
        Whether the model reads sequences.

    Raises
    ------
    ConfigError
        With the key, what was found and what to write.
    """
    _check_eval_args(settings["eval_args"], sequential)
    _check_parts(settings["benchmark_filename"], settings["replay"])
    metrics = _checked_metrics(settings["metrics"])
    topk = _checked_topk(settings["topk"])
    _check_kinds(metrics, settings["eval_args"]["mode"])
    _check_valid_metric(settings["valid_metric"], metrics, topk)


def _check_eval_args(eval_args: Mapping[str, Any], sequential: bool) -> None:
    known = ("split", "order", "group_by", "mode")
    for key in eval_args:
        if key not in known:
            raise ConfigError(
                f"eval_args: unknown key {key!r}{suggest(str(key), known)}; it has "
                + ", ".join(known)
            )
    _check_split(eval_args["split"])
    order, group = eval_args["order"], eval_args["group_by"]
    orders = ("TO",) if sequential else ("TO", "RO")
    if order not in orders:
        raise ConfigError(
            f"eval_args: order must be {' or '.join(orders)} (by time"
            + ("; a sequence has no other)" if sequential else " or at random)")
            + f", found {order!r}"
        )
    if group not in ("user", "none", None):
        raise ConfigError(f"eval_args: group_by must be user or none, found {group!r}")
    mode = eval_args["mode"]
    modes = mode if isinstance(mode, dict) else {"valid": mode, "test": mode}
    if (
        not modes
        or not set(modes) <= {"valid", "test"}
        or not all(isinstance(m, str) and _MODE.fullmatch(m) for m in modes.values())
    ):
        raise ConfigError(
            "eval_args: mode must be full, labeled, or uniN or popN with N negatives (uni100), or "
            f"one of these for each of valid and test, found {mode!r}"
        )


def _check_split(split: Any) -> None:
    if not isinstance(split, dict) or len(split) != 1 or not set(split) <= {"LS", "RS"}:
        raise ConfigError(
            "eval_args: split must be {LS: valid_and_test} (leave one out) or {RS: [0.8, 0.1, 0.1]}"
            f" (by ratio), found {split!r}"
        )
    [(how, value)] = split.items()
    if how == "LS":
        if value not in SPLITS:
            raise ConfigError(
                f"eval_args: split LS must be one of {', '.join(SPLITS)}, found {value!r}"
            )
        return
    numbers = isinstance(value, (list, tuple)) and not any(fit("number >= 0", x)[1] for x in value)
    if not numbers or len(value) != 3 or not sum(value) > 0:
        raise ConfigError(
            "eval_args: split RS must be three numbers, the shares of training, validation and "
            f"test (0.0 leaves a part out: [0.9, 0.1, 0.0]), found {value!r}"
        )


def _check_parts(parts: Any, replay: float | None) -> None:
    if parts is None and replay is None:
        return
    names = isinstance(parts, (list, tuple)) and all(isinstance(part, str) for part in parts)
    known = replay is not None
    if not names or len(parts) - known not in (2, 3):
        first = "known, " * known
        raise ConfigError(
            f"benchmark_filename must name the parts, [{first}train, valid, test] or "
            f"[{first}train, test]{', because replay is set' * known}, found {parts!r}"
        )
    if len(set(parts)) < len(parts) or not all(parts):
        raise ConfigError(f"benchmark_filename: each part must have a name of its own: {parts!r}")


def _checked_metrics(value: Any) -> list[str]:
    metrics = [value] if isinstance(value, str) else value
    if not isinstance(metrics, (list, tuple)) or not metrics:
        raise ConfigError(f"metrics must be names such as [Recall, NDCG], found {value!r}")
    names = [metric.__name__ for metric in metrics_dict.values()]
    for metric in metrics:
        if not isinstance(metric, str) or metric.lower() not in metric_types:
            raise ConfigError(
                f"metrics: there is no metric named {metric!r}{suggest(str(metric), names)}"
            )
    return [metric.lower() for metric in metrics]


def _checked_topk(value: Any) -> list[int]:
    topk = [value] if isinstance(value, int) else value
    numbers = isinstance(topk, (list, tuple)) and all(type(k) is int for k in topk)
    if not numbers or not topk or min(topk) < 1:
        raise ConfigError(
            f"topk must be a positive integer or a list of positive integers, found {value!r}"
        )
    return list(topk)


def _check_kinds(metrics: list[str], mode: Any) -> None:
    """Metrics of rankings and of values need different evaluations."""
    ranking = [m for m in metrics if metric_types[m] == EvaluatorType.RANKING]
    values = [m for m in metrics if m not in ranking]
    modes = set(mode.values()) if isinstance(mode, dict) else {mode}
    if ranking and values:
        raise ConfigError(
            f"metrics: {', '.join(ranking)} measure rankings, {', '.join(values)} measure values; "
            "one run has one kind"
        )
    if values and "full" in modes:
        raise ConfigError(
            f"metrics: {', '.join(values)} measure values, and eval_args mode: full ranks all "
            "items; set mode: labeled (with threshold or a column label) or uni100"
        )
    if ranking and "labeled" in modes:
        raise ConfigError(
            f"eval_args: mode: labeled measures values, and {', '.join(ranking)} rank items; set "
            "mode: full, or metrics: [AUC, LogLoss] and valid_metric: AUC"
        )


def _check_valid_metric(value: Any, metrics: list[str], topk: list[int]) -> None:
    possible = [
        name
        for metric in metrics
        for name in (
            [f"{metric}@{k}" for k in topk]
            if metric_types[metric] == EvaluatorType.RANKING and metric not in _WITHOUT_K
            else [metric]
        )
    ]
    if not isinstance(value, str) or value.lower() not in possible:
        raise ConfigError(
            f"valid_metric {value!r} is not measured: metrics are {', '.join(metrics)}, topk is "
            f"{topk}; it must be one of {', '.join(possible)}"
        )
