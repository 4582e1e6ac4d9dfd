"""Settings by the size of the data (``data_rules``), so that one file suits several data sets.

A rule names a measure of the data and has entries, of which the first that fits gives its
settings::

    data_rules:
      interactions_per_item:
        - {below: 30, lm_dropout: 0.5}
        - {lm_dropout: 0.2}
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from recbole_lite.config.keys import affecting
from recbole_lite.config.yaml_files import Setting
from recbole_lite.utils.errors import ConfigError

MEASURES = (
    "users", "items", "interactions", "interactions_per_user", "interactions_per_item",
    "text_fields",
)  # fmt: skip
BELOW = "below"
# Words of `AFFECTS` of what is fixed once the data are read and counted.
_FIXED = ("run", "process", "ids", "places", "session", "start", "result")

Check = Callable[[str, Setting], Any]


def check_rules(rules: Any, check: Check) -> None:
    """Refuse rules that mean nothing, before the data are read.

    Parameters
    ----------
    rules : object
        Value of ``data_rules``.
    check : callable
        ``check(name, setting)`` refuses what a setting cannot be.

    Raises
    ------
    ConfigError
    """
    from recbole.utils.argument_list import dataset_arguments, evaluation_arguments

    fixed = {"model", "dataset", "data_rules", *dataset_arguments, *evaluation_arguments}
    fixed |= affecting(*_FIXED)
    for measure, entries in (rules or {}).items():
        place = f"data_rules: {measure}"
        if measure not in MEASURES:
            raise ConfigError(f"{place}: no measure of the data; there are {', '.join(MEASURES)}")
        if not isinstance(entries, list) or not all(isinstance(e, Mapping) for e in entries):
            raise ConfigError(f"{place}: write a list such as [{{below: 30, epochs: 40}}]")
        _check_limits(place, [entry.get(BELOW) for entry in entries])
        for name, value in _settings(entries):
            if name in fixed:
                raise ConfigError(
                    f"{place}: {name} decides how the data are read or measured; set it outside"
                )
            check(name, Setting(value, place))


def _check_limits(place: str, limits: list[Any]) -> None:
    inner = limits[:-1] if limits and limits[-1] is None else limits
    numbers = all(type(limit) in (int, float) for limit in inner)
    if not numbers or inner != sorted(set(inner)):
        raise ConfigError(
            f"{place}: 'below' must be a number that grows from entry to entry; only the last "
            "entry may be without"
        )


def _settings(entries: list[Mapping[str, Any]]) -> Iterator[tuple[str, Any]]:
    return ((name, e[name]) for e in entries for name in e if name != BELOW)


def settings_in_rules(rules: Mapping[str, list] | None) -> set[str]:
    """Names of the settings that rules may give."""
    return {name for entries in (rules or {}).values() for name, _ in _settings(entries)}


def settings_by_data(
    rules: Mapping[str, list] | None, measures: Mapping[str, float]
) -> dict[str, Setting]:
    """Settings that the rules give for data of this size, each with the rule as its origin.

    Parameters
    ----------
    rules : mapping or None
        Value of ``data_rules``, checked; a later measure's settings replace an earlier one's.
    measures : mapping of str to float
        Of the data, by the names in `MEASURES`.
    """
    found: dict[str, Setting] = {}
    for measure, entries in (rules or {}).items():
        size = measures[measure]
        fitting = (entry for entry in entries if size < entry.get(BELOW, float("inf")))
        for name, value in next(fitting, {}).items():
            if name != BELOW:
                found[name] = Setting(value, f"data_rules: {measure} = {size:,.4g}")
    return found
