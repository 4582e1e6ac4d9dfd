"""Base of the pydantic models of ``dataset_meta`` files; errors in one line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Annotated, Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Strict, ValidationError, model_validator

from recbole_lite.utils.errors import ConfigError

T = TypeVar("T")
Model = TypeVar("Model", bound="StrictModel")
Tuple = Annotated[tuple[T, ...], Strict(False)]  # written as a list, which YAML has

_EXPECTED = {
    "model_type": "a mapping of keys to values",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "string_type": "str",
    "int_type": "int",
    "float_type": "float",
    "bool_type": "bool",
}
_UNKNOWN = ("extra_forbidden", "invalid_key")


class StrictModel(BaseModel):
    """Mapping of a YAML file: no unknown keys, no conversions; ``null`` counts as absent."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return {key: value for key, value in data.items() if value is not None}


def validate(model: type[Model], data: Any, prefix: str = "") -> Model:
    """Make a model of what a file holds.

    `prefix`, such as ``converter.options.``, stands before the key in the message.

    Raises
    ------
    ConfigError
        An unknown or missing key, or a wrong value: the key, what was found and what to write.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        # A misspelled key is missing under its right name, too.
        first = min(error.errors(), key=lambda one: one["type"] not in _UNKNOWN)
        raise ConfigError(prefix + _message(model, first)) from None


def _message(model: type[StrictModel], error: Any) -> str:
    kind, place, found = error["type"], error["loc"], error["input"]
    if kind == "missing":
        text = "missing"
    elif kind in _UNKNOWN:
        place = (*place[:-1], str(place[-1]))
        text = f"unknown key; {nearest(place[-1], _model_at(model, place[:-1]).model_fields)}"
    elif kind == "value_error":
        text = str(error["ctx"]["error"])
    elif kind == "literal_error":
        text = f"one of {error['ctx']['expected']} expected, found {found!r}"
    else:
        text = f"{_EXPECTED[kind]} expected, found {found!r}" if kind in _EXPECTED else error["msg"]
    keys = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in place)
    return f"{keys[1:]}: {text}" if keys else text


def _model_at(model: type[StrictModel], place: Iterable[Any]) -> type[StrictModel]:
    for key in place:
        if key in model.model_fields:
            hint = model.model_fields[key].annotation
            model = next(one for one in (*get_args(hint), hint) if hasattr(one, "model_fields"))
    return model


def nearest(name: str, known: Iterable[str]) -> str:
    """Known names that are near `name`, or all if none is; part of a sentence."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"nearest: {', '.join(near)}" if near else f"known: {', '.join(known) or 'none'}"
