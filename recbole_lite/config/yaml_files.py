"""YAML files of settings, with the line that each was set at."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

try:  # libyaml, which parses seven times as fast as Python
    from yaml import CSafeLoader as _SafeLoader
except ImportError:  # PyYAML was built without it
    from yaml import SafeLoader as _SafeLoader  # type: ignore[assignment]

from recbole_lite.config.keys import current
from recbole_lite.utils.errors import ConfigError

MAX_NODES = 100_000  # in a configuration file; "billion laughs" has 10**9
MAX_DEPTH = 100


class Loader(_SafeLoader):
    """SafeLoader that reads ``1e-3`` as a number, as RecBole's loader does, and knows no dates.

    Raises
    ------
    yaml.YAMLError
        Besides what is no YAML, more than `MAX_DEPTH` collections in one another.
    """

    def __init__(self, text: str):
        _check_depth(text)  # the loader itself recurses, in C without a limit
        super().__init__(text)


def _check_depth(text: str) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=_SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            mark: Any = event.start_mark  # libyaml's are a class of their own
            problem = "lists or mappings in it are nested too deeply"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=mark)


# PyYAML's own pattern (YAML 1.1) takes "1e-3" for a string because it has no dot.
Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*)(\.[\d_]*)?[eE][-+]?\d+$"),
    list("-+0123456789"),
)
Loader.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in Loader.yaml_implicit_resolvers.items()
}


class _Dumper(yaml.SafeDumper):
    """SafeDumper that quotes the strings which :class:`Loader` would read as something else."""


_Dumper.yaml_implicit_resolvers = Loader.yaml_implicit_resolvers


def to_yaml(settings: Mapping[str, Any]) -> str:
    """Text of a configuration file: :func:`read_yaml` gives the same values."""
    return yaml.dump(dict(settings), Dumper=_Dumper, sort_keys=True, allow_unicode=True, width=100)


@dataclass(frozen=True)
class Setting:
    """A value and the place that it was set at (``demo.yaml, line 3``, ``command line`` ...).

    ``former`` is what was written there, if it has another name now.
    """

    value: Any
    origin: str
    former: str = ""


def set_at(name: str, value: Any, origin: str, before: Mapping[str, Setting]) -> dict[str, Setting]:
    """Make a setting, by its present name.

    Raises
    ------
    ConfigError
        It is set already, among those in `before`.
    """
    key, now = current(name, value)
    if key in before:
        raise ConfigError(f"{origin}: {name} is already set at {before[key].origin}")
    former = name if key != name else f"{key}: {value}" if now is not value else ""
    return {key: Setting(now, origin, former)}


def read_yaml(path: str | Path) -> dict[str, Setting]:
    """Read one configuration file.

    Raises
    ------
    ConfigError
        The file cannot be read, is no mapping, or sets a key twice; with file and line.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot read this configuration file: {error.strerror}"
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text ({error.reason})") from None
    return parse_yaml(text, path)


def parse_yaml(text: str, path: str | Path) -> dict[str, Setting]:
    """Read the text of a configuration file; `path` names it in messages.

    Raises
    ------
    ConfigError
        As of :func:`read_yaml`.
    """
    try:
        loader = Loader(text)
        node = loader.get_single_node()
        if node is None:
            return {}
        if not isinstance(node, yaml.MappingNode):
            raise ConfigError(f"{path}, line 1: expected lines of `key: value`")
        if _expanded(node, {}) > MAX_NODES:
            raise ConfigError(
                f"{path}: its aliases (*name) stand for more than {MAX_NODES:,} values"
            )
        return _settings_of(node, loader, path)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or error
        raise ConfigError(f"{path}{line}: not valid YAML: {problem}") from None


def _expanded(node: yaml.Node, known: dict[int, int]) -> int:
    """Number of values that a node stands for, each alias counted as what it repeats."""
    if id(node) not in known:
        known[id(node)] = 1  # also the end of a list that holds itself, which the loader refuses
        inner = node.value if isinstance(node, yaml.CollectionNode) else []
        pairs = isinstance(node, yaml.MappingNode)
        parts = [part for pair in inner for part in pair] if pairs else inner
        known[id(node)] += sum(_expanded(part, known) for part in parts)
    return known[id(node)]


def _settings_of(node: yaml.MappingNode, loader: Loader, path) -> dict[str, Setting]:
    settings: dict[str, Setting] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        origin = f"{path}, line {key_node.start_mark.line + 1}"
        if not isinstance(key, str):
            raise ConfigError(f"{origin}: {key!r} is no name of a key; quote it if it is meant so")
        value = loader.construct_object(value_node, deep=True)
        settings |= set_at(key, value, origin, settings)
    return settings
