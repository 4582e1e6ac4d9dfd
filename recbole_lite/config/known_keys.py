"""Settings that a run may have: the table's, RecBole's, and those that the model reads."""

from __future__ import annotations

import dis
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from textwrap import dedent
from types import CellType, CodeType, FunctionType, ModuleType

import recbole
import yaml
from recbole.utils import argument_list

from recbole_lite.config.keys import Key, read_keys, table
from recbole_lite.config.yaml_files import Loader, Setting, parse_yaml, read_yaml
from recbole_lite.utils.errors import ConfigError
from recbole_lite.utils.paths import PROPERTIES
from recbole_lite.utils.suggestions import suggest

RECBOLE_PROPERTIES = Path(recbole.__file__).parent / "properties"
# Code that a model of the user's calls, but that reads no settings of that model.
_INSTALLED = (
    str(Path(__file__).parents[1]),
    *(sysconfig.get_paths()[name] for name in ("stdlib", "purelib", "platlib")),
)


def check_known(settings: Mapping[str, Setting], known: Iterable[str]) -> None:
    """Refuse unknown keys, naming the nearest known ones.

    Raises
    ------
    ConfigError
        One line per unknown key.
    """
    known = sorted(known)
    problems = [
        f"{setting.origin}: unknown key {key!r}{suggest(key, known)}"
        for key, setting in settings.items()
        if key not in known
    ]
    if problems:
        raise ConfigError("\n".join(problems))


def unread(
    settings: Mapping[str, Setting], model_class: type, defaults: Iterable[str]
) -> list[str]:
    """Warnings about settings on the command line that are other models' alone.

    Files of settings serve several models without a warning.

    Parameters
    ----------
    settings : mapping
    model_class : type
    defaults : iterable of str
        Keys of every run and of the model's files.
    """
    read = {*defaults, *_general_keys(), *own_keys(model_class), *_read_by(model_class)}
    warnings = []
    for key, setting in settings.items():
        readers = _readers(key) if setting.origin == "command line" and key not in read else []
        if readers:
            more = f" and {len(readers) - 4} more" * (len(readers) > 4)
            warnings.append(
                f"command line: {key} has no effect on {model_class.__name__}; it is a setting of "
                f"{', '.join(readers[:4])}{more}{suggest(key, sorted(read))}"
            )
    return warnings


def known_keys(model_class: type) -> frozenset[str]:
    """Return the keys that a run may set.

    They are those of the property files, those in a class's attribute ``properties``, and those
    that the code of the class, of its bases and of their helper functions reads from a mapping,
    as in ``config["key"]``. The code is looked at as Python has it, so that a class of a notebook
    needs no source file.
    """
    return _shipped_keys() | own_keys(model_class).keys() | _read_by(model_class)


# -- property files ---------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _shipped_keys() -> frozenset[str]:
    """Every key of the table, of a property file of RecBole or of a data set of this project."""
    models = {key for path in _model_files() for key in _keys_of(path)}
    return frozenset(models | _general_keys() | {key for key in table() if "*" not in key})


@lru_cache(maxsize=1)
def _general_keys() -> frozenset[str]:
    """Keys of property files that are no model's, and of RecBole's lists of arguments."""
    # Not everything under PROPERTIES: rec_llm/ has the names of Hugging Face's configurations.
    files = [*RECBOLE_PROPERTIES.glob("**/*.yaml"), *PROPERTIES.glob("dataset/*")]
    keys = {key for path in files if path.parent.name != "model" for key in _keys_of(path)}
    for name in ("general", "training", "evaluation", "dataset"):
        keys.update(getattr(argument_list, f"{name}_arguments"))
    return frozenset(keys)


def _model_files() -> list[Path]:
    folders = (RECBOLE_PROPERTIES, PROPERTIES)
    return [path for folder in folders for path in sorted(folder.glob("model/*.yaml"))]


@lru_cache(maxsize=512)
def _keys_of(path: Path) -> frozenset[str]:
    if path.name in {"url.yaml", "kg_url.yaml"}:
        return frozenset()
    return frozenset(yaml.load(path.read_text(encoding="utf-8"), Loader=Loader) or {})


def _readers(key: str) -> list[str]:
    """Models whose files have a key, this project's first."""
    files = reversed(_model_files())
    return list(dict.fromkeys(path.stem for path in files if key in _keys_of(path)))


# -- a model's own ----------------------------------------------------------------------------


def default_files(model_class: type) -> Iterator[dict[str, Setting]]:
    """Defaults of a model, of its bases first: of its name's file and of ``properties``."""
    for cls in reversed(model_class.__mro__):
        inherited = cls.__module__.startswith("recbole.model.") and cls is not model_class
        folders = [PROPERTIES, *([RECBOLE_PROPERTIES] if inherited else [])]
        for folder in folders:
            path = folder / "model" / f"{cls.__name__}.yaml"
            if path.is_file():
                yield read_yaml(path)
        text = _properties_of(cls)
        if text:
            yield parse_yaml(text, f"{cls.__name__}.properties")


def own_keys(model_class: type) -> dict[str, Key]:
    """What the attributes ``properties`` of a class and its bases say of settings."""
    found: dict[str, Key] = {}
    for cls in reversed(model_class.__mro__):
        keys = read_keys(_properties_of(cls)).items()
        found |= {name: key for name, key in keys if key.type or name not in found}
    return found


def _properties_of(cls: type) -> str:
    """The attribute: lines as in ``properties/model``, or the path of a file of them."""
    value = vars(cls).get("properties", "")
    if isinstance(value, Path):
        try:
            return value.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise ConfigError(f"{cls.__name__}.properties: cannot be read: {error}") from None
    return dedent(value) if isinstance(value, str) else ""


@lru_cache(maxsize=64)
def _read_by(model_class: type) -> frozenset[str]:
    """Names that a model's code takes from mappings."""
    return frozenset(name for code in _codes(model_class) for name in _subscripts(code))


def _subscripts(code: CodeType) -> Iterator[str]:
    """``key`` of every ``x["key"]``, ``x.get("key")``, ``"key" in config``, ``config.key``."""
    skipped = ("CACHE", "EXTENDED_ARG", "PRECALL", "PUSH_NULL")
    steps = [step for step in dis.get_instructions(code) if step.opname not in skipped]
    for (before, step), (_, after) in pairwise(pairwise(steps)):
        name = step.argval
        if not isinstance(name, str) or not name.isidentifier():
            continue
        if step.opname == "LOAD_CONST":
            taken = after.opname.startswith("BINARY_") or before.argval == "get"
            if taken or after.argval == "config":
                yield name
        elif step.opname == "LOAD_ATTR" and before.argval == "config":
            yield name


def _codes(model_class: type) -> Iterator[CodeType]:
    """Code of a class, of its bases, and of what they name in their modules or in a user's."""
    bases = [cls for cls in model_class.__mro__ if not cls.__module__.startswith("torch.")]
    homes = {id(function.__globals__) for cls in bases for function in _functions(cls)}
    waiting: list[type | FunctionType] = list(bases)
    seen: set[type | FunctionType] = set()
    while waiting:
        thing = waiting.pop()
        if thing in seen:
            continue
        seen.add(thing)
        waiting += thing.__bases__ if isinstance(thing, type) else []
        for function in _functions(thing):
            home = id(function.__globals__) in homes
            if home or not function.__code__.co_filename.startswith(_INSTALLED):
                codes = list(_nested(function.__code__))
                yield from codes
                waiting += _named(function, {name for code in codes for name in code.co_names})


def _functions(thing: type | FunctionType) -> Iterator[FunctionType]:
    """A function, or those of a class, also as methods, properties and under decorators."""
    for value in vars(thing).values() if isinstance(thing, type) else [thing]:
        for inner in ("__func__", "fget", "func", "__wrapped__"):
            if type(value).__module__ in ("builtins", "functools"):
                value = getattr(value, inner, value)
        if isinstance(value, FunctionType):
            yield value


def _nested(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _nested(constant)


def _named(function: FunctionType, names: set[str]) -> Iterator[type | FunctionType]:
    """Classes and functions that a function's names stand for."""
    values = [function.__globals__[name] for name in names & function.__globals__.keys()]
    for cell in function.__closure__ or ():
        values += [cell.cell_contents] if cell != CellType() else []
    for value in list(values):
        if isinstance(value, ModuleType):  # helpers.build(config)
            values += [vars(value)[name] for name in names & vars(value).keys()]
    return (value for value in values if isinstance(value, (type, FunctionType)))
