"""What users see of the package: names with their signatures, options of the command line."""

from __future__ import annotations

import argparse
import importlib
import inspect
from unittest import mock

from recorded import places

import recbole_lite
from recbole_lite import LiteConfig

MODELS = ("LiteLLM4Rec", "ItemLM", "P5", "POD", "LightLM", "Pop", "SASRec", "BPR")
# Values that a setting may be given; each is taken or refused.
SAMPLES = (
    None, True, 0, 1, -1, 0.5, 1.5, 2.0, float("nan"), "x", "adam", "info", "first", "[5,inf)", "",
    [], ["x"], {}, {"a": 1},
)  # fmt: skip


# -- names ------------------------------------------------------------------------------------


def signature(function) -> list[list[str]]:
    """Name, kind and default of each parameter; annotations are left out, their types may move."""
    return [
        [p.name, p.kind.name, "" if p.default is p.empty else repr(p.default)]
        for p in inspect.signature(function).parameters.values()
    ]


def public_names() -> dict[str, dict]:
    """Names of ``recbole_lite``; of functions the parameters, of classes those of each method."""
    return {name: _described(getattr(recbole_lite, name)) for name in recbole_lite.__all__}


def _described(thing) -> dict:
    if not inspect.isclass(thing):
        return {"()": signature(thing)} if callable(thing) else {}
    described = {"()": signature(thing)}
    for base in reversed(thing.__mro__):
        if base.__module__.startswith("recbole_lite"):
            described |= {
                name: signature(getattr(thing, name)) if callable(getattr(thing, name)) else []
                for name in vars(base)
                if not name.startswith("_")
            }
    return described


def errors() -> dict[str, list[str]]:
    """Classes of errors and what ``except`` clauses catch them by."""
    module = importlib.import_module(places.ERRORS)
    return {
        name: [base.__name__ for base in thing.__mro__[1:-1]]
        for name, thing in vars(module).items()
        if inspect.isclass(thing) and issubclass(thing, Exception)
    }


# -- command line -----------------------------------------------------------------------------


class _Parser(BaseException):
    """Takes a parser out of the program that has built it."""


def command_line() -> dict[str, dict[str, dict]]:
    """Options of every program and subcommand, without the texts that explain them."""
    found: dict[str, dict[str, dict]] = {}

    def take(self, *_, **__):
        raise _Parser(self)

    for name, place in places.PROGRAMS.items():
        with mock.patch.object(argparse.ArgumentParser, "parse_known_args", take):
            try:
                places.at(place)([])
            except _Parser as taken:
                _walk(name, taken.args[0], found)
    return found


def _walk(name: str, parser: argparse.ArgumentParser, found: dict) -> None:
    options = found.setdefault(name, {})
    for action in parser._actions:
        options[", ".join(action.option_strings) or action.dest] = _option(action)
        if isinstance(action, argparse._SubParsersAction):
            for command, below in action.choices.items():
                _walk(f"{name} {command}", below, found)


def _option(action: argparse.Action) -> dict:
    """What an option takes; attributes that say nothing are left out."""
    described = {
        "action": type(action).__name__,
        "dest": action.dest,
        "nargs": action.nargs,
        "const": action.const,
        "default": action.default,
        "type": action.type.__name__ if action.type in (int, float) else None,
        "choices": None if action.choices is None else sorted(map(str, action.choices)),
        "required": action.required or None,
        "metavar": action.metavar,
    }
    plain = (str, int, float, bool, list, type(None))
    return {
        name: value if isinstance(value, plain) else str(value)
        for name, value in described.items()
        if value is not None
    }


# -- settings ---------------------------------------------------------------------------------


def defaults(model: str) -> dict:
    """Settings of a model on a data set without settings of its own."""
    settings = LiteConfig(model, "tiny", config_dict={"show_progress": False}).settings
    return places.plain(settings)


def default_of_each(defaults: dict[str, dict]) -> dict:
    """Default of every setting; of those that models differ in, the first model's."""
    return {key: value for own in reversed(defaults.values()) for key, value in own.items()}


def known(model: str) -> list[str]:
    """Keys that a run of a model may set."""
    return sorted(places.at(places.KNOWN_KEYS)(recbole_lite.get_model(model)))


def taken(key: str, default) -> str:
    """Which of `SAMPLES` a setting takes, ``1`` or ``0`` each."""
    checked, setting = places.at(places.CHECKED), places.at(places.SETTING)
    refusal = importlib.import_module(places.ERRORS).ConfigError

    def takes(value) -> bool:
        try:
            checked(key, setting(value, "test"), default)
        except refusal:
            return False
        return True

    return "".join(str(int(takes(value))) for value in SAMPLES)
