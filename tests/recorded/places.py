"""Where the code keeps today what tests/recorded/*.json hold; a move of code changes this file."""

from __future__ import annotations

import importlib
import json
from functools import partial, reduce

from recbole_lite.config.keys import affecting, table
from recbole_lite.config.validation import fit

# -- the table of settings --------------------------------------------------------------------


def of_type(*types: str, file: str | None = None) -> list[str]:
    """Settings of a type, or of one that begins so."""
    keys = table(*([file] if file else [])).values()
    return [
        k.name for k in keys if k.type in types or (types == ("int",) and " int " in f" {k.type} ")
    ]


def smallest(file: str | None = None) -> dict[str, int]:
    """Smallest value of each count, as the validation knows it."""
    keys = table(*([file] if file else []))
    return {
        name: min(n for n in (-1, 0, 1) if fit(keys[name].type, n)[1] == "")
        for name in of_type("int", file=file)
    }


def choices(*names: str, file: str | None = None) -> dict[str, tuple[str, ...]]:
    """Words that settings can have as values."""
    keys = table(*([file] if file else []))
    types = {name: keys[name].type.removeprefix("list of ").removesuffix(" or ~") for name in names}
    return {name: tuple(text.lower().split(" | ")) for name, text in types.items()}


# -- change these when code moves -------------------------------------------------------------

# Old name of a setting -> new name; the recorded sets and settings are compared by new names.
RENAMED_KEYS = {
    "end_epoch": "last_epoch",
    "item_vector_std": "item_vector_scale",
    "matrix_products": "matmul_backend",
}
# (key, old value) -> new value, of settings whose values have other names now.
RENAMED_VALUES = {
    ("item_adapter", "principal"): "pca",
    ("item_init", "text+id"): "text_plus_id",
}

# Sets of keys, themselves or "module:attribute" (a function is called). Compared over the
# keys of the time of the recording; keys that are newer may be members or not.
KEYS = {
    # may differ between a run and its continuation
    "free_on_resume": partial(affecting, "session", "length", "machine", "output", "downloads"),
    # likewise, where the run has saved weights: what it began with
    "began_with": partial(affecting, "start"),
    # may differ between a sweep and its continuation, of properties/tune.yaml
    "free_on_resume_of_a_sweep": partial(affecting, "session", files=["tune.yaml"]),
    # likewise, of the settings of its trials: where files are
    "places_of_a_sweep": partial(affecting, "places"),
    # cannot be in the space of a sweep
    "not_parameters": partial(affecting, "run", "session", "output"),
    # a sweep's own settings
    "settings_of_a_sweep": "recbole_lite.experiments.tune.tune_settings:NAMES",
    # decide the item vectors that a sweep makes before its trials
    "item_vectors_of_a_sweep": partial(affecting, "vectors"),
    # not set by a row of an ablation
    "not_a_rows": affecting("run") | {"seed"},
    # change no figure: two rows of an ablation that differ in them alone are the same
    "presentation": partial(affecting, "output", "downloads"),
    # left out of packed folders
    "local": partial(affecting, "machine", "output", "start", "session"),
    # left out of a run's config.yaml unless they were set
    "of_the_machine": partial(affecting, "detected"),
    # left out of a run's settings
    "not_settings": affecting("process") | {"MODEL_TYPE"},
    # which process of how many this is
    "processes": affecting("process") - {"config_files"},
    # decide the internal ids of items
    "decide_ids": partial(affecting, "ids"),
    # do not make another result of a model trained within a time: where files are
    "places_of_budget": partial(affecting, "places"),
    # likewise: decided by the plan
    "planned": "recbole_lite.experiments.reproduce.time_budget:_PLANNED",
    # must agree for figures to be compared
    "protocol": "recbole_lite.report.run_folder:PROTOCOL",
    # are paths that must not be empty on the command line
    "paths": of_type("path", "path or ~", "path or list or ~"),
    # are non-empty texts
    "texts": of_type("path", "text"),
    # counts that may be None
    "may_be_none": [key for key in of_type("int") if fit(table()[key].type, None)[1] == ""],
    # must have a value
    "needed": [
        key
        for key in (*of_type("int"), "learning_rate", "weight_decay", "warmup_ratio")
        if fit(table()[key].type, None)[1]
    ],
    # settings of one stage of a training
    "stage": "recbole_lite.config.stages:Stage.__dataclass_fields__",
    # columns of .item that are checked
    "mappings": "recbole_lite.data.column_settings:_MAPPINGS",
}
# Keys with a value each, compared likewise.
VALUES = {
    # smallest value of counts
    "counts": smallest(),
    "counts_of_a_sweep": smallest("tune.yaml"),
    # what a trained LiteLLM4Rec is built with, instead of what it was trained with
    "trained": "recbole_lite.config.keys:trained_values",
    # values of train_stage, in order, by model
    "train_stages": "recbole_lite.trainer.initial_weights:TRAIN_STAGES",
}
# Names that settings can have as values; there may be more than were recorded.
CHOICES = {
    "settings": choices("learner", "state", "rm_dup_inter"),
    "settings_of_a_sweep": choices("searcher", "scheduler", file="tune.yaml"),
    "matrix_products": choices("matmul_backend")["matmul_backend"],
    "item_llm_training": choices("item_llm_training")["item_llm_training"],
    "frozen_parts": choices("frozen_parts")["frozen_parts"],
    "user_pooling": choices("user_pooling")["user_pooling"],
    "item_llm_pooling": choices("item_llm_pooling")["item_llm_pooling"],
    "item_llm_dtype": choices("item_llm_dtype")["item_llm_dtype"],
    "eval_args_split": "recbole_lite.config.evaluation_settings:SPLITS",
    "runtime": "recbole_lite.inference.runtimes:RUNTIMES",
    "no_history": "recbole_lite.inference.history_inputs:NO_HISTORY",
    "recommending": "recbole_lite.inference.model_folder:RECOMMENDER_MODELS",
    "exportable": "recbole_lite.inference.graph_file:EXPORTABLE",
    "kinds_of_parameters": "recbole_lite.experiments.tune.space:KINDS",
    "models": "recbole_lite.config.registry:MODELS",
    "overridden": "recbole_lite.config.registry:OVERRIDDEN",
    "refused": "recbole_lite.config.registry:REFUSED",
}
# ``known_keys(model class)``: keys that a run of the model may set.
KNOWN_KEYS = "recbole_lite.config.known_keys:known_keys"
# ``checked(key, Setting(value, origin), default)`` raises where the value cannot be meant.
CHECKED = "recbole_lite.config.validation:validate"
SETTING = "recbole_lite.config.yaml_files:Setting"
ERRORS = "recbole_lite.utils.errors"
# Functions that name the file of item vectors in the cache.
CACHE_INPUTS = "recbole_lite.text.vector_cache:inputs_digest"
CACHE_KEY = "recbole_lite.text.vector_cache:cache_key"
CACHE_PATH = "recbole_lite.text.vector_cache:cache_path"
# Programs: functions that take the words of a command line.
PROGRAMS = {
    "recbole-lite": "recbole_lite.cli.main:main",
    "run_recbole_lite.py": "recbole_lite.cli.main:run_main",
}

# -- reading them -----------------------------------------------------------------------------


def at(place):
    """What stands at ``module:attribute`` (or ``module:attribute.attribute``), or itself."""
    if not isinstance(place, str):
        return place
    module, _, path = place.partition(":")
    return reduce(getattr, path.split("."), importlib.import_module(module))


def keys_at(place) -> list[str]:
    """Keys of a set or mapping at a place, sorted."""
    value = at(place)
    return sorted(value() if callable(value) else value)


def values_at(place) -> dict:
    """A mapping at a place, as JSON has it."""
    value = at(place)
    return plain(value() if callable(value) else value)


def choices_at(place) -> dict[str, list[str]]:
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
