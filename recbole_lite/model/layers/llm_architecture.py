"""Architectures of language models: read from their files or shipped, changed by settings."""

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


def read_architecture(
    name: str | Mapping[str, Any],
    init: str,
    changes: Mapping[str, Any] | None,
    dropout: float | None,
    key: str,
    local_files_only: bool = False,
) -> tuple[Path | None, PretrainedConfig]:
    """Architecture of a language model, with the changes of the settings.

    Parameters
    ----------
    name : str or mapping
        Hub name, local folder, ``minilm``, or (with ``init="scratch"``) a file of
        ``properties/rec_llm`` or the content of such a file.
    init : {"pretrained", "scratch"}
    changes : mapping, optional
        With ``scratch``: changes to the architecture, by the names of its configuration.
    dropout : float, optional
        Rate inside the model; None keeps its configuration's.
    key : str
        Setting that holds the name; ``<key>_init`` and ``<key>_config`` hold `init` and `changes`.
    local_files_only : bool
        Never ask the hub.

    Returns
    -------
    (Path or None, PretrainedConfig)
        Folder of the trained weights; None with ``init="scratch"``.

    Raises
    ------
    ConfigError
        A change is wrong, or the architecture of trained weights is to be changed.
    ModelFilesError
        The files cannot be found or read.
    """
    if init == "pretrained" and (changes or isinstance(name, Mapping)):
        how = f"{key}_config changes" if changes else f"{key} describes"
        raise ConfigError(f"{how} the architecture: set {key}_init=scratch")
    shipped, folder = PROPERTIES / "rec_llm" / f"{name}.yaml", None
    if isinstance(name, Mapping):
        config = AutoConfig.for_model(**name)
    elif init == "scratch" and shipped.is_file():
        values = {field: setting.value for field, setting in read_yaml(shipped).items()}
        config = AutoConfig.for_model(**values)
    else:
        folder = resolve_llm(name, local_files_only=local_files_only, key=key)
        config = load_config(folder, key)
    change_architecture(config, changes or {}, dropout, f"{key}_config")
    return folder if init == "pretrained" else None, config


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
