"""Where settings come from: YAML files with line numbers, ``--key=value`` strings, known keys.

RecBole evaluates every string value as Python code (``Config._convert_config_dict``). Here a
string becomes a Python literal or a YAML scalar, never code.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import math
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import yaml

from recbole_lite.utils.errors import ConfigError
from recbole_lite.utils.files import to_plain
from recbole_lite.utils.paths import PROPERTIES


class Loader(yaml.SafeLoader):
    """SafeLoader that reads ``1e-3`` as a number, as RecBole's loader does, and knows no dates."""


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


MAX_NODES = 100_000  # in a configuration file; "billion laughs" has 10**9


class _Dumper(yaml.SafeDumper):
    """SafeDumper that quotes the strings which :class:`Loader` would read as something else."""


_Dumper.yaml_implicit_resolvers = Loader.yaml_implicit_resolvers


def to_yaml(settings: Mapping[str, Any]) -> str:
    """Text of a configuration file: :func:`read_yaml` gives the same values."""
    return yaml.dump(dict(settings), Dumper=_Dumper, sort_keys=True, allow_unicode=True, width=100)


@dataclass(frozen=True)
class Setting:
    """A value and the place that it was set at (``demo.yaml, line 3``, ``command line`` ...)."""

    value: Any
    origin: str


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
    loader = Loader(text)
    try:
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
    except RecursionError:
        raise ConfigError(f"{path}: lists or mappings in it are nested too deeply") from None
    finally:
        loader.dispose()


def _expanded(node: yaml.Node, known: dict[int, int]) -> int:
    """Number of values that a node stands for, each alias counted as what it repeats."""
    if id(node) not in known:
        known[id(node)] = 1  # also the end of a list that holds itself, which the loader refuses
        inner = node.value if isinstance(node, yaml.CollectionNode) else []
        pairs = isinstance(node, yaml.MappingNode)
        parts = [part for pair in inner for part in pair] if pairs else inner
        known[id(node)] += sum(_expanded(part, known) for part in parts)
    return known[id(node)]


def _settings_of(node: yaml.MappingNode, loader: Loader, path: Path) -> dict[str, Setting]:
    settings: dict[str, Setting] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        origin = f"{path}, line {key_node.start_mark.line + 1}"
        if not isinstance(key, str):
            raise ConfigError(f"{origin}: {key!r} is no name of a key; quote it if it is meant so")
        if key in settings:
            raise ConfigError(f"{origin}: {key} is already set at {settings[key].origin}")
        settings[key] = Setting(loader.construct_object(value_node, deep=True), origin)
    return settings


# Keys whose value is a path that the user names.
_PATHS = {"resume", "init_from", "data_path", "checkpoint_dir", "pre_model_path"}


def parse_overrides(arguments: Iterable[str]) -> dict[str, Setting]:
    """Read ``--key=value`` arguments; the values stay strings.

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
        key, value = match.groups()
        if not value and key in _PATHS:  # --resume=$UNSET would begin a run anew
            raise ConfigError(
                f"command line: --{key} must not be empty; name a path, or leave it out"
            )
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ConfigError(f"command line: --{key}={value!r} is not UTF-8 text") from None
        if key in settings and settings[key].value != value:
            raise ConfigError(
                f"command line: --{key} is given twice, as {settings[key].value!r} and {value!r}"
            )
        settings[key] = Setting(value, "command line")
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


@lru_cache(maxsize=1)
def _keys_of_properties() -> frozenset[str]:
    """Every key that a property file of RecBole or of this project sets."""
    import recbole
    from recbole.utils import argument_list

    # Not everything under PROPERTIES: rec_llm/ has the names of Hugging Face's configurations.
    shipped = [
        PROPERTIES / "overall.yaml",
        *PROPERTIES.glob("model/*"),
        *PROPERTIES.glob("dataset/*"),
        *PROPERTIES.glob("task/*"),
    ]
    files = [*(Path(recbole.__file__).parent / "properties").glob("**/*.yaml"), *shipped]
    keys = {"model", "dataset", "config_files", "config_file"}
    # Read by RecBole's Config or quick start, without a default in its property files.
    keys |= {"local_rank", "nproc", "world_size", "ip", "port", "offset", "neg_sampling"}
    keys |= {"encoding"}
    keys |= {"tail_ratio"}  # of the metric TailPercentage
    for path in files:
        if path.name not in {"url.yaml", "kg_url.yaml"}:
            keys.update(yaml.load(path.read_text(encoding="utf-8"), Loader=Loader) or {})
    for name in ("general", "training", "evaluation", "dataset"):
        keys.update(getattr(argument_list, f"{name}_arguments"))
    return frozenset(keys)


def known_keys(model_class: type) -> frozenset[str]:
    """Return the keys that a run may set: those of the property files, and what the model reads.

    A model's own ``config["key"]`` is looked up in the source of its module, so that models
    from outside this project need no registration of their keys.
    """
    module = sys.modules.get(model_class.__module__)
    try:
        source = inspect.getsource(module) if module else ""
    except (OSError, TypeError):
        source = ""
    return _keys_of_properties() | set(re.findall(r"config\[\s*[\"'](\w+)[\"']\s*\]", source))


def check_known(settings: Mapping[str, Setting], known: Iterable[str]) -> None:
    """Refuse unknown keys, naming the nearest known ones.

    Raises
    ------
    ConfigError
        One line per unknown key.
    """
    known = sorted(known)
    problems = []
    for key, setting in settings.items():
        if key in known:
            continue
        problems.append(f"{setting.origin}: unknown key {key!r}{nearest(key, known)}")
    if problems:
        raise ConfigError("\n".join(problems))


def nearest(name: str, known: Iterable[str]) -> str:
    """``; did you mean ...?`` with the known names like `name`, or nothing."""
    lowered = {candidate.lower(): candidate for candidate in known}
    near = difflib.get_close_matches(name.lower(), lowered, n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(lowered[match] for match in near)}?" if near else ""


_COUNTS = {  # key: smallest value
    "epochs": 0,
    "train_batch_size": 1,
    "eval_batch_size": 1,
    "eval_step": 0,
    "stopping_step": 0,
    "seed": 0,
    "MAX_ITEM_LIST_LENGTH": 1,
    "worker": 0,
    "checkpoint_every": 0,
    "sample_users": 0,
    "sce_negatives": 1,
    "max_steps": 1,
    "end_epoch": 1,
    "num_beams": 1,
    "prompt_length": 0,
    "prefix_overlap": 0,
    "hidden_size": 1,
    "inner_size": 1,
    "embedding_size": 1,
    "n_layers": 1,
    "n_heads": 1,
    "item_llm_batch_size": 1,
    "metric_decimal_place": 0,
    "loss_decimal_place": 0,
    "topn_negatives": 1,
    "topn_seed": 0,
}
_CHOICES = {  # RecBole takes unknown names for its defaults, without a word or with a warning
    "learner": ("adam", "adamw", "sgd", "adagrad", "rmsprop", "sparse_adam"),
    "state": ("debug", "info", "warning", "error", "critical"),
    "rm_dup_inter": ("first", "last"),
}
_TEXTS = {"data_path", "checkpoint_dir", "field_separator", "seq_separator", "lr_scheduler"}
_BOUND = r"[+-]?(inf|\d+(\.\d*)?([eE][+-]?\d+)?)"
_INTERVAL = rf"[\[(]\s*{_BOUND}\s*,\s*{_BOUND}\s*[\])]"
INTERVALS = re.compile(rf"{_INTERVAL}(\s*;\s*{_INTERVAL})*")
_MAY_BE_NONE = {
    "max_steps", "end_epoch", "hidden_size", "inner_size", "embedding_size", "n_layers", "n_heads",
    "loss_decimal_place",
}  # fmt: skip
# Beside the counts: keys whose value cannot be left out.
_NEEDED = {*_COUNTS, "learning_rate", "weight_decay", "warmup_ratio"} - _MAY_BE_NONE


def checked(key: str, setting: Setting, default: Any) -> Any:
    """Refuse a value whose type cannot be meant, given the default's.

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
    value = to_plain(setting.value, finite=False, unknown=partial(_unsavable, key, setting))
    setting = Setting(value, setting.origin)
    wanted = (
        _by_name(key, setting.value)
        or _by_text(key, setting.value)
        or _by_default(key, setting.value, default)
    )
    if wanted:
        raise ConfigError(f"{setting.origin}: {key} must be {wanted}, found {setting.value!r}")
    is_count = key in _COUNTS and setting.value is not None
    return int(setting.value) if is_count else setting.value


def _unsavable(key: str, setting: Setting, part: Any):
    raise ConfigError(
        f"{setting.origin}: {key}: a value of type {type(part).__name__} cannot be saved with "
        "the run; give numbers, strings, lists or mappings"
    )


def _is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _by_name(key: str, value) -> str | None:
    """What `key` wants, where its name says so and `value` is something else."""
    number = value if _is_number(value) else math.nan  # nan fails every comparison
    optional = value is None and key not in _NEEDED
    wanted = None
    if optional:
        pass
    elif key in _COUNTS and not (number >= _COUNTS[key] and float(number).is_integer()):
        wanted = f"a whole number of at least {_COUNTS[key]}"
    elif key.endswith(("dropout", "dropout_prob")) and not 0 <= number < 1:
        wanted = "a probability in [0, 1)"
    elif key == "warmup_ratio" and not 0 <= number <= 1:
        wanted = "a share in [0, 1]"
    elif key in ("learning_rate", "adam_eps") and not number > 0:
        wanted = "a positive number"
    elif key == "weight_decay" and not number >= 0:
        wanted = "a number of at least 0"
    return wanted


def _by_text(key: str, value) -> str | None:
    """What `key` wants, where its values are names or a form of text."""
    text = value.lower() if isinstance(value, str) else value
    wanted = None
    if key in _CHOICES and text not in (*_CHOICES[key], *([None] if key == "rm_dup_inter" else [])):
        wanted = f"one of {', '.join(_CHOICES[key])}"
    elif key in _TEXTS and not (isinstance(value, str) and value):
        wanted = "a text"
    elif key.endswith("_inter_num_interval") and value is not None:
        whole = isinstance(value, str) and INTERVALS.fullmatch(value)
        wanted = None if whole else 'an interval such as "[5,inf)"'
    elif key == "seed" and value >= 2**32:
        wanted = "below 2**32"
    return wanted


def _by_default(key: str, value, default) -> str | None:
    """What the default's type wants, where `value` is something else; None means "not set"."""
    if isinstance(default, bool):
        return None if isinstance(value, bool) else "true or false"
    if value is None or key in _COUNTS:
        return None
    if isinstance(default, (int, float)) and not _is_number(value):
        return "a number"
    if isinstance(default, dict) and not isinstance(value, dict):
        return "a mapping such as {key: value}"
    if isinstance(default, str) and isinstance(value, (bool, int, float)) and key != "gpu_id":
        return "a text"
    return None
