"""Checkpoints: weights in safetensors, the rest as plain data; loading them never executes code.

A run's folder holds::

    config.json                 settings that rebuild the same model and data
    vocabulary.jsonl            raw ids of users, items and features by internal id
    best.safetensors            weights of the best validation so far, its result in the header
    last-000012.pt              optimiser, random states, counters (torch.load, weights_only)
    last-000012.safetensors     weights after epoch 12; the header has the checksum of the .pt file
    config.yaml                 the same settings, readable, for --config_files
    history.csv                 a line per epoch so far

The header of weights has the SHA-256 of the vocabulary that their rows belong to. The vocabulary
does not change within a run and is written before the first weights.

``last`` is a pair of files; it is valid once its second file, the weights, is written. The previous
pair is kept in case the newest is damaged.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import random
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from logging import getLogger
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from safetensors.torch import save_file

from recbole_lite.config.keys import affecting
from recbole_lite.config.saved_config import BEST_FILE as BEST_FILE
from recbole_lite.config.saved_config import CONFIG_FILE as CONFIG_FILE
from recbole_lite.config.saved_config import load_config as load_config
from recbole_lite.config.yaml_files import to_yaml
from recbole_lite.data.vocabulary import VOCABULARY_FILE as VOCABULARY_FILE
from recbole_lite.data.vocabulary import Vocabulary
from recbole_lite.model.layers.sharded_embedding import own_rows
from recbole_lite.utils.errors import CheckpointError, OtherIdsError
from recbole_lite.utils.files import file_sha256, to_json, write_atomically

YAML_FILE = "config.yaml"
HISTORY_FILE = "history.csv"
OTHER = "other_parameter/"  # RecBole's name for tensors outside the state_dict
KEPT_PAIRS = 2
FOR_TRAINING = ("distillation.",)  # prefixes of tensors of `last` that `best` is without


# -- a model's tensors ------------------------------------------------------------------------


def model_tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """All tensors that a RecBole model needs: its state_dict and its "other parameters".

    The latter can be modules that keep tensors in plain dicts (FDSA), so they are walked.
    """
    tensors = dict(model.state_dict())
    for path, tensor in _walk(model.other_parameter(), OTHER.rstrip("/")):
        tensors[path] = tensor
    unique: dict[int, str] = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        if tensor.data_ptr() in unique and tensor.numel():
            tensor = tensor.clone()  # safetensors refuses tensors that share memory
        unique[tensor.data_ptr()] = name
        tensors[name] = tensor
    return tensors


def restore_model(
    model: torch.nn.Module,
    tensors: Mapping[str, torch.Tensor],
    source,
    may_lack: tuple[str, ...] = (),
) -> None:
    """Load tensors of :func:`model_tensors` into a model built from the same settings.

    Parameters
    ----------
    model : torch.nn.Module
    tensors : mapping
    source : str or Path
        Their file, for messages.
    may_lack : tuple of str
        Prefixes of names whose tensors stay as they are where `tensors` has none.

    Raises
    ------
    CheckpointError
        Names or shapes differ; the message lists the first of them.
    """
    weights = {name: tensor for name, tensor in tensors.items() if not name.startswith(OTHER)}
    weights = own_rows(model, weights)
    expected = model.state_dict()
    frozen = getattr(model, "frozen_names", frozenset())  # beside adapters, which may stand alone
    for name, tensor in expected.items():
        if name in frozen or name.startswith(may_lack):
            weights.setdefault(name, tensor)
    problems = [f"{name} is missing" for name in expected if name not in weights]
    problems += [f"{name} is not part of the model" for name in weights if name not in expected]
    problems += [
        f"{name} has shape {list(weights[name].shape)}, the model's is {list(expected[name].shape)}"
        for name in expected
        if name in weights and weights[name].shape != expected[name].shape
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise CheckpointError(
            f"{source}: does not fit the model: {'; '.join(problems[:3])}{more}. "
            "Was it trained on another dataset or with other settings?"
        )
    model.load_state_dict(weights)
    _restore_other(model, tensors, source)


def _restore_other(model, tensors, source):
    """Copy into the existing tensors; those created in training become attributes."""
    live = dict(_walk(model.other_parameter(), OTHER.rstrip("/")))
    saved = {path: tensor for path, tensor in tensors.items() if path.startswith(OTHER)}
    made_in_training = {path for path in saved if path not in live and path.count("/") == 1}
    shapes = {path: tensor.shape for path, tensor in live.items()}
    if shapes != {p: t.shape for p, t in saved.items() if p not in made_in_training}:
        raise CheckpointError(
            f"{source}: does not fit the model: its {OTHER.rstrip('/')} has other names or shapes. "
            "Was it trained on another dataset or with other settings?"
        )
    for path, tensor in live.items():
        tensor.data.copy_(saved[path])
    for path in made_in_training:
        setattr(model, path.removeprefix(OTHER), saved[path].to(model.device))


def _walk(value: Any, path: str) -> Iterator[tuple[str, torch.Tensor]]:
    """Tensors inside dicts, sequences and modules, each with its path."""
    if isinstance(value, torch.Tensor):
        yield path, value
    elif isinstance(value, torch.nn.Module):
        yield from ((f"{path}/{name}", tensor) for name, tensor in value.state_dict().items())
        for name, attribute in vars(value).items():
            if not name.startswith("_") and isinstance(attribute, (dict, list, tuple)):
                yield from _walk(attribute, f"{path}/{name}")
    elif isinstance(value, Mapping):
        for name, entry in value.items():
            yield from _walk(entry, f"{path}/{name}")
    elif isinstance(value, (list, tuple)):
        for place, entry in enumerate(value):
            yield from _walk(entry, f"{path}/{place}")


# -- files ------------------------------------------------------------------------------------


def _write(path: Path, write: Callable[[Path], None]) -> None:
    """Write a file; an error says which earlier checkpoint is intact.

    Raises
    ------
    CheckpointError
        No space, no permission ...; an existing file stays as it was.
    """
    try:
        write_atomically(path, write)
    # safetensors and torch have errors of their own for a full disk.
    except (OSError, RuntimeError, safetensors.SafetensorError) as error:
        raise CheckpointError(
            f"{path}: cannot be written: {getattr(error, 'strerror', None) or error}. "
            + (
                "Earlier checkpoints are intact; "
                f"--resume={shlex.quote(str(path.parent))} continues from them"
                if has_last(path.parent)
                else "No checkpoint to resume from was saved before"
            )
        ) from error


def save_config(folder: Path, config) -> None:
    """Write the settings of a run."""
    content = {"model": config["model"], "dataset": config["dataset"], "settings": config.settings}
    text = json.dumps(content, indent=1, ensure_ascii=False)
    _write(folder / CONFIG_FILE, lambda path: path.write_text(text, encoding="utf-8"))
    save_yaml(folder, config)


def save_yaml(folder: Path, config) -> None:
    """Write all settings of a run as a file for ``--config_files``, without ``resume``.

    Settings that were detected on this machine are left out unless the user has set them.
    """
    settings = {"model": config["model"], "dataset": config["dataset"], **config.settings}
    for key in affecting("detected") - set(config.origins):
        settings.pop(key, None)
    head = "# Every setting of this run: --config_files=config.yaml runs it again.\n"
    text = head + to_yaml({**settings, "resume": None})
    _write(folder / YAML_FILE, lambda path: path.write_text(text, encoding="utf-8"))


def save_history(
    folder: Path, history: Sequence[Mapping[str, Any]], train_losses: Mapping[int, float]
) -> None:
    """Write ``history.csv``: a line per epoch, empty cells where there was no validation."""
    entries = {entry["epoch"]: entry for entry in history}
    names = list(next(iter(entries.values()))["valid_result"]) if entries else []
    columns = ["epoch", "train_loss", "valid_score", *(f"valid_{n}" for n in names), "seconds"]
    rows = []
    for epoch in sorted({*entries, *train_losses}):
        entry = entries.get(epoch, {})
        loss = entry.get("train_loss", train_losses.get(epoch))
        figures = [entry.get("valid_result", {}).get(name) for name in names]
        rows.append([epoch, loss, entry.get("valid_score"), *figures, entry.get("seconds")])
    write_csv(folder / HISTORY_FILE, columns, rows)


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table; None is an empty cell."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    _write(path, lambda name: name.write_bytes(text.getvalue().encode("utf-8")))


# -- raw ids ----------------------------------------------------------------------------------


def save_vocabulary(folder: Path, vocabulary: Vocabulary) -> None:
    """Write the raw ids behind the rows of a run's weights, unless they are there already."""
    path = folder / VOCABULARY_FILE
    try:
        if load_vocabulary(folder).sha256 == vocabulary.sha256:
            return
    except (CheckpointError, AttributeError):  # damaged, or there is none
        pass
    _write(path, lambda name: name.write_bytes(vocabulary.to_bytes()))


def load_vocabulary(folder: Path) -> Vocabulary | None:
    """Read what :func:`save_vocabulary` wrote; None where there is none.

    Raises
    ------
    CheckpointError
        Damaged.
    """
    path = folder / VOCABULARY_FILE
    try:
        return Vocabulary.from_bytes(path.read_bytes(), str(path))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from None


def load_pretrained_vocabulary(path: Path) -> Vocabulary | None:
    """Raw ids of the pre-trained weights of S3Rec or RaCT; None (with a warning) without any."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)["vocabulary"]
    except KeyError:
        warn_unknown_vocabulary(path)
        return None
    except Exception:  # not a weights file: the model's own loading has the better message
        return None
    return Vocabulary.from_bytes(str(content).encode(), str(path))


def check_vocabulary(named: str | None, vocabulary: Vocabulary | None, source) -> None:
    """Check that the rows of weights belong to the ids of a vocabulary.

    Parameters
    ----------
    named : str or None
        SHA-256 of the vocabulary of the weights; None: an older version saved them.
    vocabulary : Vocabulary or None
        Of the data; None: :func:`~recbole_lite.data.create_dataset` has not read them.
    source : str or Path
        File of the weights, for messages.

    Raises
    ------
    OtherIdsError
        They do not.
    """
    if named is None or vocabulary is None or named == vocabulary.sha256:
        return
    raise OtherIdsError(
        f"{source}: its rows belong to other raw ids, or to the same in another order, than the "
        f"data (or {VOCABULARY_FILE}) have. Copy the whole folder of the run, and load it by "
        "load_data_and_model, --resume or --init_from"
    )


def initial_vectors(model: torch.nn.Module) -> dict[str, Any]:
    """SHA-256 of what a model began with and its weights are read again with.

    ``item_vectors``: the precomputed item vectors, if it has any; ``base_llms``: the files of the
    language models whose frozen weights checkpoints leave out (``checkpoint_adapters_only``).
    """
    found = {"item_vectors": getattr(model, "item_vectors_sha256", None)}
    if left_out(model):
        found["base_llms"] = model.base_llms()
    return {name: sha256 for name, sha256 in found.items() if sha256}


def left_out(model: torch.nn.Module) -> frozenset[str]:
    """Names of the tensors that a model's checkpoints leave out."""
    leaves = getattr(model, "saves_adapters_only", False)
    return model.frozen_names if leaves else frozenset()


def check_initial_vectors(facts: Mapping[str, Any], model: torch.nn.Module, source) -> None:
    """Check that weights began with the item vectors and files that a model was built with.

    Raises
    ------
    CheckpointError
        They did not, and the weights would replace the vectors in silence.
    """
    if facts.get("item_vectors") != initial_vectors(model).get("item_vectors"):
        raise CheckpointError(
            f"{source}: its weights began with other item vectors than item_vectors gives now; use "
            "the vectors of that run, or train anew"
        )
    base = facts.get("base_llms")
    if base is not None and base != model.base_llms():
        raise CheckpointError(
            f"{source}: holds adapters of other language models than "
            f"{' and '.join(sorted(base))} give now; use the files of that run, or train anew"
        )


def warn_unknown_vocabulary(source) -> None:
    """Warn that weights have no vocabulary to compare with."""
    getLogger().warning(
        f"{source}: saved by an older version, without the raw ids that its rows belong to; they "
        "are taken to be those of the data in their order, which could not be verified"
    )


def save_weights(
    path: Path, model: torch.nn.Module, without: tuple[str, ...] = (), **facts: Any
) -> None:
    """Write a model's tensors, but for prefixes of names; `facts` (plain data): the header."""
    frozen = left_out(model)
    tensors = {
        name: tensor
        for name, tensor in model_tensors(model).items()
        if name not in frozen and not name.startswith(without)
    }
    metadata = {"facts": to_json(facts), "sha256": _sha256(tensors)}
    _write(path, lambda name: save_file(tensors, name, metadata=metadata))


def load_weights(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read what :func:`save_weights` wrote.

    Returns
    -------
    tuple of dict
        Tensors by name (on the CPU), and the facts.

    Raises
    ------
    CheckpointError
        Missing or damaged.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            facts = json.loads(metadata.get("facts", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file; has the run saved anything?") from None
    except (OSError, ValueError, RuntimeError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be read, it may be damaged: {error}") from None
    if metadata.get("sha256") not in (None, _sha256(tensors)):
        raise CheckpointError(f"{path}: cannot be read, it is damaged: its checksum differs")
    return tensors, facts


def load_tensor(folder: Path, name: str) -> torch.Tensor | None:
    """A tensor that does not change in a run, from any of its weights; None where there is none."""
    for path in [folder / BEST_FILE, *folder.glob("last-*.safetensors")]:
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                return file.get_tensor(name) if name in file.keys() else None  # noqa: SIM118
        except (OSError, RuntimeError, safetensors.SafetensorError):  # whoever needs it reports it
            continue
    return None


def save_last(folder: Path, epoch: int, model: torch.nn.Module, state: dict[str, Any]) -> None:
    """Write the pair of files that a run is resumed from; older pairs than the previous one go."""
    stem = f"last-{epoch:06d}"
    path = folder / f"{stem}.pt"
    _write(path, lambda name: _torch_save(state, name))
    save_weights(path.with_suffix(".safetensors"), model, epoch=epoch, state=file_sha256(path))
    stems = sorted({path.stem for path in folder.glob("last-*")}, reverse=True)
    for old in stems[KEPT_PAIRS:]:
        for suffix in (".safetensors", ".pt"):  # in reverse: no weights without their state
            (folder / f"{old}{suffix}").unlink(missing_ok=True)


def has_last(folder: str | Path) -> bool:
    """Whether a run has saved a pair of :func:`save_last`, intact or damaged."""
    return any(Path(folder).glob("last-*.safetensors"))


def load_last(
    folder: Path, mapped: bool = False
) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
    """Newest intact pair of :func:`save_last`: tensors and state; None where there is none.

    Tensors of the state are `mapped` from the file, or read.

    Raises
    ------
    CheckpointError
        There are pairs, but none can be read.
    """
    problem = None
    for path in sorted(folder.glob("last-*.safetensors"), reverse=True):
        state = path.with_suffix(".pt")
        try:
            tensors, facts = load_weights(path)
            if facts.get("state") not in (None, file_sha256(state)):
                raise CheckpointError(f"{state}: it is damaged: its checksum differs")
            read = torch.load(state, map_location="cpu", weights_only=True, mmap=mapped)
            return tensors, read
        except Exception as error:  # torch.load's errors on damaged files have no common class
            problem = problem or " ".join(f"{path}: {error}".split())[:300]
            getLogger().warning(f"{path.with_suffix('')}: cannot be read; trying the previous one")
    if problem:
        raise CheckpointError(f"{folder}: no checkpoint can be read. {problem}")
    return None


def _torch_save(state: Any, path: Path) -> None:
    """Save through Python's own file; torch's errors do not say why a write failed."""
    with path.open("wb") as file:
        torch.save(state, file)


def _sha256(tensors: Mapping[str, torch.Tensor]) -> str:
    """Checksum of names, types, shapes and bytes: neither file format has one of its own."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


# -- random states ----------------------------------------------------------------------------


def random_state(generator: torch.Generator | None = None) -> dict[str, Any]:
    """States of Python's, NumPy's and torch's generators as plain data and tensors."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()
    return {
        "python": [version, list(words), gauss],
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "loader": None if generator is None else generator.get_state(),
    }


def restore_random_state(state: Mapping[str, Any], generator: torch.Generator | None) -> None:
    """Restore the states of :func:`random_state`."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
    if generator is not None and state["loader"] is not None:
        generator.set_state(state["loader"])
