"""Types and ranges of settings, as the table of settings names them; pydantic compares.

======================  ====================================================================
``bool``, ``dict``      as YAML has them
``list``                any list
``str``, ``text``       a string; a string that is not empty
``path``                a file or folder, not empty
``interval``            like ``[5,inf)``, several with ``;`` between
``int``, ``float``      a number, with bounds: ``int >= 1``, ``0 <= float < 1``; ``number`` is a
                        float. A whole number may be written ``2.0``
``a | b``               one of these words; upper and lower case are the same
``list of a | b``       a list of these words
``list of NOUNS``       a list of strings; one string stands for a list of one
``X or Y``, ``X or ~``  any of the two; ``~`` is "not set"
``any: NOUN``           whoever reads the setting checks it
======================  ====================================================================
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache, partial
from typing import Annotated, Any, Literal, Union

from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from recbole_lite.config.command_line import parse_scalar
from recbole_lite.config.keys import Key, find_key
from recbole_lite.config.yaml_files import Setting
from recbole_lite.utils.errors import ConfigError
from recbole_lite.utils.files import to_plain

_BOUND = r"[+-]?(inf|\d+(\.\d*)?([eE][+-]?\d+)?)"
_INTERVAL = rf"[\[(]\s*{_BOUND}\s*,\s*{_BOUND}\s*[\])]"
_VALUE = r"(-?\d+(?:\.\d+)?(?:\*\*\d+)?)"
_NUMBER = re.compile(rf"(?:{_VALUE} (<=?) )?(int|float|number)(?: ([<>]=?) {_VALUE})?")
_ABOVE = {"less_than": "below", "less_than_equal": "at most"}
_STRICT = ConfigDict(strict=True)
_CONSTRAINTS = {">=": "ge", ">": "gt", "<=": "le", "<": "lt"}
_WORDS: dict[str, tuple[Any, str]] = {
    "~": (None, ""),
    "bool": (bool, "true or false"),
    "dict": (dict, "a mapping such as {key: value}"),
    "list": (list, "a list"),
    "str": (str, "a text"),
    "text": (Annotated[str, Field(min_length=1)], "a text"),
    "path": (Annotated[str, Field(min_length=1)], "a text"),
    "interval": (
        Annotated[str, Field(pattern=rf"^{_INTERVAL}(\s*;\s*{_INTERVAL})*$")],
        'an interval such as "[5,inf)"',
    ),
}  # fmt: skip


def validate(
    name: str, setting: Setting, default: Any = None, own: Mapping[str, Key] | None = None
) -> Any:
    """Refuse a value that a setting cannot have.

    Parameters
    ----------
    name : str
    setting : Setting
    default : object
        Its type is that of a setting which is not in the table (RecBole's models').
    own : mapping, optional
        A model's own settings, beside the table.

    Returns
    -------
    object
        The value as plain data (:func:`recbole_lite.utils.files.to_plain`), so that it can be
        saved with the run; a count like ``2.0`` as an int.

    Raises
    ------
    ConfigError
        With the key, the value and where it was set.
    """
    value = to_plain(setting.value, finite=False, unknown=partial(_unsavable, name, setting))
    value, wanted = fit(_type(name, default, own), value)
    if wanted:
        raise ConfigError(f"{setting.origin}: {name} must be {wanted}, found {value!r}")
    return value


def parse_text(
    name: str, text: str, default: Any = None, own: Mapping[str, Key] | None = None
) -> Any:
    """Value of a setting that was given as text; the text itself where only that is allowed.

    So a prompt may end with a colon, which YAML would read as a mapping. Parameters are those of
    :func:`validate`.
    """
    value, kind = parse_scalar(text, default), _type(name, default, own)
    return text if fit(kind, value)[1] and not fit(kind, text)[1] else value


def _type(name: str, default: Any, own: Mapping[str, Key] | None) -> str:
    key = find_key(name, own)
    return key.type if key else _type_of(default)


def _unsavable(name: str, setting: Setting, part: Any):
    raise ConfigError(
        f"{setting.origin}: {name}: a value of type {type(part).__name__} cannot be saved with "
        "the run; give numbers, strings, lists or mappings"
    )


def _type_of(default: Any) -> str:
    """Type of a setting that nobody describes, by its default; None means "not set"."""
    if isinstance(default, bool):
        return "bool"
    if isinstance(default, (int, float)):
        return "number or ~"
    if isinstance(default, dict):
        return "dict or ~"
    return "str or list or dict or ~" if isinstance(default, str) else ""


def fit(kind: str, value: Any) -> tuple[Any, str]:
    """Compare a value with a type of the table.

    Returns
    -------
    tuple
        The value, in its usual form; what the type wants where the value is something else, or
        an empty text.
    """
    adapter, words, choices = _adapter(kind)
    if adapter is None:
        return value, ""
    if isinstance(value, str):
        value = choices.get(value.lower(), value)
    try:
        # Of numbers only counts change: a union keeps an int where a float is as good.
        return adapter.validate_python(value), ""
    except ValidationError as error:
        above = _ABOVE.get(error.errors()[0]["type"])
        bound = re.search(r"int <=? (\S+)", kind)
        return value, f"{above} {bound[1]}" if above and bound else words


@cache
def _adapter(kind: str) -> tuple[TypeAdapter | None, str, dict[str, str]]:
    """What compares values with a type, the type in words, and its choices by lower case."""
    if not kind or kind.startswith("any: "):
        return None, "", {}
    parts = [_part(part) for part in kind.split(" or ")]
    adapter = TypeAdapter(Union[tuple(part[0] for part in parts)], config=_STRICT)  # noqa: UP007
    choices = kind.removesuffix(" or ~").split(" | ") if not kind.startswith("list") else []
    words = " or ".join(part[1] for part in parts if part[1])
    return adapter, words, {choice.lower(): choice for choice in choices[1:] and choices}


def _part(text: str) -> tuple[Any, str]:
    """Annotation for pydantic and words for a part of a type that is alone or between "or"."""
    _, _, rest = text.rpartition("list of ")
    if text in _WORDS:
        return _WORDS[text]
    if " | " in rest:
        choices = rest.split(" | ")
        one = Literal[tuple(choices)]
        several = f"list of {', '.join(choices)}"
        return (list[one], f"a {several}") if text != rest else (one, f"one {several[5:]}")
    if text != rest:
        return list[str] | str, f"a list of {rest}"
    number = _NUMBER.fullmatch(text)
    if number is None:
        raise ConfigError(f"{text!r} is no type of a setting; config/validation.py has them")
    return _number(*number.groups())


def _number(low, low_sign, kind, sign, bound) -> tuple[Any, str]:
    bounds = {_CONSTRAINTS[sign]: _value(bound)} if sign else {}
    if low:
        bounds["ge" if low_sign == "<=" else "gt"] = _value(low)
    annotation = Annotated[int, BeforeValidator(_whole)] if kind == "int" else int | float
    return Annotated[annotation, Field(**bounds)], _in_words(low, low_sign, kind, sign, bound)


def _in_words(low, low_sign, kind, sign, bound) -> str:
    if low and kind != "int":
        noun = {"0<=<1": "probability", "0<=<=1": "share"}.get(f"{low}{low_sign}{sign}{bound}")
        ends = "[" if low_sign == "<=" else "(", "]" if sign == "<=" else ")"
        return f"a {noun or 'number'} in {ends[0]}{low}, {bound}{ends[1]}"
    if low:
        sign, bound = (">=" if low_sign == "<=" else ">"), low
    if (kind, sign, bound) in (("float", ">", "0"), ("number", ">", "0")):
        return "a positive number"
    how = {">=": " of at least ", ">": " above ", "<=": " of at most ", "<": " below "}
    return f"a {'whole ' * (kind == 'int')}number" + (how[sign] + bound if sign else "")


def _value(text: str) -> float:
    base, _, power = text.partition("**")
    value = float(base) ** int(power or 1)
    return int(value) if value.is_integer() else value


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value
