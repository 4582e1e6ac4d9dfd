"""Settings of the item texts and the Item LLM, read from the configuration and checked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from recbole_lite.config.keys import table
from recbole_lite.config.validation import fit
from recbole_lite.utils.errors import ConfigError


class ConfigLike(Protocol):
    """Mapping from keys to values that returns None for a missing key."""

    def __getitem__(self, key: str) -> Any: ...


@dataclass(frozen=True)
class TextFields:
    """Fields of ``.item`` and template of an item's text."""

    dataset: str
    fields: list[str] | None
    template: str

    @classmethod
    def from_config(cls, config: ConfigLike) -> TextFields:
        """Read and check the keys.

        Raises
        ------
        ConfigError
            A value is no list of names, or no text.
        """
        return cls(
            str(config["dataset"]), _fields(config), _checked(config, "item_text_template") or ""
        )


@dataclass(frozen=True)
class TextSettings(TextFields):
    """Values of the ``item_*`` keys; their defaults are in properties/model/LiteLLM4Rec.yaml."""

    llm: str
    pooling: str
    max_length: int | None
    batch_size: int
    dtype: str
    cache_dir: Path | None
    local_files_only: bool
    device: torch.device
    show_progress: bool

    @classmethod
    def from_config(cls, config: ConfigLike) -> TextSettings:
        """Read and check the keys.

        Raises
        ------
        ConfigError
            A value is missing or not among the allowed ones.
        """
        cache_dir = config["item_embedding_cache_dir"]
        return cls(
            **vars(TextFields.from_config(config)),
            llm=_name(config),
            pooling=_checked(config, "item_llm_pooling"),
            max_length=_checked(config, "item_llm_max_length"),
            batch_size=_checked(config, "item_llm_batch_size"),
            dtype=_checked(config, "item_llm_dtype"),
            cache_dir=Path(cache_dir).expanduser() if cache_dir else None,
            local_files_only=bool(config["local_files_only"]),
            device=torch.device(config["device"] or "cpu"),
            show_progress=bool(config["show_progress"]),
        )


def _checked(config: ConfigLike, key: str) -> Any:
    """A value that the table of settings allows; not every configuration is a LiteConfig."""
    value, wanted = fit(table()[key].type, config[key])
    if wanted:
        raise ConfigError(f"{key} must be {wanted}, found {value!r}")
    return value


def _fields(config: ConfigLike) -> list[str] | None:
    value = _checked(config, "item_text_fields")
    return list(dict.fromkeys([value] if isinstance(value, str) else value or [])) or None


def _name(config: ConfigLike) -> str:
    value = _checked(config, "item_llm") or ""
    if not value.strip():
        raise ConfigError(
            "item_llm: not set; give minilm, a local directory or a Hugging Face hub name"
        )
    return value.strip()
