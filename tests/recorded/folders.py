"""Runs' folders from what was recorded of them; weights are made from their names and shapes."""

from __future__ import annotations

import json
import random
import zlib
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tiny_data import write_tiny
from tiny_llms import BUILDERS

from recbole_lite import Recommender, get_trainer, load_data_and_model, run

USERS = 3  # of whom scores are recorded
LLMS = ("bert", "writer")
HISTORIES = (["i1", "i2", "i3"], ["i20"])


def prepare(root: Path) -> None:
    """Write the data set and the language models; settings name them relative to `root`."""
    write_tiny(root / "data")
    for kind in LLMS:
        model, tokenizer = BUILDERS[kind]()
        same = {id(p): name for name, p in reversed(list(model.state_dict(keep_vars=True).items()))}
        with torch.no_grad():
            for value in model.state_dict(keep_vars=True).values():
                if value.is_floating_point():
                    value.copy_(numbers(same[id(value)], value.shape))
        model.save_pretrained(root / "llms" / kind)
        tokenizer.save_pretrained(root / "llms" / kind)


def numbers(name: str, shape) -> torch.Tensor:
    """Weights by their name: the same on every machine and in every version of torch."""
    drawn = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(tuple(shape))
    drawn = drawn.astype(np.float32)
    last = name.rpartition(".")[2]
    if last == "exp_avg":
        drawn *= 1e-3
    elif last == "exp_avg_sq":
        drawn = 1e-5 + 1e-5 * np.abs(drawn)
    elif len(drawn.shape) == 1 and last in ("weight", "gamma"):  # a norm's
        drawn = 1 + 0.1 * drawn
    else:
        drawn *= 0.3
    return torch.from_numpy(np.asarray(drawn))


# -- recording --------------------------------------------------------------------------------


def described(path: Path) -> dict:
    """Names, types and shapes of a file of weights, values of its whole numbers, its header.

    Tensors that are equal are one parameter by two names; the second names the first.
    """
    with safe_open(path, framework="pt") as file:
        facts = json.loads(file.metadata()["facts"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    facts.pop("state", None)  # checksum of the other file of a pair
    return {"facts": facts, "tensors": {n: _tensor(n, tensors) for n in tensors}}


def _tensor(name: str, tensors: dict) -> list:
    own = tensors[name]
    kind, shape = str(own.dtype).removeprefix("torch."), list(own.shape)
    if not own.is_floating_point():
        return [kind, shape, own.flatten().tolist()]
    for other, tensor in tensors.items():
        if other == name:
            break
        if own.shape == tensor.shape and own.numel() > 16 and torch.equal(own, tensor):
            return [kind, shape, other]
    return [kind, shape]


def described_state(value, path: str = "state"):
    """The state of a training as JSON: tensors by type and shape, pairs for other mappings' keys.

    Random states are left out.
    """
    if isinstance(value, torch.Tensor):
        kind = str(value.dtype).removeprefix("torch.")
        exact = value.tolist() if value.numel() == 1 else None
        return {"tensor": path, "kind": kind, "shape": list(value.shape), "exact": exact}
    if isinstance(value, dict):
        entries = [
            [list(k) if isinstance(k, tuple) else k, described_state(v, f"{path}.{k}")]
            for k, v in value.items()
            if path != "state" or k != "random"
        ]
        return {"mapping": entries}
    if isinstance(value, (list, tuple)):
        parts = [described_state(v, f"{path}.{i}") for i, v in enumerate(value)]
        return {"tuple" if isinstance(value, tuple) else "list": parts}
    return value


def compact(records: dict[str, dict]) -> dict:
    """Records with what they share told once: settings by differences, texts by a digest."""
    configs = {name: json.loads(record["texts"]["config.json"]) for name, record in records.items()}
    common = next(iter(configs.values()))["settings"]
    texts, found = {}, {}
    for name, record in records.items():
        own = {**record, "texts": {}}
        for file, text in record["texts"].items():
            if file != "config.json":
                own["texts"][file] = digest = f"{zlib.crc32(text.encode()):08x}"
                texts[digest] = text
        config = configs[name]
        settings = config["settings"]
        config["settings"] = {k: v for k, v in settings.items() if common.get(k, ...) != v}
        config["without"] = [key for key in common if key not in settings]
        found[name] = {"config": config, **own}
    return {"settings": common, "texts": texts, **found}


def expanded(content: dict) -> dict[str, dict]:
    """The records of :func:`compact`."""
    common, texts = content["settings"], content["texts"]
    found = {}
    for name in content.keys() - {"settings", "texts"}:
        record, config = content[name], dict(content[name]["config"])
        without = config.pop("without")
        settings = {**common, **config["settings"]}
        config["settings"] = {k: v for k, v in settings.items() if k not in without}
        own = {file: texts[digest] for file, digest in record["texts"].items()}
        own["config.json"] = json.dumps(config, indent=1, ensure_ascii=False)
        found[name] = {**record, "texts": own}
    return found


# -- writing ----------------------------------------------------------------------------------


def write(folder: Path, record: dict) -> None:
    """Write a run's folder."""
    folder.mkdir(parents=True)
    for name, text in record["texts"].items():
        (folder / name).write_text(text, encoding="utf-8")
    states = {}
    for name, state in record.get("states", {}).items():
        states[name] = {**_state(state), "random": _random_state()}
        torch.save(states[name], folder / name)
    for name, about in record["weights"].items():
        tensors = {tensor: _filled(tensor, spec) for tensor, spec in about["tensors"].items()}
        save_file(tensors, folder / name, metadata={"facts": json.dumps(about["facts"])})


def _filled(name: str, spec: list) -> torch.Tensor:
    kind, shape, *more = spec
    dtype = getattr(torch, kind)
    if more and not isinstance(more[0], str):
        return torch.tensor(more[0], dtype=dtype).reshape(shape)
    return numbers(more[0] if more else name, shape).to(dtype)


def _state(value):
    """What :func:`described_state` described, with numbers for its tensors."""
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        dtype = getattr(torch, value["kind"])
        if value["exact"] is not None:
            return torch.tensor(value["exact"], dtype=dtype).reshape(value["shape"])
        return numbers(value["tensor"], value["shape"]).to(dtype)
    if "mapping" in value:
        return {tuple(k) if isinstance(k, list) else k: _state(v) for k, v in value["mapping"]}
    if "tuple" in value:
        return tuple(map(_state, value["tuple"]))
    return list(map(_state, value["list"]))


def _random_state() -> dict:
    version, words, gauss = random.Random(5).getstate()
    name, keys, *rest = np.random.RandomState(5).get_state()
    state = torch.Generator().manual_seed(5).get_state()
    return {
        "python": [version, list(words), gauss],
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), *rest],
        "torch": state,
        "cuda": [],
        "loader": state,
    }


# -- what a folder gives ----------------------------------------------------------------------


def results(folder: Path, data_path: str | None = None) -> dict:
    """Test figures and the scores of a few users, by the public functions; -inf is None."""
    config, model, _, _, _, test = load_data_and_model(folder, data_path)
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    figures = trainer.evaluate(test, load_best_model=False)
    model.eval()
    batch = next(iter(test))[0].to(config["device"])
    with torch.no_grad():
        scores = model.full_sort_predict(batch).view(len(batch), -1)[:USERS].tolist()
        torch.manual_seed(0)  # for the choice of templates
        loss = float(model.calculate_loss(batch)) if config["num_beams"] else None
    return {
        "loss": loss,  # of models that search beams; their scores are but ranks
        "figures": {name: float(value) for name, value in figures.items()},
        "scores": [[round(x, 5) if abs(x) < 1e30 else None for x in row] for row in scores],
    }


def resumed(folder: Path) -> dict:
    """What the next epoch of an interrupted run gives."""
    saved = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    end = saved["settings"]["end_epoch"]
    result = run(
        config_file_list=[folder / "config.yaml"],
        config_dict={"resume": str(folder), "end_epoch": end + 1},
    )
    history = [{k: v for k, v in epoch.items() if k != "seconds"} for epoch in result["history"]]
    return {"epochs": result["epochs"], "history": history, "test": result["test_result"]}


def recommended(folder: Path) -> list:
    """Items and their scores for a few histories."""
    found = Recommender.load(folder, runtime="torch").recommend(HISTORIES, k=4)
    return [[[one.id, one.title, round(one.score, 5)] for one in row] for row in found]
