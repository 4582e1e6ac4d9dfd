"""Warm start: yesterday's model, today's interactions, a new run folder."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import count
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from recbole_lite.config.command_line import parse_overrides, parse_scalar
from recbole_lite.config.configurator import LiteConfig, translate_errors
from recbole_lite.config.keys import affecting
from recbole_lite.config.yaml_files import read_yaml
from recbole_lite.data import create_dataset, data_preparation
from recbole_lite.data.sources.join_tables import PARTS, join_tables
from recbole_lite.inference.recommender import Recommender
from recbole_lite.inference.saved_run import trained_vocabulary
from recbole_lite.inference.warm_start import check_grows, n_trained_items
from recbole_lite.quick_start import run_one
from recbole_lite.report.format import figure, grid, interval, metric_label
from recbole_lite.report.intervals import mean_intervals
from recbole_lite.report.rank_metrics import is_of_ranks, metric_values
from recbole_lite.text.item_llm_settings import TextFields
from recbole_lite.trainer import checkpoint
from recbole_lite.trainer.launch import needs_launch
from recbole_lite.utils.errors import CheckpointError, ConfigError
from recbole_lite.utils.files import write_json
from recbole_lite.utils.paths import PROPERTIES

DEFAULTS = PROPERTIES / "update.yaml"
UPDATE_FILE = "update.json"  # in the new run's folder
_BATCH = 256  # users ranked together by the old model


def update(
    model: str | Path,
    interactions: Any,
    items: Any = None,
    name: str | None = None,
    columns: Mapping[str, str] | None = None,
    config_dict: Mapping[str, Any] | None = None,
    overrides: Iterable[str] | None = None,
) -> dict[str, Any]:
    """Train a finished run further on new interactions, and compare it with the old model.

    Parameters
    ----------
    model : str or Path
        Folder of the run.
    interactions, items : str, Path, data frame, list of dicts or dict of lists
        New interactions, and descriptions of new items; files as of ``recbole-lite data import``.
    name : str, optional
        Of the new data set, beside the run's; default: ``DATASET-update-1``, ``-2`` ...
    columns : mapping, optional
        user, item, time, rating or item_id -> column.
    config_dict : mapping, optional
        Settings that differ from the run's and from ``properties/update.yaml``.
    overrides : list of str, optional
        The same as ``--key=value``.

    Returns
    -------
    dict
        ``run_dir``, ``dataset``; ``tested`` users and ``of_new_items``, those whose newest item
        the old model does not have; ``metrics``: name -> ``old``, ``new``, ``difference`` and its
        95% ``interval``, over the newest interactions; ``added``: users, items, interactions;
        ``notes``; ``minutes``; ``result``: as of :func:`recbole_lite.run`.

    Raises
    ------
    RecboleLiteError
        The folder is no run that can be updated, or the new tables do not fit its data.
    """
    started, folder = perf_counter(), Path(model)
    old = _saved_config(folder)
    changes = dict(config_dict or {})
    for key, given in parse_overrides(overrides or []).items():
        changes[key] = parse_scalar(given.value, old.settings.get(key))
    old, new = _configured(folder, old, name, changes)
    joined = join_tables(old, new["dataset"], interactions, items, columns, _text_fields(old))
    new = LiteConfig(new["model"], new["dataset"], config_dict=new.settings, typed=True)
    with translate_errors(f"{new['dataset']} cannot be read", new):
        tested, added = newest_interactions(folder, new)
    before = ranks_of(folder, new, tested)
    result = run_one(new, per_user=True)
    per_user = result.pop("per_user")
    ranks = dict(zip(per_user["users"], per_user["ranks"], strict=True))
    after = np.array([ranks[user] for user in tested.users])
    report = {
        "run_dir": result["run_dir"],
        "updated": str(folder),
        "dataset": new["dataset"],
        "tested": len(after),
        "of_new_items": int((tested.targets >= tested.n_known).sum()),
        "metrics": _compared(result["test_result"], before, after),
        "added": {**added, "interactions": joined.new},
        "rows": joined.rows,
        "notes": joined.notes,
        "minutes": (perf_counter() - started) / 60,
    }
    write_json(Path(result["run_dir"]) / UPDATE_FILE, report)
    return {**report, "result": result}


def render(report: Mapping[str, Any]) -> str:
    """Text for the result of :func:`update`: old against new, what was added, the folder."""
    rows = [
        [
            metric_label(name),
            figure(one["old"]),
            figure(one["new"]),
            figure(one["difference"], "+.4f"),
            interval(one["interval"], "+.4f"),
        ]
        for name, one in report["metrics"].items()
    ]
    added = ", ".join(f"{number:,} {what}" for what, number in report["added"].items())
    return (
        "".join(f"Note: {note}\n" for note in report["notes"])
        + f"Added: {added} ({report['dataset']}); {report['minutes']:.1f} minutes\n"
        f"Newest interaction of {report['tested']:,} users, "
        f"{report['of_new_items']:,} of them with items that the old model does not have:\n\n"
        + grid(rows, ["metric", "old", "updated", "difference", "95% interval"], "simple")
        + f"\n\nUpdated model: {report['run_dir']}"
    )


# -- settings ---------------------------------------------------------------------------------


def _saved_config(folder: Path) -> LiteConfig:
    """Settings of a run that can be updated."""
    content = checkpoint.load_config(folder)
    if not (folder / checkpoint.BEST_FILE).is_file():
        raise CheckpointError(
            f"{folder}: no {checkpoint.BEST_FILE}; give the folder of a finished run, not that of "
            "a packed model"
        )
    settings = {**content["settings"], "resume": None}
    config = LiteConfig(content["model"], content["dataset"], config_dict=settings, typed=True)
    mode = config["eval_args"]["mode"]  # of the test, where RecBole has one for each part
    mode = mode["test"] if isinstance(mode, dict) else mode
    ranks = any(is_of_ranks(f"{metric.lower()}@1") for metric in config["metrics"])
    if config["task"] != "sequential" or mode != "full" or not ranks:
        raise ConfigError(
            "update: needs a run of task: sequential with metrics such as Recall and NDCG over "
            "all items (eval_args mode: full)"
        )
    return config


def _configured(
    folder: Path, old: LiteConfig, name: str | None, changes: Mapping[str, Any]
) -> tuple[LiteConfig, LiteConfig]:
    """Settings of the run on this machine, and of the update."""
    protocol = affecting("ids", "result", "run") | {"benchmark_filename"}
    for key in sorted(protocol & set(changes)):
        raise ConfigError(
            f"update: {key} stays as the run has it, so that the models can be compared"
        )
    machine = {key: changes[key] for key in affecting("machine", "places") & set(changes)}
    settings = {**old.settings, **machine}
    old = LiteConfig(old["model"], old["dataset"], config_dict=settings, typed=True)
    root = Path(settings["data_path"])
    base = re.sub(r"-update-\d+$", "", old["dataset"])
    free = (f"{base}-update-{n}" for n in count(1))
    name = name or next(one for one in free if not (root / one).exists())
    last = (settings["stages"] or [{}])[-1]
    parts = {key: last[key] for key in ("item_llm_training", "frozen_parts") if key in last}
    defaults = {key: setting.value for key, setting in read_yaml(DEFAULTS).items()}
    written = {"benchmark_filename": list(PARTS), "field_separator": "\t", "encoding": "utf-8"}
    settings |= {**parts, **defaults, **changes, **written, "init_from": str(folder)}
    new = LiteConfig(old["model"], name, config_dict=settings, typed=True)
    if new["replay"] is None:
        raise ConfigError("update: replay must be a number from 0 to 1")
    if needs_launch(new):
        raise ConfigError("update: trains in one process; leave nproc and num_workers out")
    check_grows(new)
    return old, new


def _text_fields(config) -> list[str] | None:
    """Fields of which a new item needs one; [] for any; None where no model reads text."""
    reads = config["model"] == "LiteLLM4Rec" or config["item_init"] in ("text", "text_plus_id")
    if not reads or config["item_vectors"]:
        return None
    return TextFields.from_config(config).fields or []


# -- old against new --------------------------------------------------------------------------


class Newest:
    """The newest interaction of each user, in internal ids; `users` are raw ids."""

    def __init__(self, dataset, windows, n_known: int):
        self.n_known = n_known  # items from here on are new to the old model
        self.targets = windows[dataset.iid_field].numpy()  # [users]
        ids = dataset.id2token(dataset.uid_field, windows[dataset.uid_field].numpy())
        self.users = [str(user) for user in ids]
        owner, items = (values.numpy() for values in windows.history(slice(None)))
        kept = items < n_known
        counts = np.bincount(owner[kept], minlength=len(self.users))
        # Earlier items of each user that the old model knows.
        self.histories = np.split(items[kept], np.cumsum(counts)[:-1])


def newest_interactions(folder: Path, config) -> tuple[Newest, dict[str, int]]:
    """What the run in `folder` and an update of it, `config`, are asked; counts of what is new."""
    n_known = n_trained_items(folder, config["ITEM_ID_FIELD"])
    trained = trained_vocabulary(folder)
    trained.interactions, trained.grows = None, True
    dataset = create_dataset(config, trained)
    known = {field: len(ids) for fields, ids in trained.tables for field in fields}
    n_users = known.get(dataset.uid_field, dataset.user_num - 1)
    added = {"users": dataset.user_num - 1 - n_users, "items": dataset.item_num - n_known}
    windows = data_preparation(config, dataset)[2]._dataset.inter_feat
    return Newest(dataset, windows, n_known), added


def ranks_of(folder: Path, config, tested: Newest) -> np.ndarray:
    """Ranks of the newest items by the model of a run, ``[users]``; 0: beyond ``topk``.

    The model answers as it recommends: without the items that are new to it, also in histories.
    """
    old = Recommender.load(folder, device=config["device"], runtime="torch")
    ranks = np.zeros(len(tested.users), dtype=np.int64)
    rows = [row for row, history in enumerate(tested.histories) if len(history)]
    k = min(max(config["topk"]), len(old.catalogue))
    for start in range(0, len(rows), _BATCH):
        batch = rows[start : start + _BATCH]
        answers = old.rank([tested.histories[row].tolist() for row in batch], k)
        for row, (items, _) in zip(batch, answers, strict=True):
            if tested.targets[row] in items:
                ranks[row] = items.index(tested.targets[row]) + 1
    return ranks


def _compared(names: Iterable[str], before: np.ndarray, after: np.ndarray) -> dict[str, dict]:
    names = [name for name in names if is_of_ranks(name)]
    pairs = {name: [metric_values(name, ranks) for ranks in (before, after)] for name in names}
    ends = mean_intervals(np.array([new - old for old, new in pairs.values()]))
    return {
        name: {
            "old": float(old.mean()),
            "new": float(new.mean()),
            "difference": float((new - old).mean()),
            "interval": None if np.isnan(pair).any() else pair.tolist(),
        }
        for (name, (old, new)), pair in zip(pairs.items(), ends, strict=True)
    }
