"""Accuracy by how often an item was seen in training, which shows where text helps.

    python benchmarks/item_groups.py --dataset=ml-1m --data_path=DIR A.json B.json ...

The results are those of ``recbole-lite ablate`` or ``benchmarks/budget.py``: they hold each test
user's rank; ``NAME=A.json`` gives one a name. Items are ordered by the number of their training
interactions and cut into quartiles; a user counts in the quartile of the test item. Writes a
table, and with matplotlib a plot.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from tabulate import tabulate

from recbole_lite import LiteConfig, create_dataset, data_preparation

K = 10
GROUPS = 4


def quartiles(dataset: str, data_path: str) -> tuple[dict[str, int], list[dict]]:
    """Group of each test user (by raw id), and of each group its items and their counts."""
    settings = {"data_path": data_path, "state": "WARNING"}
    config = LiteConfig("SASRec", dataset, config_dict=settings)
    data = create_dataset(config)
    train, _, test = data_preparation(config, data)
    _, items = train._dataset.inter_feat.interactions()
    counts = np.bincount(items, minlength=data.item_num)
    order = np.argsort(counts[1:], kind="stable") + 1
    group = np.zeros(data.item_num, dtype=int)
    about = []
    for number, items in enumerate(np.array_split(order, GROUPS)):
        group[items] = number
        about.append({"items": len(items), "least": counts[items[0]], "most": counts[items[-1]]})
    rows = test._dataset.inter_feat
    users = data.id2token(data.uid_field, rows[data.uid_field].numpy())
    targets = group[rows[data.iid_field].numpy()]
    return dict(zip(map(str, users), targets.tolist(), strict=True)), about


def measure(argument: str, group_of: dict[str, int]) -> dict:
    """Recall@K of each group, and its standard error over users."""
    name, _, path = argument.rpartition("=")
    path = Path(path)
    content = json.loads(path.read_text(encoding="utf-8"))
    ranks = content["ranks"]
    if set(ranks) != set(group_of):
        raise SystemExit(f"{path}: its users are not the test users of this data set")
    found = {
        "name": name or content.get("side") or content["row"],
        "recall": [],
        "error": [],
        "users": [],
    }
    for number in range(GROUPS):
        hits = np.array([0 < r <= K for u, r in ranks.items() if group_of[u] == number], float)
        found["users"].append(len(hits))
        found["recall"].append(hits.mean())
        found["error"].append(hits.std() / np.sqrt(len(hits)))
    return found


def table(results: list[dict], about: list[dict]) -> str:
    """One line a result."""
    heads = [
        f"{group['least']:,}-{group['most']:,} times ({users:,} users)"
        for group, users in zip(about, results[0]["users"], strict=True)
    ]
    rows = [
        [r["name"], *(f"{m:.4f} ({e:.4f})" for m, e in zip(r["recall"], r["error"], strict=True))]
        for r in results
    ]
    return tabulate(rows, [f"Recall@{K} (standard error)", *heads], tablefmt="github")


def plot(results: list[dict], about: list[dict], path: Path) -> None:
    """Grouped bars with standard errors."""
    import matplotlib.pyplot as plt

    plt.rcParams |= {"axes.spines.top": False, "axes.spines.right": False, "font.size": 9}
    plt.rcParams |= {"svg.hashsalt": "recbole-lite", "svg.fonttype": "none"}
    figure, axes = plt.subplots(figsize=(9, 4))
    width = 0.8 / len(results)
    for number, result in enumerate(results):
        x = np.arange(GROUPS) + (number - (len(results) - 1) / 2) * width
        axes.bar(x, result["recall"], width, yerr=result["error"], label=result["name"])
    axes.set_xticks(range(GROUPS), [f"{g['least']:,} to {g['most']:,}" for g in about])
    axes.set_xlabel("training interactions of the test item (quartiles of the items)")
    axes.set_ylabel(f"Recall@{K}")
    axes.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", nargs="+", metavar="[NAME=]FILE")
    parser.add_argument("--dataset", default="ml-1m")
    parser.add_argument("--data_path", default="dataset")
    parser.add_argument("--out", type=Path, default=Path("results", "items"))
    args = parser.parse_args()
    group_of, about = quartiles(args.dataset, args.data_path)
    results = [measure(path, group_of) for path in args.results]
    text = table(results, about)
    args.out.mkdir(parents=True, exist_ok=True)
    stem = args.out / f"groups-{args.dataset}"
    command = " ".join(["python", *sys.argv])
    stem.with_suffix(".md").write_text(f"`{command}`\n\n{text}\n", encoding="utf-8")
    print(text)
    try:
        plot(results, about, stem.with_suffix(".svg"))
    except ImportError:
        print('no plot: pip install "recbole-lite[bench]"', file=sys.stderr)


if __name__ == "__main__":
    main()
