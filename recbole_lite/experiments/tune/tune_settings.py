"""Settings of a sweep itself: how it searches, stops and spreads; not those of a training."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping
from dataclasses import asdict, make_dataclass
from typing import Any

from recbole_lite.config.command_line import parse_scalar
from recbole_lite.config.keys import table
from recbole_lite.config.validation import fit
from recbole_lite.config.yaml_files import read_yaml
from recbole_lite.utils.errors import ConfigError, MissingDependencyError
from recbole_lite.utils.paths import PROPERTIES
from recbole_lite.utils.suggestions import suggest

SWEEP_FILE = "sweep.json"  # in the folder of a sweep: what it is made of
DEFAULTS = PROPERTIES / "tune.yaml"


class TuneSettings(make_dataclass("_Keys", table("tune.yaml"), frozen=True)):
    """Keys of ``properties/tune.yaml``; what they mean stands there."""

    def plain(self) -> dict[str, Any]:
        """Return the settings as a dict."""
        return asdict(self)


NAMES = tuple(table("tune.yaml"))


def split_arguments(arguments: Iterable[str]) -> tuple[dict[str, str], list[str]]:
    """Part ``--key=value`` arguments into those of the sweep and those of a training.

    Returns
    -------
    tuple
        Key -> text of ``tune`` and of the keys of `TuneSettings` (``--ray-address`` is
        ``--ray_address``), and the rest as it was.

    Raises
    ------
    ConfigError
        A key of the sweep is given twice or without a value.
    """
    own: dict[str, str] = {}
    rest = []
    for argument in arguments:
        name, given, value = argument.partition("=")
        key = name.removeprefix("--").replace("-", "_")
        if not name.startswith("--") or key not in (*NAMES, "tune"):
            rest.append(argument)
            continue
        if not given or not value:
            raise ConfigError(f"command line: cannot read {argument!r}; write {name}=value")
        if own.get(key, value) != value:
            raise ConfigError(f"command line: {name} is given twice, {own[key]!r} and {value!r}")
        own[key] = value
    return own, rest


def read_settings(given: Mapping[str, Any]) -> TuneSettings:
    """Lay what the user gives over the defaults; strings are read as on the command line.

    Raises
    ------
    ConfigError
        An unknown key or a wrong value.
    MissingDependencyError
        ``searcher: optuna`` without Optuna.
    """
    values = {key: setting.value for key, setting in read_yaml(DEFAULTS).items()}
    for key, value in given.items():
        if key not in values:
            raise ConfigError(f"unknown key of a sweep: {key!r}{suggest(key, values)}")
        textual = values[key] if isinstance(values[key], str) else None
        value = parse_scalar(value, textual) if isinstance(value, str) else value
        values[key], wanted = fit(table("tune.yaml")[key].type, value)
        if wanted:
            raise ConfigError(f"--{key}: must be {wanted}, found {value!r}")
    if values["searcher"] == "optuna" and importlib.util.find_spec("optuna") is None:
        raise MissingDependencyError("--searcher=optuna needs Optuna; type: pip install optuna")
    return TuneSettings(**values)
