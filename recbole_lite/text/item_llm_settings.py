"""Settings of the item texts and the Item LLM, read from the configuration and checked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from recbole_lite.utils.errors import ConfigError

POOLINGS = ("mean", "cls", "pooler")
DTYPES = ("auto", "float32", "bfloat16", "float16")


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
        return cls(str(config["dataset"]), _fields(config), _text(config, "item_text_template"))


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
            pooling=_choice(config, "item_llm_pooling", POOLINGS),
            max_length=_count(config, "item_llm_max_length", optional=True),
            batch_size=_count(config, "item_llm_batch_size"),
            dtype=_choice(config, "item_llm_dtype", DTYPES),
            cache_dir=Path(cache_dir).expanduser() if cache_dir else None,
            local_files_only=bool(config["local_files_only"]),
            device=torch.device(config["device"] or "cpu"),
            show_progress=bool(config["show_progress"]),
        )


def _fields(config: ConfigLike) -> list[str] | None:
    value = config["item_text_fields"]
    if value is None:
        return None
    fields = [value] if isinstance(value, str) else value
    if not isinstance(fields, (list, tuple)) or not all(isinstance(f, str) for f in fields):
        raise ConfigError(f"item_text_fields: {value!r}; give a list of field names, or null")
    return list(dict.fromkeys(fields)) or None


def _text(config: ConfigLike, key: str) -> str:
    value = config[key]
    if value is not None and not isinstance(value, str):
        raise ConfigError(f"{key}: {value!r}; give a text (in YAML, between quotes)")
    return value or ""


def _name(config: ConfigLike) -> str:
    value = _text(config, "item_llm")
    if not value.strip():
        raise ConfigError(
            "item_llm: not set; give minilm, a local directory or a Hugging Face hub name"
        )
    return value.strip()


def _choice(config: ConfigLike, key: str, allowed: tuple[str, ...]) -> str:
    value = config[key]
    if value not in allowed:
        raise ConfigError(f"{key}: {value!r}; give one of {', '.join(allowed)}")
    return value


def _count(config: ConfigLike, key: str, optional: bool = False) -> int | None:
    value = config[key]
    if value is None and optional:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"{key}: {value!r}; give a whole number of at least 1")
    return value
