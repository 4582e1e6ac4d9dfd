"""Recipe of a sentence-transformers folder: how its model encodes texts.

``modules.json`` lists the modules of the model: a Transformer, a Pooling, and layers on the pooled
vector. Each has a folder with a ``config.json`` and, for some, weights. Only modules whose
computation is known here are accepted; no class that a file names is ever imported.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from recbole_lite.utils.errors import ModelFilesError, one_line
from recbole_lite.utils.files import write_json

MODULES = "modules.json"
PROMPTS = "config_sentence_transformers.json"
TRANSFORMER_CONFIGS = "sentence_*_config.json"  # sentence_bert_config.json, in most folders
WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # of a layer
LAYERS = ("Dense", "Normalize", "LayerNorm", "Dropout")
# Order of the parts of a vector where an older config.json switches several poolings on.
_SWITCHES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
POOLINGS = tuple(_SWITCHES.values())
_REMEDY = "set item_llm_pooling to use the language model without this recipe"
# Values of sentence_bert_config.json under which the model gives outputs per token, as here.
_PLAIN = {
    "transformer_task": "feature-extraction",
    "module_output_name": "token_embeddings",
    "tokenizer_name_or_path": None,
}
_ARGUMENTS = ("model", "tokenizer", "processor", "config", "processing")


@dataclass(frozen=True)
class Layer:
    """A layer on the pooled vector: its class in `LAYERS`, its folder and its config."""

    kind: str
    folder: Path
    config: dict[str, Any]


@dataclass(frozen=True)
class Recipe:
    """Settings by which a language model encodes texts."""

    pooling: tuple[str, ...] = ("mean",)  # of `POOLINGS`, or pooler; several are concatenated
    layers: tuple[Layer, ...] = ()  # after the pooling
    prompt: str = ""  # put in front of each text
    other_prompts: tuple[str, ...] = ()  # names of prompts of which none is the default: unused
    include_prompt: bool = True  # whether the tokens of the prompt count in the pooling
    max_length: int | None = None  # tokens per text; None: what model and tokenizer state
    lower_case: bool = False  # whether texts are lower-cased before they are tokenized
    size: int | None = None  # of the language model's outputs, where the recipe states it
    files: tuple[Path, ...] = ()  # that it was read from; none if the folder has no recipe

    def __str__(self) -> str:
        without = "" if self.include_prompt else ", not pooled"
        parts = [f"pooling {'+'.join(self.pooling)}", *(layer.kind for layer in self.layers)]
        parts += [f"prompt {self.prompt!r}{without}"] if self.prompt else []
        if self.other_prompts:
            parts.append(f"no default among its prompts for {'/'.join(self.other_prompts)}")
        parts += [f"at most {self.max_length} tokens"] if self.max_length else []
        return ", ".join(parts + ["lower case"] * self.lower_case)


def module_folders(folder: Path) -> list[str]:
    """Folders of the modules that ``modules.json`` lists, relative; none if it cannot be read."""
    try:
        return [path for _, path in _modules(folder / MODULES) if path]
    except ModelFilesError:
        return []


def read_recipe(folder: Path) -> Recipe:
    """Read the recipe of a folder with a ``modules.json``.

    Parameters
    ----------
    folder : Path
        From `recbole_lite.text.llm_files.resolve_llm`.

    Raises
    ------
    ModelFilesError
        A file is missing or malformed, or a module is not one of those known here.
    """
    modules = _modules(folder / MODULES)
    kinds = [kind for kind, _ in modules]
    if kinds[:2] != ["Transformer", "Pooling"] or not set(kinds[2:]) <= set(LAYERS):
        raise ModelFilesError(
            f"{folder / MODULES}: lists {', '.join(kinds) or 'no module'}; supported are "
            f"Transformer, Pooling, then any of {', '.join(LAYERS)}; {_REMEDY}"
        )
    if modules[0][1]:
        raise ModelFilesError(
            f"{folder / MODULES}: the files of the Transformer are in {modules[0][1]!r}, not "
            "beside modules.json; save the folder with a current version of sentence-transformers"
        )
    pooling, *layers = (_layer(kind, folder / path) for kind, path in modules[1:])
    own = min(folder.glob(TRANSFORMER_CONFIGS), default=folder / "sentence_bert_config.json")
    transformer = _read_mapping(own)
    _check_transformer(own, transformer)
    files = [folder / MODULES, folder / PROMPTS, own]
    for layer in (pooling, *layers):
        files += [layer.folder / name for name in ("config.json", *WEIGHTS)]
    config = pooling.config
    prompt, other_prompts = _prompt(folder / PROMPTS)
    return Recipe(
        pooling=_poolings(pooling.folder / "config.json", config),
        layers=tuple(layers),
        prompt=prompt,
        other_prompts=other_prompts,
        include_prompt=bool(config.get("include_prompt", True)),
        max_length=_count(own, transformer.get("max_seq_length")),
        lower_case=bool(transformer.get("do_lower_case")),
        size=config.get("embedding_dimension", config.get("word_embedding_dimension")),
        files=tuple(path for path in files if path.is_file()),
    )


def write_recipe(recipe: Recipe, size: int, source: Path, target: Path) -> None:
    """Write the recipe by which a model was trained into the folder of its new weights.

    Parameters
    ----------
    recipe : Recipe
        Its files are copied; without files, it has one pooling and no layers.
    size : int
        Dimension of the language model's outputs.
    source, target : Path
        Folder that the recipe was read from, and folder of the new weights.
    """
    for path in recipe.files:
        copy = target / path.relative_to(source)
        copy.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, copy)
    if not recipe.files:
        parts = {"Transformer": "", "Pooling": "1_Pooling"}
        modules = [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (kind, path) in enumerate(parts.items())
        ]
        write_json(target / MODULES, modules)
        pooling = {"word_embedding_dimension": size, "pooling_mode": recipe.pooling[0]}
        write_json(target / parts["Pooling"] / "config.json", pooling)
    prompts = {"item": recipe.prompt} if recipe.prompt else {}
    default = next(iter(prompts), None)
    write_json(target / PROMPTS, {"prompts": prompts, "default_prompt_name": default})


def _modules(path: Path) -> list[tuple[str, str]]:
    """Class (its last name) and folder of every module."""
    found = []
    for entry in _read_json(path, list):
        names = (entry.get("type"), entry.get("path")) if isinstance(entry, dict) else (None,) * 2
        if not all(isinstance(name, str) for name in names):
            raise ModelFilesError(f"{path}: a module has no type or no path: {entry!r}; {_REMEDY}")
        kind, where = names
        if not kind.startswith("sentence_transformers."):
            raise ModelFilesError(
                f"{path}: the module {kind!r} is code of its own, which is never run; {_REMEDY}"
            )
        if PurePosixPath(where).is_absolute() or ".." in where or "\\" in where:
            raise ModelFilesError(f"{path}: {where!r} is no folder beside this file")
        found.append((kind.rpartition(".")[2], where))
    return found


def _layer(kind: str, folder: Path) -> Layer:
    path = folder / "config.json"
    if kind != "Normalize" and not path.is_file():
        raise ModelFilesError(
            f"{path}: missing, and {MODULES} beside the model lists its folder; download the "
            f"model again, or {_REMEDY}"
        )
    return Layer(kind, folder, _read_mapping(path))


def _read_mapping(path: Path) -> dict[str, Any]:
    """Content of a file that may be missing."""
    return _read_json(path, dict) if path.is_file() else {}


def _read_json(path: Path, kind: type) -> Any:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelFilesError(f"{path} cannot be read ({one_line(error)}); {_REMEDY}") from error
    if not isinstance(content, kind):
        what = "list of modules" if kind is list else "mapping"
        raise ModelFilesError(f"{path}: holds no {what}; {_REMEDY}")
    return content


def _check_transformer(path: Path, config: dict[str, Any]) -> None:
    """Refuse settings of the Transformer under which its outputs would be others than here."""
    strange = [key for key, plain in _PLAIN.items() if config.get(key, plain) != plain]
    for name in _ARGUMENTS:
        strange += [key for key in (f"{name}_args", f"{name}_kwargs") if config.get(key)]
    if "modality_config" in config:
        modes = config["modality_config"]
        text = modes.get("text", {}) if isinstance(modes, dict) else {}
        plain = isinstance(text, dict) and text.get("method_output_name") == "last_hidden_state"
        strange += [] if plain and "message" not in modes else ["modality_config"]
    if strange:
        values = ", ".join(f"{key}: {config[key]!r}"[:80] for key in strange)
        raise ModelFilesError(f"{path}: not supported: {values}; {_REMEDY}")


def _poolings(path: Path, config: dict[str, Any]) -> tuple[str, ...]:
    modes = config.get("pooling_mode")
    if modes is None:
        modes = [mode for switch, mode in _SWITCHES.items() if config.get(switch)] or ["mean"]
    modes = [modes] if isinstance(modes, str) else modes
    if not isinstance(modes, list) or not modes or any(mode not in POOLINGS for mode in modes):
        raise ModelFilesError(
            f"{path}: pooling_mode must be one or several of {', '.join(POOLINGS)}, found {modes!r}"
        )
    return tuple(modes)


def _prompt(path: Path) -> tuple[str, tuple[str, ...]]:
    """Default prompt, and names of all that are not empty where there is no default."""
    config = _read_mapping(path)
    name, prompts = config.get("default_prompt_name"), config.get("prompts")
    prompts = prompts if isinstance(prompts, dict) else {}
    if name is None:
        return "", tuple(known for known, text in prompts.items() if text)
    if not isinstance(name, str) or not isinstance(prompts.get(name), str):
        known = ", ".join(prompts) or "none"
        raise ModelFilesError(
            f"{path}: default_prompt_name is {name!r}, but its prompts are: {known}; correct the "
            f"file, or {_REMEDY}"
        )
    return prompts[name], ()


def _count(path: Path, value: Any) -> int | None:
    if value is None or (type(value) is int and value > 0):
        return value
    raise ModelFilesError(f"{path}: max_seq_length must be a positive number, found {value!r}")
