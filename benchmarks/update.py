"""Updates of a model (recbole-lite update) against training anew and against no update.

    python benchmarks/update.py --dataset=ml-1m --data_path=DIR --model=ItemLM \
        --out=results/update/ml-1m.json

The interactions are cut in time. A first model is trained on the first 80%; then 5% each arrive in
four steps. In each step the newest new interaction of every user is held out, and three models are
asked for it: the first one (no update), the one updated step by step, and one trained anew on all
that is known, with the settings of the first. Intervals: bootstrap over users. Minutes are those
of this machine and include all that the command does.

Other --key=value are settings of the first model; --update="--epochs=5 --replay=0.5" those of the
updates.
"""

from __future__ import annotations

import shutil
from itertools import pairwise
from pathlib import Path
from time import perf_counter

import numpy as np
from shared import parser_of, write
from tabulate import tabulate

from recbole_lite import LiteConfig, run, update
from recbole_lite.config.saved_config import load_config
from recbole_lite.config.yaml_files import read_yaml
from recbole_lite.data.atomic_reader import read_atomic
from recbole_lite.data.atomic_writer import write_atomic
from recbole_lite.experiments.update.update import DEFAULTS, newest_interactions, ranks_of
from recbole_lite.quick_start import run_one
from recbole_lite.report.intervals import mean_intervals
from recbole_lite.report.rank_metrics import metric_values
from recbole_lite.report.run_folder import read_users
from recbole_lite.utils.paths import PROPERTIES

METRIC = "ndcg@10"
SIDES = ("no update", "updated", "anew")


def main(argv: list[str] | None = None) -> None:
    parser = parser_of(__doc__, allow_abbrev=False)
    parser.add_argument("--model", default="ItemLM")
    parser.add_argument("--config_files", default="")
    parser.add_argument("--cut", type=float, default=0.8, help="share of the first training")
    parser.add_argument("--share", type=float, default=0.05, help="share of each update")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--update", default="", help="settings of the updates, --key=value")
    parser.add_argument("--run_dir", help="finished run of the first model; train none")
    parser.add_argument("--without_anew", action="store_true", help="do not train anew")
    parser.add_argument("--scratch", default=".cache/update", help="where to write the data")
    parser.add_argument("--out", help="JSON file")
    args, overrides = parser.parse_known_args(argv)
    rows = cut_data(args)
    started = perf_counter()
    first = args.run_dir or train_first(args, overrides)
    minutes_first = (perf_counter() - started) / 60
    newest, steps = first, []
    for number, new in enumerate(rows, 1):
        shutil.rmtree(Path(args.scratch, f"{name_of(args)}-{number}"), ignore_errors=True)
        report = update(
            newest, new, name=f"{name_of(args)}-{number}", overrides=args.update.split()
        )
        newest = report["run_dir"]
        steps.append(measure(args, first, report))
        print(steps[-1], flush=True)
    figures = {"model": args.model, "metric": METRIC, "minutes_first": minutes_first}
    arguments = {**vars(args), "settings": overrides}
    write(args.out, {**figures, "arguments": arguments, "steps": steps}, render(steps))


def name_of(args) -> str:
    return f"{args.dataset}-cut"


def cut_data(args) -> list:
    """Write the first interactions as a data set; the rows of each update."""
    config = LiteConfig("Pop", args.dataset, config_dict={"data_path": args.data_path})
    source, name = Path(config["data_path"]), name_of(args)
    table = read_atomic(source / f"{args.dataset}.inter")
    frame = table.frame.sort_values("timestamp", kind="stable", ignore_index=True)
    shares = args.cut + args.share * np.arange(args.steps + 1)
    ends = (np.minimum(shares, 1) * len(frame)).astype(int)
    target = Path(args.scratch) / name
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    write_atomic(target / f"{name}.inter", table.types, frame[: ends[0]])
    item = source / f"{args.dataset}.item"
    if item.is_file():
        shutil.copy(item, target / f"{name}.item")
    frame = frame.astype({"user_id": str, "item_id": str})
    return [frame[start:end] for start, end in pairwise(ends)]


def train_first(args, overrides: list[str]) -> str:
    files = [PROPERTIES / "dataset" / f"{args.dataset}.yaml", *args.config_files.split()]
    files = [path for path in files if Path(path).is_file()]
    return run(args.model, name_of(args), files, {"data_path": args.scratch}, overrides)["run_dir"]


def measure(args, first: str, report: dict) -> dict:
    """Ranks of the same interactions by all sides."""
    settings = load_config(Path(report["run_dir"]))["settings"]
    config = LiteConfig(args.model, report["dataset"], config_dict=settings, typed=True)
    tested, _ = newest_interactions(Path(first), config)
    updated = read_users(Path(report["run_dir"]))
    ranks = {
        "no update": ranks_of(Path(first), config, tested),
        "updated": np.array([updated[user]["rank"] for user in tested.users]),
    }
    minutes = {"updated": report["minutes"]}
    if not args.without_anew:
        before = load_config(Path(first))["settings"]
        kept = {key: before[key] for key in set(read_yaml(DEFAULTS)) - {"replay"}}
        settings |= {**kept, "replay": 1.0, "init_from": None}
        started = perf_counter()
        anew = LiteConfig(args.model, report["dataset"], config_dict=settings, typed=True)
        result = run_one(anew, per_user=True)["per_user"]
        minutes["anew"] = (perf_counter() - started) / 60
        of_user = dict(zip(result["users"], result["ranks"], strict=True))
        ranks["anew"] = np.array([of_user[user] for user in tested.users])
    values = {side: metric_values(METRIC, row) for side, row in ranks.items()}
    known = tested.targets < tested.n_known
    others = [side for side in values if side != "updated"]
    ends = mean_intervals(np.array([values["updated"] - values[side] for side in others]))
    return {
        "added": report["added"],
        "tested": len(tested.users),
        "of_new_items": int((~known).sum()),
        "means": {side: float(row.mean()) for side, row in values.items()},
        "means_known_items": {side: float(row[known].mean()) for side, row in values.items()},
        "updated_less": dict(zip(others, ends.tolist(), strict=True)),
        "minutes": minutes,
    }


def render(steps: list[dict]) -> str:
    rows = []
    for number, step in enumerate(steps, 1):
        spans = [step["updated_less"].get(side) for side in ("no update", "anew")]
        rows.append(
            [
                number,
                step["tested"],
                step["of_new_items"],
                *(step["means"].get(side) for side in SIDES),
                *("-" if one is None else "{:+.4f} to {:+.4f}".format(*one) for one in spans),
                *(step["minutes"].get(side) for side in SIDES[1:]),
            ]
        )
    head = ["step", "users asked", "for new items", *(f"{METRIC} {side}" for side in SIDES)]
    head += ["updated - no update", "updated - anew", "minutes updated", "minutes anew"]
    return tabulate(
        rows,
        head,
        tablefmt="github",
        floatfmt=("", "", "", *[".4f"] * 3, "", "", ".2f", ".2f"),
        missingval="-",
    )


if __name__ == "__main__":
    main()
