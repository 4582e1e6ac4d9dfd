"""Settings of the item texts and the Item LLM, read from the configuration."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from recbole_lite.config.keys import affecting
from recbole_lite.utils.errors import ConfigError


@dataclass(frozen=True)
class TextFields:
    """Fields of ``.item`` and template of an item's text."""

    dataset: str
    fields: list[str] | None
    template: str

    @classmethod
    def from_config(cls, config) -> TextFields:
        """Read the keys."""
        fields = config["item_text_fields"]
        names = list(dict.fromkeys([fields] if isinstance(fields, str) else fields or []))
        return cls(str(config["dataset"]), names or None, config["item_text_template"] or "")


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
    def from_config(cls, config) -> TextSettings:
        """Read the keys.

        Raises
        ------
        ConfigError
            There is no Item LLM.
        """
        llm = (config["item_llm"] or "").strip()
        if not llm:
            raise ConfigError(
                "item_llm: not set; give minilm, a local directory or a Hugging Face hub name"
            )
        cache_dir = config["item_embedding_cache_dir"]
        return cls(
            **vars(TextFields.from_config(config)),
            llm=llm,
            pooling=config["item_llm_pooling"],
            max_length=config["item_llm_max_length"],
            batch_size=config["item_llm_batch_size"],
            dtype=config["item_llm_dtype"],
            cache_dir=Path(cache_dir).expanduser() if cache_dir else None,
            local_files_only=bool(config["local_files_only"]),
            device=torch.device(config["device"] or "cpu"),
            show_progress=bool(config["show_progress"]),
        )


def check_item_llm_is_read(config, varied: Iterable[str], where: str) -> None:
    """Refuse to vary settings of the Item LLM where ``item_vectors`` replaces it.

    Parameters
    ----------
    config : LiteConfig
    varied : iterable of str
        Settings that rows of a table or trials differ in.
    where : str
        Begins the message.

    Raises
    ------
    ConfigError
    """
    unread = sorted((affecting("vectors") - {"item_vectors", "item_vector_ids"}) & set(varied))
    if unread and config["item_vectors"]:
        raise ConfigError(
            f"{where}: {unread[0]} has no effect, because item_vectors replaces the Item LLM; set "
            "item_vectors: ~ there, or leave the row or parameter out"
        )
