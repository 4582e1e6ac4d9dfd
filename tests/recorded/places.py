"""Where the code keeps today what tests/recorded/*.json hold; a move of code changes this file."""

from __future__ import annotations

import importlib
import json
from functools import reduce

# -- change these when code moves -------------------------------------------------------------

# Old name of a setting -> new name; the recorded sets and settings are compared by new names.
RENAMED_KEYS: dict[str, str] = {}
# (key, old value) -> new value, of settings whose values have other names now.
RENAMED_VALUES: dict[tuple[str, str], str] = {}

# Sets of keys, "module:attribute" (an attribute that is a function is called). Compared over the
# keys of the time of the recording; keys that are newer may be members or not.
KEYS = {
    # may differ between a run and its continuation
    "free_on_resume": "recbole_lite.resuming:FREE_ON_RESUME",
    # likewise, where the run has saved weights: what it began with
    "began_with": "recbole_lite.resuming:BEGAN_WITH",
    # may differ between a sweep and its continuation, of properties/tune.yaml
    "free_on_resume_of_a_sweep": "recbole_lite.tune.settings:FREE_ON_RESUME",
    # likewise, of the settings of its trials: where files are
    "places_of_a_sweep": "recbole_lite.tune.made:PLACES",
    # cannot be in the space of a sweep
    "not_parameters": "recbole_lite.tune.made:NOT_PARAMETERS",
    # a sweep's own settings
    "settings_of_a_sweep": "recbole_lite.tune.settings:NAMES",
    # decide the item vectors that a sweep makes before its trials
    "item_vectors_of_a_sweep": "recbole_lite.tune.items:KEYS",
    # not set by a row of an ablation
    "not_a_rows": "recbole_lite.ablate:NOT_A_ROWS",
    # change no figure: two rows of an ablation that differ in them alone are the same
    "presentation": "recbole_lite.ablate:PRESENTATION",
    # left out of packed folders
    "local": "recbole_lite.inference.folder:_LOCAL",
    # left out of a run's config.yaml unless they were set
    "of_the_machine": "recbole_lite.checkpoint:OF_THE_MACHINE",
    # left out of a run's settings
    "not_settings": "recbole_lite.config:NOT_SETTINGS",
    # which process of how many this is
    "processes": "recbole_lite.distributed:KEYS",
    # decide the internal ids of items
    "decide_ids": "recbole_lite.fine_tuning:_DECIDE_IDS",
    # do not make another result of a model trained within a time: where files are
    "places_of_budget": "recbole_lite.reproduce.budget:_PLACES",
    # likewise: decided by the plan
    "planned": "recbole_lite.reproduce.budget:_PLANNED",
    # must agree for figures to be compared
    "protocol": "recbole_lite.report.run_folder:PROTOCOL",
    # are paths that must not be empty on the command line
    "paths": "recbole_lite.settings:_PATHS",
    # are non-empty texts
    "texts": "recbole_lite.settings:_TEXTS",
    # counts that may be None
    "may_be_none": "recbole_lite.settings:_MAY_BE_NONE",
    # must have a value
    "needed": "recbole_lite.settings:_NEEDED",
    # settings of one stage of a training
    "stage": "recbole_lite.stages:Stage.__dataclass_fields__",
    # columns of .item that are checked
    "mappings": "recbole_lite.data.column_settings:_MAPPINGS",
}
# Keys with a value each, compared likewise.
VALUES = {
    # smallest value of counts
    "counts": "recbole_lite.settings:_COUNTS",
    "counts_of_a_sweep": "recbole_lite.tune.settings:_COUNTS",
    # what a trained LiteLLM4Rec is built with, instead of what it was trained with
    "trained": "recbole_lite.inference.rebuild:_TRAINED",
    # values of train_stage, in order, by model
    "train_stages": "recbole_lite.fine_tuning:TRAIN_STAGES",
}
# Names that settings can have as values; there may be more than were recorded.
CHOICES = {
    "settings": "recbole_lite.settings:_CHOICES",
    "settings_of_a_sweep": "recbole_lite.tune.settings:_CHOICES",
    "matrix_products": "recbole_lite.products:KINDS",
    "item_llm_training": "recbole_lite.stages:ITEM_LLM_TRAINING",
    "frozen_parts": "recbole_lite.stages:PARTS",
    "user_pooling": "recbole_lite.model.pooling:POOLINGS",
    "item_llm_pooling": "recbole_lite.text.settings:POOLINGS",
    "item_llm_dtype": "recbole_lite.text.settings:DTYPES",
    "eval_args_split": "recbole_lite.protocol:SPLITS",
    "runtime": "recbole_lite.inference.recommender:RUNTIMES",
    "no_history": "recbole_lite.inference.recommender:NO_HISTORY",
    "recommending": "recbole_lite.inference.folder:SUPPORTED",
    "exportable": "recbole_lite.inference.graph_file:EXPORTABLE",
    "kinds_of_parameters": "recbole_lite.tune.space:KINDS",
    "models": "recbole_lite.registry:MODELS",
    "overridden": "recbole_lite.registry:OVERRIDDEN",
    "refused": "recbole_lite.registry:REFUSED",
}
# ``known_keys(model class)``: keys that a run of the model may set.
KNOWN_KEYS = "recbole_lite.settings:known_keys"
# ``checked(key, Setting(value, origin), default)`` raises where the value cannot be meant.
CHECKED = "recbole_lite.settings:checked"
SETTING = "recbole_lite.settings:Setting"
ERRORS = "recbole_lite.errors"
# Programs: functions that take the words of a command line.
PROGRAMS = {
    "recbole-lite": "recbole_lite.cli:main",
    "run_recbole_lite.py": "recbole_lite.cli:run_main",
}

# -- reading them -----------------------------------------------------------------------------


def at(place: str):
    """What stands at ``module:attribute`` (or ``module:attribute.attribute``)."""
    module, _, path = place.partition(":")
    return reduce(getattr, path.split("."), importlib.import_module(module))


def keys_at(place: str) -> list[str]:
    """Keys of a set or mapping at a place, sorted."""
    value = at(place)
    return sorted(value() if callable(value) else value)


def values_at(place: str) -> dict:
    """A mapping at a place, as JSON has it."""
    value = at(place)
    return plain(value() if callable(value) else value)


def choices_at(place: str) -> dict[str, list[str]]:
    """Choices at a place, by key; of a place that has them for one setting, under ``""``."""
    value = at(place)
    value = value() if callable(value) else value
    if isinstance(value, dict) and all(isinstance(entry, tuple) for entry in value.values()):
        return {key: sorted(entry) for key, entry in value.items()}
    return {"": sorted(value)}


def plain(value):
    """A value as it is after writing and reading JSON; sets are sorted lists."""
    return json.loads(json.dumps(value, default=sorted))


def key_now(key: str) -> str:
    """Name of a recorded key today."""
    return RENAMED_KEYS.get(key, key)


def value_now(key: str, value):
    """Value of a recorded setting today."""
    return RENAMED_VALUES.get((key, value), value) if isinstance(value, str) else value


def settings_now(settings: dict) -> dict:
    """Recorded settings by today's names."""
    return {key_now(key): value_now(key, value) for key, value in settings.items()}
