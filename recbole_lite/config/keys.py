"""The table of settings, read from the comments of ``properties/*.yaml``.

One line makes a setting known, checked, documented and classified::

    name: default  # (type; affects WHAT; was FORMER NAME; trained: VALUE; before: VALUE) Meaning.

The type is made of the words of :mod:`recbole_lite.config.validation`. ``affects`` takes words of
`AFFECTS`; without it, a change of the setting is taken to change the trained weights and all that
follows from them. ``was OLD`` keeps a former name, ``was OLD=NEW`` the former name of a value.
``trained`` gives the value that suits a model whose weights are trained already, ``before`` what
runs were trained with before there was the setting, where that is not its default. A setting of
several models is described in one of their files; the others only give their defaults.

Needs neither torch nor RecBole.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any

import yaml

from recbole_lite.utils.errors import ConfigError
from recbole_lite.utils.paths import PROPERTIES

AFFECTS = {
    "run": "which run it is",
    "process": "which of several processes it is, or how it was started; not kept with a run",
    "ids": "which user and item has which internal id",
    "vectors": "the item vectors of the Item LLM, and so their cache",
    "start": "the weights that a training starts from",
    "length": "how long a run trains; a resumed run may have another length",
    "session": "this session of a run or sweep; another one may continue it",
    "result": "the protocol: figures are compared where it is the same",
    "machine": "where a run computes; figures are the same but for rounding",
    "output": "what is shown or kept; no figure",
    "downloads": "what may be downloaded; no figure",
    "places": "where files are; another machine may have them elsewhere",
    "detected": "its default is detected on the machine in every session",
}
_LINE = re.compile(r"""["']?([\w*-]+)["']?:(?:[^#"']|"[^"]*"|'[^']*')*(?:#\s*(.*))?$""")
_COMMENT = re.compile(r"\(([^()]*)\)\s*(.*)")


@dataclass(frozen=True)
class Key:
    """What the table says of one setting.

    Attributes
    ----------
    name : str
        A ``*`` in it stands for any letters.
    type : str
        Empty where another file describes the setting.
    meaning : str
    affects : frozenset of str
        Words of `AFFECTS`.
    former_names : tuple of str
    former_values : dict of str to str
        Former name of a value -> its name.
    trained, before : str or None
        As YAML.
    """

    name: str
    type: str = ""
    meaning: str = ""
    affects: frozenset[str] = frozenset()
    former_names: tuple[str, ...] = ()
    former_values: Mapping[str, str] = field(default_factory=dict)
    trained: str | None = None
    before: str | None = None


def read_keys(text: str) -> dict[str, Key]:
    """Read the settings that the lines of a file describe, or only set, in order.

    Raises
    ------
    ConfigError
        A clause of a comment that means nothing.
    """
    matches = filter(None, map(_LINE.match, text.splitlines()))
    return {match[1]: _read_key(match[1], match[2] or "") for match in matches}


def _read_key(name: str, comment: str) -> Key:
    described = _COMMENT.match(comment)
    if not described:
        return Key(name, meaning=comment)
    kind, *clauses = (clause.strip() for clause in described[1].split(";"))
    affects: set[str] = set()
    former: list[str] = []
    values: dict[str, str] = {}
    for clause in clauses:
        word, _, rest = clause.partition(" ")
        if word == "was":
            former += rest.split(", ")
            continue
        if word in ("trained:", "before:"):
            values[word[:-1]] = rest
            continue
        words = set(rest.split(", ")) if word == "affects" else {clause}
        if not words <= AFFECTS.keys():
            raise ConfigError(
                f"{name}: {clause!r} means nothing in a comment of properties; write affects "
                f"{', '.join(AFFECTS)}, was FORMER NAME, trained: VALUE, or before: VALUE"
            )
        affects |= words
    renamed = dict(one.split("=") for one in former if "=" in one)
    names = tuple(one for one in former if "=" not in one)
    return Key(name, kind, described[2], frozenset(affects), names, renamed, **values)


@lru_cache
def table(*files: str) -> Mapping[str, Key]:
    """Return the settings that files of ``properties/`` describe, by name.

    Parameters
    ----------
    *files : str
        Paths in ``properties/``; none: all that describe settings of a run.
    """
    models = (f"model/{path.name}" for path in sorted((PROPERTIES / "model").glob("*.yaml")))
    found: dict[str, Key] = {}
    for name in files or ("recbole.yaml", "overall.yaml", *models):
        for key in read_keys((PROPERTIES / name).read_text(encoding="utf-8")).values():
            if key.type:
                found.setdefault(key.name, key)
    return found


def find_key(name: str, own: Mapping[str, Key] | None = None) -> Key | None:
    """Look a setting up: among a model's own, then in the table, then by its patterns."""
    known = {**table(), **(own or {})}
    patterns = (key for key in known.values() if "*" in key.name and fnmatchcase(name, key.name))
    return known.get(name) or next(patterns, None)


def affecting(*what: str, files: Iterable[str] = ()) -> frozenset[str]:
    """Names of the settings that affect any of `what`, words of `AFFECTS`."""
    return frozenset(key.name for key in table(*files).values() if key.affects & set(what))


def trained_values() -> dict[str, Any]:
    """Values of settings that say how a training begins, for a model that is trained already."""
    keys = table().values()
    return {key.name: yaml.safe_load(key.trained) for key in keys if key.trained is not None}


def values_before(model: str | None = None) -> dict[str, Any]:
    """Values of settings of a run that was saved before there were these settings.

    Parameters
    ----------
    model : str, optional
        Name of the run's model, so that settings of other models are left out.
    """
    own = f"model/{model}.yaml"
    files = () if model is None else ("recbole.yaml", "overall.yaml", own)
    keys = table(*(name for name in files if (PROPERTIES / name).is_file())).values()
    return {key.name: yaml.safe_load(key.before) for key in keys if key.before is not None}


@lru_cache(maxsize=1)
def former_names() -> Mapping[str, str]:
    """Former names of settings -> their names."""
    return {old: key.name for key in table().values() for old in key.former_names}


def current(name: str, value: Any = None) -> tuple[str, Any]:
    """Name and value of a setting now, where either may have had another name before."""
    name = former_names().get(name, name)
    values = table()[name].former_values if name in table() else {}
    return name, values.get(value, value) if isinstance(value, str) else value


def with_current_names(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a saved run, which an older version may have written, by their names now."""
    return dict(current(name, value) for name, value in settings.items())
