"""Mappings from YAML into dataclasses: every key and every type is checked."""

from __future__ import annotations

import dataclasses
import difflib
import types
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from recbole_lite.utils.errors import ConfigError

T = TypeVar("T")


def nearest(name: str, known: Iterable[str]) -> str:
    """Say which known names are near, or which there are.

    Parameters
    ----------
    name : str
        What was asked for.
    known : iterable of str
        What there is.

    Returns
    -------
    str
        Part of a sentence.
    """
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"nearest: {', '.join(near)}" if near else f"known: {', '.join(known) or 'none'}"


def check_keys(data: Mapping, known: Iterable[str], where: str) -> None:
    """Refuse keys that are not known.

    Parameters
    ----------
    data : Mapping
        From a file.
    known : iterable of str
        The keys that mean something.
    where : str
        Stands before the key in the message, e.g. ``filters.``.
    """
    known = list(known)
    for key in data:
        if key not in known:
            raise ConfigError(f"{where}{key}: unknown key; {nearest(str(key), known)}")


def build(cls: type[T], data: Any, where: str) -> T:
    """Make a dataclass of a mapping; ``null`` counts as absent.

    Parameters
    ----------
    cls : type
        A dataclass whose hints use scalars, ``X | None``, ``tuple[X, ...]``,
        ``dict[str, X]`` and dataclasses.
    data : Any
        From a file; must be a mapping.
    where : str
        Stands before keys in messages.

    Returns
    -------
    object of type `cls`
        Lists have become tuples, mappings dataclasses.

    Raises
    ------
    ConfigError
        An unknown or missing key, or a value of the wrong type.
    """
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where.rstrip('.')}: a mapping of keys to values expected")
    fields = {f.name: f for f in dataclasses.fields(cls)}
    check_keys(data, fields, where)
    for name, one in fields.items():
        optional = (one.default, one.default_factory) != (dataclasses.MISSING,) * 2
        if not optional and data.get(name) is None:
            raise ConfigError(f"{where}{name}: missing")
    hints = get_type_hints(cls)
    given = {key: value for key, value in data.items() if value is not None}
    values = {key: _value(hints[key], value, where + key) for key, value in given.items()}
    try:
        return cls(**values)
    except ConfigError as error:
        raise ConfigError(f"{where}{error}") from None


def _value(hint: Any, value: Any, where: str) -> Any:
    """Check one value against its type hint; lists become tuples, mappings dataclasses."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _value(args[0], value, where)
    if origin is tuple:
        if not isinstance(value, list):
            raise ConfigError(f"{where}: a list expected, found {value!r}")
        return tuple(_value(args[0], one, f"{where}[{i}]") for i, one in enumerate(value))
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where}: a mapping expected, found {value!r}")
        return {str(key): _value(args[1], one, f"{where}.{key}") for key, one in value.items()}
    if dataclasses.is_dataclass(hint):
        return build(hint, value, where + ".")
    return _scalar(hint, value, where)


def _scalar(hint: Any, value: Any, where: str) -> Any:
    if hint not in (str, int, float, bool):
        return value  # made here, not read from the file
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise ConfigError(f"{where}: {hint.__name__} expected, found {value!r}")
    return value
