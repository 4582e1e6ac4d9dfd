"""Checkpoints: weights in safetensors, the rest as plain data; nothing in them can run code.

A run's folder holds::

    config.json                 settings that build the same model and data again
    best.safetensors            weights of the best validation so far, its result in the header
    last-000012.safetensors     weights after epoch 12
    last-000012.pt              optimiser, random states, counters (torch.load, weights_only)

``last`` is a pair of files; the pair before is removed only when the new one is whole.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from safetensors.torch import save_file

from recbole_lite.errors import CheckpointError
from recbole_lite.files import write_atomically

CONFIG_FILE = "config.json"
BEST_FILE = "best.safetensors"
OTHER = "other_parameter/"  # RecBole's name for what a model keeps beside its state_dict


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
    """Put tensors of :func:`model_tensors` back into a model built from the same settings.

    Parameters
    ----------
    model : torch.nn.Module
    tensors : mapping
    source : str or Path
        What messages call their place.
    may_lack : tuple of str
        Beginnings of names that keep the model's own tensors where `tensors` has none.

    Raises
    ------
    CheckpointError
        Names or shapes differ; the message lists the first of them.
    """
    weights = {name: tensor for name, tensor in tensors.items() if not name.startswith(OTHER)}
    expected = model.state_dict()
    for name, tensor in expected.items():
        if may_lack and name.startswith(may_lack):
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
    """Copy into the live tensors; those that the model makes only in training are set anew."""
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
    """Tensors inside dicts, sequences and modules, with a path to each."""
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


def save_config(folder: Path, config) -> None:
    """Write the settings of a run."""
    content = {"model": config["model"], "dataset": config["dataset"], "settings": config.settings}
    text = json.dumps(content, indent=1, ensure_ascii=False)
    write_atomically(folder / CONFIG_FILE, lambda path: path.write_text(text, encoding="utf-8"))


def load_config(folder: Path) -> dict[str, Any]:
    """Read what :func:`save_config` wrote: ``model``, ``dataset`` and ``settings``.

    Raises
    ------
    CheckpointError
        Missing or damaged.
    """
    path = folder / CONFIG_FILE
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{folder}: no checkpoint here ({CONFIG_FILE} is missing)") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from None


def save_weights(path: Path, model: torch.nn.Module, **facts: Any) -> None:
    """Write a model's tensors; `facts` (plain data) go into the header."""
    tensors = model_tensors(model)
    metadata = {"facts": json.dumps(facts)}
    write_atomically(path, lambda name: save_file(tensors, name, metadata=metadata))


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
            facts = json.loads((file.metadata() or {}).get("facts", "{}"))
            return {name: file.get_tensor(name) for name in file.keys()}, facts  # noqa: SIM118
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file; has the run saved anything?") from None
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be read, it may be damaged: {error}") from None


def save_last(folder: Path, epoch: int, model: torch.nn.Module, state: dict[str, Any]) -> None:
    """Write the pair of files that a run continues from, then drop the pairs before."""
    stem = f"last-{epoch:06d}"
    save_weights(folder / f"{stem}.safetensors", model, epoch=epoch)
    write_atomically(folder / f"{stem}.pt", lambda path: torch.save(state, path))
    for path in folder.glob("last-*"):
        if path.stem != stem:
            path.unlink(missing_ok=True)


def load_last(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
    """Newest whole pair of :func:`save_last`: tensors and state; None where there is none.

    Raises
    ------
    CheckpointError
        There are pairs, but none can be read.
    """
    problem = None
    for path in sorted(folder.glob("last-*.pt"), reverse=True):
        try:
            tensors, _ = load_weights(path.with_suffix(".safetensors"))
            return tensors, torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch.load's errors on damaged files have no common class
            problem = problem or f"{path}: {error}"
    if problem:
        raise CheckpointError(f"{folder}: no checkpoint can be read. {problem}")
    return None


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
    """Put the states of :func:`random_state` back."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
    if generator is not None and state["loader"] is not None:
        generator.set_state(state["loader"])
