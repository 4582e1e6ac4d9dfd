"""LiteConfig: RecBole's Config with this project's defaults and without its surprises.

What differs from RecBole, and why, is listed in docs/recbole.md.
"""

from __future__ import annotations

import copy
import inspect
import os
import pickle
import sys
from collections.abc import Iterable, Mapping
from contextlib import contextmanager
from functools import cache
from logging import getLogger
from pathlib import Path
from typing import Any

import torch
import yaml
from recbole.config import Config
from recbole.utils import ModelType
from torch.nn.utils import clip_grad_norm_

from recbole_lite.config.command_line import parse_overrides, parse_scalar
from recbole_lite.config.data_rules import check_rules, settings_by_data
from recbole_lite.config.evaluation_settings import check_protocol
from recbole_lite.config.keys import affecting
from recbole_lite.config.known_keys import (
    check_known,
    default_files,
    known_keys,
    own_keys,
    unread,
)
from recbole_lite.config.registry import (
    can_train_prefixes,
    check_kind,
    get_model,
    loss_is_mean_over_rows,
    reads_any_length,
    reads_candidates,
)
from recbole_lite.config.saved_config import defaults_of_resumed
from recbole_lite.config.stages import read_stages
from recbole_lite.config.validation import parse_text, validate
from recbole_lite.config.yaml_files import Loader, Setting, read_yaml, set_at
from recbole_lite.utils import process_group
from recbole_lite.utils.dataset_names import check_name
from recbole_lite.utils.errors import ConfigError, RecboleLiteError, shorten
from recbole_lite.utils.files import check_folder
from recbole_lite.utils.paths import PROPERTIES
from recbole_lite.utils.suggestions import suggest

# Values from here are strings that RecBole's users expect to be read as numbers, lists ...;
# a YAML file has typed its values already.
STRING_SOURCES = {"config_dict", "command line"}
_OWN_LOSSES = ("SCE", "InfoNCE")  # of this project's models, which check them
# eval_args mode: rank all items; RecBole also takes one per phase.
_FULL = ("full", {"valid": "full", "test": "full"})


class LiteConfig(Config):
    """Settings of a run.

    Precedence, highest first: `overrides` (the command line), `config_dict`,
    `config_file_list` (later files first), the dataset's, the model's and the overall
    properties of this project, RecBole's properties.

    Parameters
    ----------
    model : str or type, optional
        Name of a model (see :func:`recbole_lite.config.registry.get_model`) or its class; may also
        be given by the key ``model`` in any of the sources.
    dataset : str, optional
        Name of a dataset; may also be given by the key ``dataset``.
    config_file_list : list of str, optional
        YAML files; one path stands for a list of one.
    config_dict : dict, optional
        Values; strings are read as on the command line.
    overrides : list of str, optional
        ``--key=value`` strings. Unlike RecBole's Config, this class never looks at
        ``sys.argv`` itself.
    typed : bool
        Whether strings in `config_dict` are meant as strings, as in ``settings`` of another
        configuration.

    Raises
    ------
    ConfigError
        Unknown key, wrong type, unreadable file; with the place and what to do.

    Attributes
    ----------
    settings : dict
        The complete settings before RecBole derives others from them; plain values, so that
        ``LiteConfig(config_dict=config.settings)`` gives the same configuration.
    """

    def __init__(
        self,
        model: str | type | None = None,
        dataset: str | None = None,
        config_file_list: str | Path | Iterable[str | Path] | None = None,
        config_dict: Mapping[str, Any] | None = None,
        overrides: Iterable[str] | None = None,
        typed: bool = False,
    ):
        # Config.__getattr__ looks names up in final_config_dict, so ours go in first.
        self.origins: dict[str, Setting] = {}
        self._overrides = list(overrides or [])
        self._typed = typed  # settings of a run, which an older version may have saved
        with translate_errors("the settings cannot be read", self):
            super().__init__(model, dataset, paths_of(config_file_list), config_dict)

    def overrides_summary(self) -> str:
        """What this run sets itself, and where, for messages; the first settings of many."""
        shown = [f"{key}={setting.value!r}"[:60] for key, setting in self.origins.items()]
        return ", ".join(shown[:12]) + (f" and {len(shown) - 12} more" if len(shown) > 12 else "")

    # -- sources ---------------------------------------------------------------------------

    def compatibility_settings(self) -> None:
        """Leave NumPy alone: RecBole rebinds eight of its names, which NumPy 2 refuses."""

    def _init_parameters_category(self):
        super()._init_parameters_category()
        # RecBole appends to these lists, which are its module's own.
        self.parameters = {name: list(keys) for name, keys in self.parameters.items()}

    def _build_yaml_loader(self):
        return Loader

    def _load_config_files(self, file_list):
        values = {}
        for path in file_list:
            values.update(self._noted(read_yaml(path)))
        return values

    def _load_variable_config_dict(self, config_dict):
        given: dict[str, Setting] = {}
        for key, value in (config_dict or {}).items():
            given |= set_at(key, value, "config_dict", given)
        return self._noted(given)

    def _load_cmd_line(self):
        return self._noted(parse_overrides(self._overrides))

    def _noted(self, settings: dict[str, Setting]) -> dict[str, Any]:
        """Values of one source; who writes a former name is told the present one."""
        for key, setting in settings.items():
            if setting.former and not self._typed:
                now = f"{key}: {setting.value}" if ":" in setting.former else key
                _warn_once(f"{setting.origin}: {setting.former} is now called {now}")
        settings = {**_implied(settings), **settings}
        self.origins.update(settings)
        return {key: setting.value for key, setting in settings.items()}

    def _get_model_and_dataset(self, model, dataset):
        model = model if model is not None else self.external_config_dict.get("model")
        dataset = dataset if dataset is not None else self.external_config_dict.get("dataset")
        for name, value in (("model", model), ("dataset", dataset)):
            if value is None:
                raise ConfigError(f"no {name} given: --{name}=NAME, or the key {name!r} in a file")
        model_class = get_model(model) if isinstance(model, str) else model
        check_kind(model_class)
        return model_class.__name__, model_class, check_name(str(dataset))

    def _load_internal_config_dict(self, model, model_class, dataset):
        super()._load_internal_config_dict(model, model_class, dataset)
        above = (f"dataset/{dataset}.yaml", f"task/{self.external_config_dict.get('task')}.yaml")
        paths = [path for path in (PROPERTIES / name for name in above) if path.is_file()]
        for settings in (
            read_yaml(PROPERTIES / "overall.yaml"),
            *default_files(model_class),
            *map(read_yaml, paths),
        ):
            self.internal_config_dict.update({key: s.value for key, s in settings.items()})
        if resumed := self.external_config_dict.get("resume"):
            self.internal_config_dict.update(defaults_of_resumed(Path(str(resumed))))

    # -- merging ---------------------------------------------------------------------------

    def _get_final_config_dict(self):
        check_known(self.origins, known_keys(self.model_class) | set(self.internal_config_dict))
        for line in unread(self.origins, self.model_class, self.internal_config_dict):
            _warn_once(line)
        own = own_keys(self.model_class)
        for key, setting in self.origins.items():
            if key in {"model", "dataset"}:
                continue
            default = self.internal_config_dict.get(key)
            value = setting.value
            if isinstance(value, str) and setting.origin in STRING_SOURCES and not self._typed:
                value = parse_text(key, value, default, own)
            setting = Setting(value, setting.origin)
            self.external_config_dict[key] = validate(key, setting, default, own)
        final = super()._get_final_config_dict()
        final["model"], final["dataset"] = self.model, self.dataset
        # RecBole would replace the whole mapping when a run sets one of its keys.
        final["eval_args"] = {
            **self.internal_config_dict["eval_args"],
            **(self.external_config_dict.get("eval_args") or {}),
        }
        check_rules(final["data_rules"], self._checked)
        if self._trains_without_negatives(final):
            final["train_neg_sample_args"] = None
        if final.get("unload_col") and "load_col" not in self.external_config_dict:
            final["load_col"] = None  # all columns but those; ours is only a default
        for key in ("field_separator", "seq_separator"):
            if final.get(key) == r"\t":  # as a shell hands it over
                final[key] = "\t"
        if "show_progress" not in self.external_config_dict:
            final["show_progress"] = sys.stderr.isatty()
        derived = affecting("process") | {"MODEL_TYPE"}
        self.settings = {k: copy.deepcopy(v) for k, v in final.items() if k not in derived}
        return final

    def _checked(self, key: str, setting: Setting) -> Any:
        """Value of a setting of a rule, known and checked as one of the run's own."""
        check_known({key: setting}, known_keys(self.model_class) | set(self.internal_config_dict))
        return validate(
            key, setting, self.internal_config_dict.get(key), own_keys(self.model_class)
        )

    def apply_data_rules(self, measures: Mapping[str, float]) -> None:
        """Take the settings of ``data_rules`` for data of this size, where the run sets none.

        Parameters
        ----------
        measures : mapping of str to float
            By the names in :data:`recbole_lite.config.data_rules.MEASURES`.
        """
        for key, setting in settings_by_data(self["data_rules"], measures).items():
            value, own = self._checked(key, setting), self.origins.get(key)
            if own is None:
                self.settings[key] = self[key] = value
                self.origins[key] = setting
                getLogger().info(f"{setting.origin}: {key}={value!r}")
            elif value != self[key]:
                stays = f"{key}={self[key]!r} stays, set in {own.origin}"
                getLogger().info(f"{setting.origin}: {key}={value!r} is not taken: {stays}")

    def _trains_without_negatives(self, final) -> bool:
        """Whether cross entropy over items is the loss, so that RecBole draws no negatives.

        RecBole's default asks for one negative, and its check then refuses the default.
        """
        return (
            "train_neg_sample_args" not in self.external_config_dict
            and final["MODEL_TYPE"] == ModelType.SEQUENTIAL
            and not hasattr(self.model_class, "input_type")
            and final.get("loss_type") in ("CE", *_OWN_LOSSES)
        )

    def _set_default_parameters(self):
        check_protocol(
            self.final_config_dict, self.final_config_dict["MODEL_TYPE"] == ModelType.SEQUENTIAL
        )
        self._check_negatives()
        check_folder(self.final_config_dict["checkpoint_dir"], "checkpoint_dir")
        data_path = Path(self.final_config_dict["data_path"]) / self.dataset
        self._set_repeatable()
        parts = self.final_config_dict["benchmark_filename"] or []
        files = [f"{self.dataset}.{part}.inter" for part in parts] or [f"{self.dataset}.inter"]
        with _as_config_error():
            super()._set_default_parameters()
        # RecBole always takes its own copy of ml-100k; a copy of the user's comes first.
        if all((data_path / file).is_file() for file in files):
            self.final_config_dict["data_path"] = str(data_path)
        self._check_loss()
        self._check_mask()
        self._check_clip()
        self._check_strategy()
        self._check_batches()
        self._check_task()

    def _set_repeatable(self):
        """What RecBole samples by; what is ranked, eval_exclude_history alone decides."""
        final = self.final_config_dict
        # RecBole draws the negatives of sequential models in this way, and knows no other.
        final["repeatable"] = final["MODEL_TYPE"] == ModelType.SEQUENTIAL or (
            final["repeatable"] and not final["eval_exclude_history"]
        )

    def _check_strategy(self):
        final = self.final_config_dict
        if final["train_strategy"] == "prefix" and not can_train_prefixes(self.model_class):
            raise ConfigError(
                f"train_strategy: prefix is for models that score all prefixes at once; "
                f"{self.model} trains with all or sampling"
            )
        trainings = [stage.item_llm_training for stage in read_stages(self)]
        if final.get("item_vectors") and "full" in trainings:
            raise ConfigError(
                "item_llm_training: full trains the Item LLM, which item_vectors replaces; set "
                "frozen or embeddings"
            )

    def _check_batches(self):
        final = self.final_config_dict
        if final["accumulate_steps"] > 1 and self.model == "NCL":
            raise ConfigError("accumulate_steps: RecBole's trainer of NCL takes a step per batch")
        tokens, longest = final["max_tokens_per_batch"], final["MAX_ITEM_LIST_LENGTH"]
        if tokens is None and not final["bucket_by_length"]:
            return
        known = reads_any_length(self.model_class) and loss_is_mean_over_rows(self.model_class)
        if not (known and final["cut_padding"] and final["shuffle"]):
            key = "bucket_by_length" if tokens is None else "max_tokens_per_batch"
            raise ConfigError(
                f"{key} needs cut_padding: True, shuffle: True and a model that "
                f"is trained on batches of any length; {self.model} "
                + ("is" if known else "is not: set train_batch_size")
            )
        if tokens is not None and final["history_drop_ratio"]:
            raise ConfigError(
                "max_tokens_per_batch weights batches by their targets, whose number "
                "history_drop_ratio changes; set train_batch_size"
            )
        if tokens is not None and tokens < longest:
            raise ConfigError(
                f"max_tokens_per_batch: {tokens} is less than one history of "
                f"MAX_ITEM_LIST_LENGTH: {longest}"
            )

    def _check_task(self):
        final = self.final_config_dict
        task, reader = final["task"], reads_candidates(self.model_class)
        if task == "sequential":
            return
        if final["eval_args"]["mode"] not in _FULL:
            raise ConfigError(
                f"task: topn draws its own candidates; leave eval_args mode at full, found "
                f"{final['eval_args']['mode']!r}"
            )
        if reader and final["train_strategy"] == "prefix":
            raise ConfigError(
                "train_strategy: prefix trains on many targets per pass, task: topn on one "
                "among its candidates; set train_strategy to all or sampling"
            )
        if reader and final.get("loss_type") in _OWN_LOSSES:
            raise ConfigError("task: topn has a loss over the candidates alone; set loss_type: CE")

    def _check_mask(self):
        """RecBole's mask transform (BERT4Rec) fails in its depths where it has room for no item."""
        final = self.final_config_dict
        if self.model == "BERT4Rec":  # which masks whole windows itself; saved settings have either
            final["transform"] = None if final["train_strategy"] == "prefix" else "mask_itemseq"
        elif final.get("transform") != "mask_itemseq":
            return
        ratio, length = final["mask_ratio"], final["MAX_ITEM_LIST_LENGTH"]
        if not isinstance(ratio, (int, float)) or not 0 < ratio <= 1:
            raise ConfigError(f"mask_ratio must be above 0 and at most 1, found {ratio!r}")
        if final["transform"] and ratio * length < 1:
            raise ConfigError(
                f"mask_ratio {ratio} of MAX_ITEM_LIST_LENGTH {length} is less than one item"
            )

    def _check_clip(self):
        """RecBole hands the mapping to torch as it is, at the first step."""
        value = self.final_config_dict["clip_grad_norm"]
        names = set(inspect.signature(clip_grad_norm_).parameters) - {"parameters"}
        if value is None:
            return
        norm = value.get("max_norm") if isinstance(value, dict) else None
        right = isinstance(norm, (int, float)) and norm > 0 and set(value) <= names
        if not right or not isinstance(value.get("norm_type", 2.0), (int, float)):
            raise ConfigError(f"clip_grad_norm must be like {{'max_norm': 1.0}}, found {value!r}")

    def _check_negatives(self):
        value = self.final_config_dict["train_neg_sample_args"] or {}
        known = ("distribution", "sample_num", "alpha", "dynamic", "candidate_num")
        for key in value:
            if key not in known:
                raise ConfigError(
                    f"train_neg_sample_args: unknown key {key!r}{suggest(str(key), known)}; it has "
                    + ", ".join(known)
                )
        number = value.get("sample_num", 1)
        if number != "none" and not (type(number) is int and number >= 1):
            raise ConfigError(
                "train_neg_sample_args: sample_num must be a whole number of at least 1, found "
                f"{number!r}"
            )

    def _check_loss(self):
        final = self.final_config_dict
        loss = final.get("loss_type")
        losses = ("CE", "BPR", *_OWN_LOSSES)
        if not hasattr(self.model_class, "input_type") and loss not in losses:
            raise ConfigError(f"loss_type must be CE or BPR, found {loss!r}")

    def _set_train_neg_sample_args(self):
        with _as_config_error():
            super()._set_train_neg_sample_args()

    def _set_eval_neg_sample_args(self, phase):
        with _as_config_error():
            super()._set_eval_neg_sample_args(phase)

    def _init_device(self):
        if "local_rank" in self.final_config_dict:  # one of several processes
            process_group.init_process_group(self.final_config_dict)
            return
        # RecBole overwrites CUDA_VISIBLE_DEVICES with its default "0", which takes from a
        # scheduler's child the device that it was given.
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        super()._init_device()
        if visible is not None and "gpu_id" not in self.external_config_dict:
            os.environ["CUDA_VISIBLE_DEVICES"] = visible
        elif visible is None and not torch.cuda.is_available():
            os.environ.pop("CUDA_VISIBLE_DEVICES", None)
        if not self.final_config_dict["use_gpu"]:
            self.final_config_dict["device"] = torch.device("cpu")


def paths_of(files: str | Path | Iterable[str | Path] | None) -> list[str | Path]:
    """List of configuration files; a bare path is one file, not the list of its letters."""
    return [files] if isinstance(files, (str, Path)) else list(files or [])


def _implied(settings: Mapping[str, Setting]) -> dict[str, Setting]:
    """Settings that ``repeatable`` stands for, unless the same source sets them."""
    if "repeatable" not in settings:
        return {}
    value, origin = settings["repeatable"].value, settings["repeatable"].origin
    value = parse_scalar(value, True) if isinstance(value, str) else value
    if not isinstance(value, bool):
        return {}  # refused later
    mask = settings.get("eval_exclude_history")
    if value and origin == "command line" and mask and parse_scalar(mask.value, True) is True:
        raise ConfigError(
            "command line: --repeatable=True ranks the items of the history, "
            "--eval_exclude_history=True excludes them; leave one of the two out"
        )
    implied = {"eval_exclude_history": Setting(not value, origin)}
    # A loss over unseen items alone would not train a model to rank the others.
    return implied | ({"loss_exclude_history": Setting(False, origin)} if value else {})


@cache
def _warn_once(text: str) -> None:
    getLogger().warning(text)


# What Python, pandas and torch raise over a value that they cannot use.
OVER_VALUES = (
    ArithmeticError, AssertionError, AttributeError, LookupError, NotImplementedError, RuntimeError,
    TypeError, ValueError, pickle.PickleError, yaml.YAMLError,
)  # fmt: skip


@contextmanager
def translate_errors(what: str, config: LiteConfig):
    """Turn an error from the depths of other libraries into one line.

    A value can be wrong in more ways than are checked one by one. What is known at this point is
    what failed, and which settings this run has made: the cause is among them. ``--traceback``
    shows the rest.

    Parameters
    ----------
    what : str
        Begins the message.
    config : LiteConfig

    Raises
    ------
    ConfigError
    """
    try:
        yield
    except RecboleLiteError:
        raise
    except OVER_VALUES as error:
        text = " ".join(str(error).split())
        text = shorten(text, 200)
        given = config.overrides_summary()
        raise ConfigError(
            f"{what} ({type(error).__name__}: {text}). "
            + (f"This run sets {given}" if given else "All settings are defaults")
        ) from error


@contextmanager
def _as_config_error():
    """Turn the errors of RecBole's own checks into ours: they concern what the user set."""
    try:
        yield
    except (ValueError, TypeError, KeyError, NotImplementedError, RuntimeError) as error:
        raise ConfigError(str(error)) from error
