"""Settings as text: ``--key=value`` arguments and the values in them.

RecBole evaluates every string value as Python code (``Config._convert_config_dict``). Here a
string becomes a Python literal or a YAML scalar, never code.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from typing import Any

import yaml

from recbole_lite.config.keys import find_key
from recbole_lite.config.yaml_files import Loader, Setting, set_at
from recbole_lite.utils.errors import ConfigError


def parse_overrides(arguments: Iterable[str]) -> dict[str, Setting]:
    """Read ``--key=value`` arguments; the values stay strings. ``-`` in a key stands for ``_``.

    Raises
    ------
    ConfigError
        An argument of another form, or a key set twice with different values.
    """
    settings: dict[str, Setting] = {}
    for argument in arguments:
        match = re.fullmatch(r"--([A-Za-z_][\w-]*)=(.*)", argument, flags=re.DOTALL)
        if match is None:
            raise ConfigError(f"command line: cannot read {argument!r}; write --key=value")
        key, value = match[1].replace("-", "_"), match[2]
        if not value and _is_path(key):  # --resume=$UNSET would begin a run anew
            raise ConfigError(
                f"command line: --{key} must not be empty; name a path, or leave it out"
            )
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ConfigError(f"command line: --{key}={value!r} is not UTF-8 text") from None
        [(name, setting)] = set_at(key, value, "command line", {}).items()
        if name in settings and settings[name].value != setting.value:
            raise ConfigError(
                f"command line: --{key} is given twice, as {settings[name].value!r} and {value!r}"
            )
        settings[name] = setting
    return settings


def parse_scalar(text: str, default: Any = None) -> Any:
    """Turn a string from the command line or a dict into a value, without evaluating it.

    Python literals (``None``, ``[1, 2]``, ``{'LS': 'valid_and_test'}``) and YAML (``true``,
    ``1e-3``, ``~``) are read as such. Where `default` is a string the text is kept, so that a
    template like ``{title}`` or a GPU list like ``0,1`` survives.
    """
    if text.strip() in {"None", "null", "~"}:
        return None
    if isinstance(default, str):
        return text
    for parse in (ast.literal_eval, lambda value: yaml.load(value, Loader=Loader)):
        try:
            value = parse(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError, yaml.YAMLError):
            continue
        if isinstance(value, tuple):
            value = list(value)
        if isinstance(value, (str, int, float, bool, list, dict)) or value is None:
            return value
    return text


def _is_path(name: str) -> bool:
    key = find_key(name)
    return key is not None and key.type.split(" or ")[0] == "path"
