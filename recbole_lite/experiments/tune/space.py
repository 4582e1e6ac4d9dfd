"""Search spaces: a YAML file, or a parameter file of RecBole's (``.test``)."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from recbole_lite.config.command_line import parse_scalar
from recbole_lite.config.yaml_files import read_yaml
from recbole_lite.utils.errors import ConfigError
from recbole_lite.utils.suggestions import suggest

# kind -> how its values are written
KINDS = {
    "choice": "[value, value, ...]",
    "grid": "[value, value, ...]",
    "uniform": "[low, high]",
    "loguniform": "[low, high], both above 0",
    "quniform": "[low, high, step]",
    "randint": "[low, high], whole numbers; high itself is not drawn",
}
LISTS = ("choice", "grid")
RECBOLE_KINDS = ("choice", "uniform", "quniform", "loguniform")


@dataclass(frozen=True)
class Parameter:
    """One configuration key that a sweep varies."""

    key: str
    kind: str  # one of KINDS
    values: tuple  # of a choice or grid, else bounds (and step) as numbers
    origin: str  # file and line

    @property
    def is_list(self) -> bool:
        """Whether the values are listed one by one."""
        return self.kind in LISTS

    @property
    def is_coded(self) -> bool:
        """Whether Ray is given JSON text: a searcher compares plain values only."""
        return self.is_list and any(isinstance(value, (list, dict)) for value in self.values)

    def extremes(self) -> tuple:
        """Values to check a configuration with: all listed ones, else the ends of the range."""
        if self.is_list:
            return self.values
        low, high = self.values[:2]
        return (low, high - 1) if self.kind == "randint" else (low, high)

    def domain(self) -> Any:
        """Ray Tune's object for this parameter."""
        from ray import tune

        if self.is_list:
            values = [json.dumps(v) for v in self.values] if self.is_coded else list(self.values)
            return tune.choice(values) if self.kind == "choice" else tune.grid_search(values)
        return getattr(tune, self.kind)(*self.values)

    def decode(self, value: Any) -> Any:
        """Plain Python value of what Ray has drawn."""
        value = value.item() if hasattr(value, "item") else value
        if self.is_coded:
            return json.loads(value)
        if self.kind == "quniform":  # Ray's 3 * 0.1 is 0.30000000000000004
            whole = all(isinstance(v, int) for v in self.values)
            return round(value) if whole else float(f"{value:.12g}")
        return value


@dataclass(frozen=True)
class Space:
    """Parameters of a sweep."""

    parameters: tuple[Parameter, ...]
    source: str  # the file

    @property
    def keys(self) -> list[str]:
        """Names of the parameters."""
        return [parameter.key for parameter in self.parameters]

    @property
    def grid_size(self) -> int:
        """Number of combinations of the grids; 1 where there are none."""
        return math.prod(len(p.values) for p in self.parameters if p.kind == "grid")

    def without(self, keys: Iterable[str]) -> Space:
        """Return the space less some parameters.

        Raises
        ------
        ConfigError
            Nothing is left.
        """
        left = tuple(p for p in self.parameters if p.key not in set(keys))
        if not left:
            raise ConfigError(f"{self.source}: every parameter is fixed by --key=value: no sweep")
        return Space(left, self.source)

    def exhaustive(self) -> Space:
        """Return the space with every choice as a grid (``searcher: grid``).

        Raises
        ------
        ConfigError
            A range has no end of values.
        """
        for parameter in self.parameters:
            if not parameter.is_list:
                raise ConfigError(
                    f"{parameter.origin}: searcher grid goes through listed values, and "
                    f"{parameter.key} is {parameter.kind}. Use choice or grid, or --searcher=random"
                )
        grids = (Parameter(p.key, "grid", p.values, p.origin) for p in self.parameters)
        return Space(tuple(grids), self.source)

    def domains(self) -> dict[str, Any]:
        """``param_space`` of Ray Tune."""
        return {parameter.key: parameter.domain() for parameter in self.parameters}

    def decode(self, drawn: dict[str, Any]) -> dict[str, Any]:
        """Plain values of what Ray has drawn, by key."""
        return {p.key: p.decode(drawn[p.key]) for p in self.parameters}

    def combinations(self, keys: Iterable[str], at_most: int) -> list[dict[str, Any]]:
        """Return all combinations of the listed values of `keys`, `at_most` so many."""
        listed = [p for p in self.parameters if p.key in set(keys) and p.is_list]
        picked = list(product(*(p.values for p in listed)))[:at_most]
        return [dict(zip((p.key for p in listed), values, strict=True)) for values in picked]

    def plain(self) -> dict[str, Any]:
        """``key: {kind: values}``, as it is written in YAML."""
        return {p.key: {p.kind: list(p.values)} for p in self.parameters}


def read_space(path: str | Path) -> Space:
    """Read a search space.

    A YAML file has a line ``key: {kind: values}`` per parameter, see `KINDS`. Any other file is
    read in RecBole's format, ``key kind values`` per line; there the bounds of ``loguniform`` are
    natural logarithms, as RecBole (and hyperopt) have it.

    Raises
    ------
    ConfigError
        The file cannot be read, holds no parameter, or a malformed one; with file and line.
    """
    path = Path(path)
    if path.suffix in (".yaml", ".yml"):
        parameters = [
            _parse_entry(key, setting.value, setting.origin)
            for key, setting in read_yaml(path).items()
        ]
    else:
        parameters = _read_recbole_file(path)
    if not parameters:
        raise ConfigError(f"{path}: the search space is empty; write `key: {{kind: values}}` lines")
    return Space(tuple(parameters), str(path))


def _parse_entry(key: str, described: Any, origin: str) -> Parameter:
    if not isinstance(described, dict) or len(described) != 1:
        raise ConfigError(
            f"{origin}: {key}: expected {{kind: values}} with a kind of {', '.join(KINDS)}, found "
            f"{described!r}; a fixed value belongs on the command line or into --config_files"
        )
    ((kind, values),) = described.items()
    if kind not in KINDS:
        raise ConfigError(
            f"{origin}: {key}: unknown kind {kind!r}{suggest(str(kind), KINDS)}; "
            f"there are {', '.join(KINDS)}"
        )
    return _validate(Parameter(key, kind, _tuple(values), origin), values)


def _tuple(values: Any) -> tuple:
    return tuple(values) if isinstance(values, (list, tuple)) else (values,)


def _validate(parameter: Parameter, written: Any) -> Parameter:
    problem = _problem(parameter.kind, parameter.values, written)
    if problem:
        raise ConfigError(
            f"{parameter.origin}: {parameter.key}: {problem}; {parameter.kind} takes "
            f"{KINDS[parameter.kind]}, found {written!r}"
        )
    return parameter


def _problem(kind: str, values: tuple, written: Any) -> str | None:
    """What is wrong with the values of a parameter, if anything is."""
    if not isinstance(written, (list, tuple)):
        return "not a list"
    if kind in LISTS:
        return None if values else "no values"
    wanted = int if kind == "randint" else (int, float)
    if len(values) != (3 if kind == "quniform" else 2):
        return "the number of bounds is wrong"
    if any(not isinstance(v, wanted) or isinstance(v, bool) for v in values):
        return "a bound is not a whole number" if kind == "randint" else "a bound is not a number"
    if not all(math.isfinite(v) for v in values):
        return "a bound is not finite"
    if not values[0] < values[1]:
        return "low is not below high"
    if kind == "loguniform" and values[0] <= 0:
        return "low is not above 0"
    if kind == "quniform" and not 0 < values[2] <= values[1] - values[0]:
        return "the step is not in 0 .. high - low"
    return None


def _read_recbole_file(path: Path) -> list[Parameter]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise ConfigError(f"{path}: cannot read this search space: {reason}") from None
    parameters: dict[str, Parameter] = {}
    for number, line in enumerate(lines, 1):
        text = line.split("#")[0].strip()
        if not text:
            continue
        parameter = _parse_recbole_line(text, f"{path}, line {number}")
        if parameter.key in parameters:
            known = parameters[parameter.key].origin
            raise ConfigError(f"{parameter.origin}: {parameter.key} is already set at {known}")
        parameters[parameter.key] = parameter
    return list(parameters.values())


def _parse_recbole_line(text: str, origin: str) -> Parameter:
    parts = text.split(maxsplit=2)
    if len(parts) < 3 or parts[1] not in RECBOLE_KINDS:
        raise ConfigError(
            f"{origin}: expected `key kind values` with a kind of {', '.join(RECBOLE_KINDS)} "
            f"(RecBole's format; a file named .yaml is read as YAML), found {text!r}"
        )
    key, kind, values = parts
    if kind == "choice":
        written = parse_scalar(values)
        if isinstance(written, list):  # RecBole writes a list as a string: '[64,64]'
            written = [parse_scalar(v) if isinstance(v, str) else v for v in written]
        return _validate(Parameter(key, kind, _tuple(written), origin), written)
    written = [parse_scalar(value.strip()) for value in values.strip("[]() ").split(",")]
    numbers = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in written)
    if kind == "loguniform" and numbers:
        if max(written) > 700:  # exp overflows
            raise ConfigError(f"{origin}: {key}: loguniform takes logarithms here, found {values}")
        written = [math.exp(value) for value in written]
    elif kind == "quniform":  # whole numbers from a range of whole numbers, as with hyperopt's int
        written = [int(v) if numbers and float(v).is_integer() else v for v in written]
    return _validate(Parameter(key, kind, tuple(written), origin), written)
