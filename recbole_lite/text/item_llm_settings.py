"""Settings of the item texts and the Item LLM, read from the configuration."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from recbole_lite.config.keys import affecting
from recbole_lite.text.llm_files import PACKAGED
from recbole_lite.text.sentence_transformers_folder import MODULES, Recipe, read_recipe
from recbole_lite.utils.errors import ConfigError, ModelFilesError


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
    prompt: str | None
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
                "item_llm: not set; give minilm, a local directory or a Hugging Face hub name, or "
                "item_vectors in its place"
            )
        cache_dir = config["item_embedding_cache_dir"]
        return cls(
            **vars(TextFields.from_config(config)),
            llm=llm,
            pooling=config["item_llm_pooling"],
            prompt=config["item_llm_prompt"],
            max_length=config["item_llm_max_length"],
            batch_size=config["item_llm_batch_size"],
            dtype=config["item_llm_dtype"],
            cache_dir=Path(cache_dir).expanduser() if cache_dir else None,
            local_files_only=bool(config["local_files_only"]),
            device=torch.device(config["device"] or "cpu"),
            show_progress=bool(config["show_progress"]),
        )

    def recipe(self, folder: Path) -> Recipe:
        """Recipe of the Item LLM in `folder`; a log line says where it differs from the folder's.

        Raises
        ------
        ModelFilesError
            The folder's own recipe cannot be followed.
        """
        log = logging.getLogger()
        auto = self.pooling == "auto"
        recipe = Recipe(("mean" if auto else self.pooling,))
        if (folder / MODULES).is_file():
            # Without its own normalisation, minilm is the paper's "Sbert" and that of all results/.
            if auto and self.llm != PACKAGED:
                recipe = read_recipe(folder)
                log.info(f"Item LLM {self.llm}: by its {MODULES}: {recipe}")
            elif (own := _described_recipe(folder)) != str(recipe):
                why = "the paper's" if auto else "item_llm_pooling"
                log.info(f"Item LLM {self.llm}: {recipe} ({why}) replaces its own recipe: {own}")
        if self.prompt is not None and recipe.prompt not in ("", self.prompt):
            log.info(f"item_llm_prompt: {self.prompt!r} replaces the prompt {recipe.prompt!r}")
        return recipe if self.prompt is None else replace(recipe, prompt=self.prompt)

    def cache_labels(self, recipe: Recipe | None = None) -> list[str]:
        """Names of the recipe in the cache key; all possible names where it is not known."""
        if recipe is not None:
            names = ["recipe" if recipe.files else recipe.pooling[0]]
        elif self.pooling == "auto":
            names = ["mean"] if self.llm == PACKAGED else ["recipe", "mean"]
        else:
            names = [self.pooling]
        return names if self.prompt is None else [f"{name}, {self.prompt!r}" for name in names]


def _described_recipe(folder: Path) -> str:
    try:
        return str(read_recipe(folder))
    except ModelFilesError as error:
        return str(error)


def check_item_llm_is_read(config, varied: Iterable[str], where: str) -> None:
    """Refuse to vary settings of the Item LLM where ``item_vectors`` replaces it.

    `varied` are the settings that rows of a table or trials differ in; `where` begins the message.

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
