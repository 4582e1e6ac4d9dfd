"""Architectures of language models: read from their files, or shipped; changed by keys."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PretrainedConfig

from recbole_lite.config.yaml_files import read_yaml
from recbole_lite.text.llm_files import resolve_llm
from recbole_lite.text.llm_loading import load_config
from recbole_lite.utils.errors import ConfigError, one_line
from recbole_lite.utils.paths import PROPERTIES

# Names that Hugging Face's configurations use for rates inside the encoder.
DROPOUT_KEYS = (
    "dropout_rate",
    "dropout",
    "attention_dropout",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "embd_pdrop",
    "resid_pdrop",
    "attn_pdrop",
)


def check_init(init: str, overrides: Mapping[str, Any] | None, key: str) -> None:
    """Check ``<key>_init``, and that a trained model's architecture is not changed.

    Raises
    ------
    ConfigError
        One of them is wrong.
    """
    if init not in ("pretrained", "scratch"):
        raise ConfigError(f"{key}_init must be pretrained or scratch, found {init!r}")
    if init == "pretrained" and overrides:
        raise ConfigError(f"{key}_config changes the architecture: set {key}_init=scratch")


def read_architecture(
    name: str | Mapping[str, Any], init: str, key: str, local_files_only: bool = False
) -> tuple[Path | None, PretrainedConfig]:
    """Read an architecture: of a model's files or, for random weights, of a shipped one.

    Parameters
    ----------
    name : str or mapping
        Hub name, local folder, ``minilm``, or (with ``init="scratch"``) a file of
        ``properties/rec_llm`` or what such a file holds.
    init : {"pretrained", "scratch"}
    key : str
        Setting that holds the name, for the messages.
    local_files_only : bool
        Never ask the hub.

    Returns
    -------
    (Path or None, PretrainedConfig)
        The model's folder, None where the architecture is shipped.

    Raises
    ------
    ModelFilesError
        The files cannot be had or read.
    """
    if isinstance(name, Mapping):
        values = dict(name)
        return None, AutoConfig.for_model(values.pop("model_type"), **values)
    shipped = PROPERTIES / "rec_llm" / f"{name}.yaml"
    if init == "scratch" and shipped.is_file():
        values = {key: setting.value for key, setting in read_yaml(shipped).items()}
        return None, AutoConfig.for_model(values.pop("model_type"), **values)
    folder = resolve_llm(name, local_files_only=local_files_only, key=key)
    return folder, load_config(folder, key)


def change_architecture(
    config: PretrainedConfig, overrides: Mapping[str, Any], dropout: float | None, key: str
) -> None:
    """Change an architecture in place; `key` is the setting that holds the changes.

    Raises
    ------
    ConfigError
        The architecture has no such name.
    """
    for name, value in overrides.items():
        if not hasattr(config, name):
            raise ConfigError(
                f"{key}: a {config.model_type} configuration has no {name!r}; it has "
                + ", ".join(sorted(name for name in config.to_diff_dict() if name[0] != "_"))
            )
        try:
            setattr(config, name, value)
        except Exception as error:  # validators of transformers have classes of their own
            raise ConfigError(f"{key}: {name}: {value!r} is refused ({one_line(error)})") from error
    if dropout is not None:
        for name in DROPOUT_KEYS:
            if hasattr(config, name):
                setattr(config, name, dropout)
