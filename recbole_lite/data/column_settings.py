"""Checks of the settings that name columns of the data files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from recbole_lite.config.validation import fit
from recbole_lite.utils.errors import ConfigError, DataError
from recbole_lite.utils.suggestions import suggest

FILES = ("inter", "user", "item", "kg", "link", "net")


def check_load_columns(config) -> None:
    """Check ``load_col``, ``unload_col`` and ``seq_len`` before a file is read.

    Raises
    ------
    ConfigError
        With the key, what was found and what to write.
    """
    suffixes = config["additional_feat_suffix"] or []
    files = (*FILES, *([suffixes] if isinstance(suffixes, str) else suffixes))
    load, unload = (_checked_columns(config, key, files) for key in ("load_col", "unload_col"))
    if load is not None and "inter" not in load:
        raise ConfigError(
            f"load_col has no 'inter', found {load!r}; name the columns of the interactions, "
            "{inter: [user_id, item_id, timestamp]}, or set load_col: ~ to read all"
        )
    for name, columns in (unload or {}).items():
        if (load or {}).get(name, "*") != "*":
            raise ConfigError(
                f"load_col and unload_col both name columns of .{name} ({load[name]} and "
                f"{columns}); leave one of them out"
            )
    lengths = config["seq_len"] or {}
    if not isinstance(lengths, dict) or any(type(n) is not int or n < 1 for n in lengths.values()):
        raise ConfigError(f"seq_len must be like {{title: 10}}, found {lengths!r}")


def _checked_columns(config, key: str, files: Iterable[str]) -> dict[str, Any] | None:
    value = config[key]
    if value is None:
        return None
    if not isinstance(value, dict):
        raise ConfigError(f"{key} must be like {{inter: [user_id, item_id]}}, found {value!r}")
    for name, columns in value.items():
        if name not in files:
            raise ConfigError(
                f"{key}: {name!r} is no file of a data set{suggest(str(name), files)}; it has "
                f"{', '.join(files)}"
            )
        if columns != "*" and not _is_names(columns):
            raise ConfigError(f"{key}: {name} must be a list of columns, found {columns!r}")
    return value


def _is_names(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(name, str) for name in value)


# Key that names columns -> type they must have, because it decides their order or value.
TYPE_OF = {
    "USER_ID_FIELD": "token",
    "ITEM_ID_FIELD": "token",
    "TIME_FIELD": "float",
    "RATING_FIELD": "float",
    "LABEL_FIELD": "float",
    "HEAD_ENTITY_ID_FIELD": "token",
    "TAIL_ENTITY_ID_FIELD": "token",
    "RELATION_ID_FIELD": "token",
    "ENTITY_ID_FIELD": "token",
    "threshold": "float",
    "val_interval": "float",
    "discretization": "float",
    "normalize_field": "float",
    "numerical_features": "float",
}
_REASONS = {
    "token": "ids are numbered by their text",
    "float": "as text, 10 comes before 9",
}


def check_types(path: Path, types: dict[str, str], columns: Mapping[str, Any]) -> None:
    """Check the types of columns whose values a run orders, compares or numbers.

    Parameters
    ----------
    path : Path
        The file.
    types : dict of str to str
        Column that is read -> type in the header.
    columns : mapping of str to (str or iterable of str or None)
        Key of `TYPE_OF` -> the columns that it names, which other files may hold.

    Raises
    ------
    DataError
        Naming the column, its type and the right one.
    """
    for key, wanted in TYPE_OF.items():
        for name in names_in(columns.get(key)):
            found = types.get(name, wanted)
            # Each number of a sequence can be scaled or compared, but a row has one time.
            if found != wanted and (key.isupper() or found != f"{wanted}_seq"):
                raise DataError(
                    f"column {name!r} has type {found}, but {key} needs {wanted} "
                    f"({_REASONS[wanted]}); write {name}:{wanted} in the header",
                    path,
                    1,
                )


def names_in(value: Any) -> tuple[str, ...]:
    """Columns that the value of a key names: one, several, or those of a mapping."""
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, (list, tuple, dict)) else ()


def check_columns(dataset) -> None:
    """Check the settings that name columns, once the files are read.

    Raises
    ------
    ConfigError
        A column that was not read, or a value of another form.
    """
    config, types = dataset.config, {k: v.value for k, v in dataset.field2type.items()}
    _check_mappings(config, types)
    aliases = [key for key in config.final_config_dict if key.startswith("alias_of_")]
    for key in ("normalize_field", "numerical_features", *aliases):
        if config[key] is not None:
            _check_names(key, config[key], types)
    _check_features(config, types)


def _check_mappings(config, types: dict[str, str]) -> None:
    for key, (form, right) in _MAPPINGS.items():
        value = config[key]
        if value is None:
            continue
        if not isinstance(value, dict) or not all(map(right, value.values())):
            raise ConfigError(f"{key} must be like {form}, found {value!r}")
        _check_read(key, value, types)
    if len(config["threshold"] or ()) > 1:
        raise ConfigError(f"threshold must name one column, found {config['threshold']!r}")


def _check_features(config, types: dict[str, str]) -> None:
    """Columns that a model reads as features of items."""
    # Other models have the keys from a file that several runs share.
    for key in {"selected_features", "item_attribute"} & set(config.internal_config_dict):
        value = config[key]
        names = [value] if key == "item_attribute" else value
        _check_names(key, names, types)
        if not any(types[name].startswith("token") for name in names):
            raise ConfigError(f"{key}: {value!r}; name columns of type token or token_seq")


def _check_names(key: str, value: Any, types: dict[str, str]) -> None:
    if not _is_names(value):
        raise ConfigError(f"{key} must be a list of columns, found {value!r}")
    _check_read(key, value, types)


def _check_read(key: str, names: Iterable[str], types: dict[str, str]) -> None:
    for name in names:
        if name not in types:
            raise ConfigError(
                f"{key}: no column {name!r} was read{suggest(str(name), types)}; read were "
                f"{', '.join(types)}. Name one of them, or add it to load_col"
            )


def _is_bucketing(value: Any) -> bool:
    return isinstance(value, dict) and value.get("method") in ("ED", "LD")


# Key -> its form, and what each of its values must be.
_MAPPINGS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "threshold": ("{rating: 3}", lambda value: not fit("number", value)[1]),
    "val_interval": ('{rating: "[3,inf)"}', lambda value: not fit("interval", value)[1]),
    "discretization": ("{price: {method: ED, bucket: 10}} (method ED or LD)", _is_bucketing),
}


def check_counts(config, dataset) -> None:
    """Refuse lists that are longer than there are items.

    Raises
    ------
    ConfigError
        With the key and the number of items.
    """
    n_items = dataset.item_num - 1  # id 0 is padding
    wanted = {"topk": max(config["topk"])}
    for key in ("metrics_k", "reranker_CAN_NUM"):  # of RaCT, of SASRecCPR and GRU4RecCPR
        if key in config.internal_config_dict and str(config[key]).isdigit():
            wanted[key] = int(config[key])
    for key, count in wanted.items():
        if count > n_items:
            raise ConfigError(
                f"{key}: {count} is more than the {n_items} items of {config['dataset']} (after "
                f"its filters); set {key} to at most {n_items}"
            )
