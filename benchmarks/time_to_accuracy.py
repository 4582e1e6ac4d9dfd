"""Time to accuracy: test Recall@10 against minutes of one core, beside other libraries.

    python benchmarks/time_to_accuracy.py --side=item-lm --minutes=60 --data_path=DIR --out=DIR
    python benchmarks/time_to_accuracy.py --plot --out=DIR

Each side trains in a run of its own and writes ``OUT/SIDE.json`` after every checkpoint. A finished
side is not run again. All sides read the same ``.inter`` file, leave each user's last two items
out, train on one thread, and are ranked by the same code (``peers.py``) over all items that the
user has not had. Minutes are processor time of the training. Evaluations are not counted, nor is
what comes before the first step (``preparation_seconds``: imports, reading data, encoding texts).

``--schedule=constant`` (one run, a figure at every checkpoint) keeps the learning rate, as the
other libraries do. ``--schedule=linear`` plans for its minutes: the learning rate falls to 0 at
their end, and only the figure at the end is reported, in ``OUT/SIDE-linear-MINUTES.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
from pathlib import Path

import numpy as np
import peers
import torch
from recbole.data.interaction import Interaction
from recbole.utils import init_seed
from shared import write

from recbole_lite.config.configurator import LiteConfig
from recbole_lite.config.registry import get_trainer
from recbole_lite.data import create_dataset, data_preparation
from recbole_lite.experiments.compare.comparison_page import chart_style
from recbole_lite.experiments.reproduce.baselines import LONGER, PREFIX, TEXT, TUNED, ModelSpec
from recbole_lite.experiments.reproduce.time_budget import portable
from recbole_lite.report import charts
from recbole_lite.report.format import grid

METRIC = f"recall@{peers.K}"
WIDTH = 760


# For a few minutes: more and smaller steps, chosen by the validation Recall@10 after 3 minutes.
SHORT = {"hidden_size": 128, "inner_size": 512, "train_batch_size": 32, "learning_rate": 0.002}
SIDES = {
    # The configuration of results/ml-1m/item_lm.
    "item-lm": ModelSpec("ItemLM, text", "ItemLM", {**TEXT, **LONGER, "lm_dropout": 0.2}),
    "item-lm-short": ModelSpec("ItemLM, text, short", "ItemLM", {**TEXT, **LONGER, **SHORT}),
    "lite-llm4rec": ModelSpec("LiteLLM4Rec, prefix", "LiteLLM4Rec", {}, PREFIX),
    "sasrec": ModelSpec("RecBole SASRec, tuned", "SASRec", TUNED),
    "sasrec-50": ModelSpec(
        "RecBole SASRec, tuned, window 50", "SASRec", {**TUNED, "MAX_ITEM_LIST_LENGTH": 50}
    ),
}
LABELS = {name: side.name for name, side in SIDES.items()}
LABELS |= {name: peer.label for name, peer in peers.PEERS.items()}
# What the stopwatch decides, and what would leave files.
COMMON = {
    "epochs": 10**6, "eval_step": 0, "lr_scheduler": "constant", "warmup_ratio": 0.0,
    "checkpoint_every": 0, "show_progress": False, "item_embedding_cache_dir": None,
}  # fmt: skip


# -- sides of this project ------------------------------------------------------------------------


def trainer_of(side: ModelSpec, args) -> peers.Train:
    """Function that trains a side under a stopwatch."""

    def train(settings, sequences, stopwatch, seed):
        places = {"data_path": args.data_path, "seed": seed}
        config = LiteConfig(
            side.model, args.dataset, side.files, config_dict={**settings, **COMMON, **places}
        )
        init_seed(config["seed"], config["reproducibility"])
        dataset = create_dataset(config)
        train_data, *_ = data_preparation(config, dataset)
        check_sequences(sequences, train_data._dataset)
        init_seed(config["seed"], config["reproducibility"])
        model = config.model_class(config, train_data._dataset).to(config["device"])
        trainer = get_trainer(config["MODEL_TYPE"], side.model)(config, model)
        trainer.disable_tensorboard()
        ids = dataset.token2id(dataset.iid_field, sequences.items)
        score = scorer(model, ids, config["MAX_ITEM_LIST_LENGTH"])
        stopwatch.train(model, score, lambda: trainer.fit(train_data, saved=False))

    return train


def scorer(model, ids: np.ndarray, window: int) -> peers.Score:
    """Scores of a model of this project or of RecBole; `ids` are its ids of the items."""
    device = next(model.parameters()).device

    def score(histories):
        recent = [history[-window:] for history in histories]
        rows = torch.zeros(len(recent), window, dtype=torch.int64)
        for row, history in zip(rows, recent, strict=True):
            row[: len(history)] = torch.from_numpy(ids[history])
        lengths = torch.tensor([len(history) for history in recent])
        batch = Interaction({model.ITEM_SEQ: rows, model.ITEM_SEQ_LEN: lengths})
        return model.full_sort_predict(batch.to(device))[:, ids].numpy(force=True)

    return score


def check_sequences(sequences: peers.Sequences, dataset) -> None:
    """Stop unless the data set has the same sequences as the other sides read."""
    store = dataset.inter_feat.store
    items = store.columns[dataset.iid_field].numpy()
    users = dataset.token2id(dataset.uid_field, sequences.users)
    ids = dataset.token2id(dataset.iid_field, sequences.items)
    for user, sequence in zip(users, sequences.of_user, strict=True):
        if not np.array_equal(items[store.starts[user] : store.starts[user + 1]], ids[sequence]):
            name = dataset.id2token(dataset.uid_field, user)
            raise SystemExit(f"user {name}: recbole-lite reads another sequence than the peers")


# -- running --------------------------------------------------------------------------------------


def finished(path: Path, minutes: float) -> bool:
    """Whether a file has all points of a run of so many minutes."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return found["finished"] and found["minutes"] >= minutes


def run_own(args, path: Path) -> None:
    side = SIDES[args.side]
    files = [portable(file) for file in side.files]
    description = {"side": args.side, "label": side.name, "model": side.model}
    description |= {"config_files": files, "settings": side.settings}
    peers.run_side(args, description, trainer_of(side, args), lambda found: write(path, found))


def run_peer(args, path: Path) -> None:
    """Run a side in the environment of its library."""
    library = peers.PEERS[args.side].packages[0].partition("-")[0]
    python = getattr(args, f"{library}_python")
    if python is None:
        raise SystemExit(f"--side={args.side} needs --{library}_python=PATH, see docs/reproduce.md")
    names = ("side", "dataset", "data_path", "minutes", "schedule", "seed", "set")
    words = [f"--{name}={getattr(args, name)}" for name in names]
    # -P: the other scripts of this folder must not hide a library's modules.
    command = [python, "-P", str(Path(peers.__file__).resolve()), *words, f"--json={path}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONPATH", None)
    if ended := subprocess.run(command, env=environment, check=False).returncode:
        raise SystemExit(ended)


# -- table and chart ------------------------------------------------------------------------------


def best_so_far(points: list[dict]) -> list[dict]:
    """For each point the one with the best validation up to it."""
    best: list[dict] = []
    for point in points:
        better = not best or point["valid"][METRIC] > best[-1]["valid"][METRIC]
        best.append(point if better else best[-1])
    return best


def lines_of(runs: list[dict]) -> dict[str, dict[float, float]]:
    """Name of a line -> minutes -> test Recall of the model that validation chooses.

    A run with a constant learning rate is a line. Runs that were planned for their minutes are a
    point each, and together a line of their side.
    """
    lines: dict[str, dict[float, float]] = {}
    for run in runs:
        planned = run["schedule"] != "constant"
        line = lines.setdefault(run["label"] + ", planned" * planned, {})
        for point, best in zip(run["points"], best_so_far(run["points"]), strict=True):
            line[point["checkpoint"]] = best["test"][METRIC]
    return lines


def table_of(runs: list[dict]) -> str:
    """Test Recall of each line after so many minutes."""
    lines = lines_of(runs)
    minutes = sorted({minute for line in lines.values() for minute in line})
    rows = [
        [name, *(f"{line[m]:.4f}" if m in line else "" for m in minutes)]
        for name, line in lines.items()
    ]
    return grid(rows, ["test R@10 after minutes", *(f"{m:g}" for m in minutes)])


def preparation_of(runs: list[dict]) -> str:
    """Steps of each run, and the time before its first step."""
    rows = [
        [
            run["label"], run["schedule"], f"{run['points'][-1]['minutes']:.0f}",
            str(run["points"][-1]["steps"]), f"{run['preparation_seconds']:.0f}",
        ]
        for run in runs
    ]  # fmt: skip
    return grid(rows, ["side", "learning rate", "minutes", "steps", "preparation, s"], text=(0, 1))


def verdict(runs: list[dict]) -> str:
    """When each side of this project reaches what the best peer reaches in all its time."""
    own = {run["label"] for run in runs if run["model"] in ("ItemLM", "LiteLLM4Rec")}
    lines = lines_of(runs)
    others = {n: line for n, line in lines.items() if n.removesuffix(", planned") not in own}
    if not others or len(others) == len(lines):
        return ""
    peer, line = max(others.items(), key=lambda other: other[1][max(other[1])])
    last = max(line)
    found = [f"Best peer: {peer}, {line[last]:.4f} after {last:g} minutes."]
    for name in (name for name in lines if name not in others):
        reached = [m for m, value in sorted(lines[name].items()) if value >= line[last]]
        when = f"first at {reached[0]:g} minutes" if reached else "not reached"
        found.append(f"{name}: {when}.")
    return "\n".join(f"- {line}" for line in found)


def chart_of(runs: list[dict]) -> str:
    """SVG of test Recall against minutes."""
    lines = lines_of(runs)
    if len(lines) > charts.COLOURS:
        raise SystemExit(
            f"{len(lines)} lines; a chart has {charts.COLOURS} at most: choose with --sides=a,b"
        )
    series = [charts.Series(name, sorted(line.items())) for name, line in lines.items()]
    title, label = f"Test {METRIC} by minutes of training", "minutes of training, one core"
    return str(charts.line_chart(title, series, label, width=WIDTH, style=chart_style())) + "\n"


def plot(args) -> None:
    """Write the table and the chart of all runs in a folder."""
    paths = sorted(args.out.glob("*.json"))
    runs = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    runs = [{"model": None, **run} for run in runs if run["side"] in LABELS]
    runs.sort(key=lambda run: (list(LABELS).index(run["side"]), run["schedule"], run["minutes"]))
    if not runs:
        raise SystemExit(f"{args.out}: no results; run a side first (--side)")
    parts = (table_of(runs), verdict(runs), preparation_of(runs))
    text = "\n\n".join(part for part in parts if part)
    print(text)
    (args.out / "time_to_accuracy.md").write_text(text + "\n", encoding="utf-8")
    drawn = [run for run in runs if not args.sides or run["side"] in args.sides.split(",")]
    (args.out / "time_to_accuracy.svg").write_text(chart_of(drawn), encoding="utf-8")


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = peers.common_options(argparse.ArgumentParser(description=__doc__.splitlines()[0]))
    parser.add_argument("--side", choices=LABELS)
    parser.add_argument("--out", type=Path, default=Path("results/time"))
    parser.add_argument("--rectools_python", help="Python of an environment with rectools[torch]")
    parser.add_argument("--replay_python", help="Python of an environment with replay-rec[torch]")
    parser.add_argument("--plot", action="store_true", help="table and chart of the files in OUT")
    parser.add_argument("--sides", default="", help="with --plot: sides on the chart, a,b,c")
    args = parser.parse_args(words)
    if not args.plot and args.side is None:
        parser.error("--side=NAME or --plot")
    return args


def main() -> None:
    args = arguments()
    if args.plot:
        plot(args)
        return
    planned = "" if args.schedule == "constant" else f"-{args.schedule}-{args.minutes:g}"
    path = args.out / f"{args.side}{planned}.json"
    if finished(path, args.minutes):
        print(f"{path} is finished; remove it to run the side again")
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    (run_own if args.side in SIDES else run_peer)(args, path)


if __name__ == "__main__":
    main()
