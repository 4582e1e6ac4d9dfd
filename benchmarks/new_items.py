"""How well items that the model was not trained on are recommended (Recommender.add_items).

    python benchmarks/new_items.py --data_path=DIR --config_files=properties/prefix/ml-1m.yaml \
        --out=results/new_items/ml-1m.json --epochs=3

5% of the items ("new") and 10% of the users are drawn; no interaction of either is in the data
that the model is trained on. Then the new items are added by their texts, and each time that a
held-out user took a new item, after at least five others, is a question: which one was it?

Asked are the new items alone (those that the user has had left out), and the whole catalogue. The
baselines see the same questions: chance (exact); nearest text (cosine of an item's text vector and
the mean of the last 20 of the history); popularity, counted over the training users' interactions
with the new items, which no system has of a new item. For scale the same model is asked the same
way about as many trained items, with and without the new ones beside them. Intervals: bootstrap
over users.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from tabulate import tabulate

from recbole_lite import LiteConfig, Recommender, create_dataset, run
from recbole_lite.data.atomic_writer import write_atomic
from recbole_lite.inference.saved_run import catalogue_from_dataset
from recbole_lite.utils.environment import environment
from recbole_lite.utils.files import write_json
from recbole_lite.utils.paths import PROPERTIES

K = 10
LEAST_HISTORY = 5
BATCH = 256


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--dataset", default="ml-1m")
    parser.add_argument("--data_path", default="dataset")
    parser.add_argument("--config_files", default="")
    parser.add_argument("--new_share", type=float, default=0.05)
    parser.add_argument("--user_share", type=float, default=0.10)
    parser.add_argument("--draw", type=int, default=0, help="seed of what is held out")
    parser.add_argument("--run_dir", help="ask this finished run of the same draw; train nothing")
    parser.add_argument("--scratch", default=".cache/new_items", help="where to write the data")
    parser.add_argument("--out", help="JSON file")
    args, overrides = parser.parse_known_args(argv)
    files = [PROPERTIES / "dataset" / f"{args.dataset}.yaml", *args.config_files.split()]
    files = [path for path in files if Path(path).is_file()]

    whole = LiteConfig(
        "LiteLLM4Rec", args.dataset, files, {"data_path": args.data_path}, overrides=overrides
    )
    dataset = create_dataset(whole)
    store, catalogue = dataset.build()[0].inter_feat.store, catalogue_from_dataset(dataset, whole)
    users = store.columns[dataset.uid_field].numpy()
    items = store.columns[dataset.iid_field].numpy()
    rng = np.random.default_rng(args.draw)
    new = drawn(rng, dataset.item_num, args.new_share)
    asked = drawn(rng, dataset.user_num, args.user_share)

    name = f"{args.dataset}-new{args.draw}"
    train = ~new[items] & ~asked[users]
    if not args.run_dir:
        write_reduced(args, name, dataset, store, train)
        result = run("LiteLLM4Rec", name, files, {"data_path": args.scratch}, overrides)
        args.run_dir = result["run_dir"]
    recommender = Recommender.load(args.run_dir)
    # Items that only held-out users had are in neither set: they are left out of histories.
    trained = np.array([raw in recommender.catalogue.index for raw in catalogue.ids])
    recommender.add_items(
        [
            {"id": catalogue.ids[i], "title": catalogue.titles[i], "text": catalogue.texts[i]}
            for i in np.flatnonzero(new)
        ]
    )
    own = np.array([recommender.catalogue.index.get(raw, 0) for raw in catalogue.ids])
    counts = np.zeros(len(recommender.catalogue) + 1)
    np.add.at(counts, own[items[~asked[users]]], 1)  # by the recommender's ids, new items too
    sequences = [own[items[store.starts[u] : store.starts[u + 1]]] for u in np.flatnonzero(asked)]
    sequences = [row[row > 0] for row in sequences]
    known = trained & ~new
    known[0] = False
    same = np.zeros(len(own), bool)
    same[rng.choice(np.flatnonzero(known), int(new.sum()), replace=False)] = True

    helper = recommender._new_items
    added = helper.encode([catalogue.texts[i] for i in np.flatnonzero(new)])
    texts = F.normalize(torch.from_numpy(np.concatenate([helper.features, added])).float(), dim=1)
    n_trained = len(helper.features)
    report = {
        "fit": {
            "stretch": helper.calibration,
            "rows of the head, left-out R2": helper.head_ridge and helper.head_ridge.r2,
            "input vectors, left-out R2": helper.input_ridge and helper.input_ridge.r2,
        },
        "new items": questions(recommender, sequences, own[new], counts, texts, n_trained),
        "as many trained items": questions(
            recommender, sequences, own[same], counts, texts, n_trained
        ),
        "counts": {
            "trained items": int(known.sum()),
            "new items": int(new.sum()),
            "users asked": int(asked.sum()),
            "training interactions": int(train.sum()),
        },
        "trained": recommender.about["results"],
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "environment": environment(),
    }
    show(report)
    if args.out:
        write_json(args.out, report)


def drawn(rng, n: int, share: float) -> np.ndarray:
    """Mask ``[n]`` of a random share of the ids 1 ... n - 1."""
    mask = np.zeros(n, bool)
    mask[1 + rng.choice(n - 1, round(share * (n - 1)), replace=False)] = True
    return mask


def write_reduced(args, name, dataset, store, rows: np.ndarray) -> None:
    """Write the training interactions as a data set of their own, in their exact order."""
    folder = Path(args.scratch, name)
    columns = {
        field: dataset.field2id_token[field][store.columns[field].numpy()[rows]]
        for field in (dataset.uid_field, dataset.iid_field)
    }
    types = dict.fromkeys(columns, "token") | {"timestamp": "float"}
    frame = pd.DataFrame({**columns, "timestamp": store.time[rows]})
    write_atomic(folder / f"{name}.inter", types, frame)
    source = Path(dataset.dataset_path, f"{args.dataset}.item")
    shutil.copyfile(source, folder / f"{name}.item")


def questions(recommender, sequences, targets, counts, texts, n_trained) -> dict:
    """Share of questions whose answer is among the first K, by who answers and among what."""
    is_target = np.zeros(len(recommender.catalogue) + 1, bool)
    is_target[targets] = True
    asked = [
        (user, step)
        for user, row in enumerate(sequences)
        for step in np.flatnonzero(is_target[row])
        if step >= LEAST_HISTORY and row[step] not in row[:step]
    ]
    groups = {"these items": torch.from_numpy(is_target), "whole catalogue": slice(1, None)}
    if targets.max() < n_trained:
        groups["all trained items"] = slice(1, n_trained)
    popular = torch.from_numpy(counts).float()[None]
    hits: dict[str, list[np.ndarray]] = {}
    places = []
    for start in range(0, len(asked), BATCH):
        batch = asked[start : start + BATCH]
        histories = [sequences[user][:step].tolist() for user, step in batch]
        answers = torch.tensor([int(sequences[user][step]) for user, step in batch])
        profile = torch.stack([texts[history[-20:]].mean(0) for history in histories])
        scores = {
            "model": torch.from_numpy(recommender.score(histories)),
            "nearest text": profile @ texts.T,
            "popularity (unknowable)": popular.repeat(len(batch), 1),
        }
        free = scores["model"].clone()
        for row, history in enumerate(histories):
            free[row, history] = -torch.inf
        places.append((free.topk(K).indices >= n_trained).float().mean(1).numpy())
        for among, columns in groups.items():
            allowed = torch.zeros(len(batch), len(is_target), dtype=torch.bool)
            allowed[:, columns] = True
            for row, history in enumerate(histories):
                allowed[row, history] = False
            chance = (K / allowed.sum(1)).clamp(max=1).numpy()
            hits.setdefault(f"{among}: chance", []).append(chance)
            for who, values in scores.items():
                hit = hit_shares(values, allowed, answers)
                hits.setdefault(f"{among}: {who}", []).append(hit)
    users = np.array([user for user, _ in asked])
    table = {name: interval(np.concatenate(parts), users) for name, parts in hits.items()}
    return {
        "questions": len(asked),
        "users": len(set(users.tolist())),
        f"recall@{K}": table,
        "places taken by new items": float(np.concatenate(places).mean()),
    }


def hit_shares(scores, allowed, answers) -> np.ndarray:
    """Chance that the answer is among the first K, ties in random order."""
    own = scores.gather(1, answers[:, None])
    above = ((scores > own) & allowed).sum(1)
    tied = ((scores == own) & allowed).sum(1)  # the answer itself is one
    return ((K - above).clamp(min=0) / tied).clamp(max=1).numpy()


def interval(values: np.ndarray, users: np.ndarray, resamples: int = 2000) -> list[float]:
    """Mean, and the 95% interval of a bootstrap over users."""
    _, place = np.unique(users, return_inverse=True)
    sums, sizes = np.bincount(place, values), np.bincount(place)
    rng = np.random.default_rng(0)
    draws = rng.integers(0, len(sums), (resamples, len(sums)))
    means = sums[draws].sum(1) / sizes[draws].sum(1)
    return [float(values.mean()), *np.quantile(means, [0.025, 0.975]).tolist()]


def show(report: dict) -> None:
    for name in ("new items", "as many trained items"):
        asked = report[name]
        print(f"\n{name}: {asked['questions']:,} questions to {asked['users']:,} users")
        rows = [[who, *values] for who, values in asked[f"recall@{K}"].items()]
        print(tabulate(rows, headers=["", f"Recall@{K}", "95% from", "to"], floatfmt=".4f"))
        share = asked["places taken by new items"]
        print(f"of the first {K} places in the whole catalogue, new items take {share:.1%}")
    print(f"\n{report['fit']}\n{report['counts']}")


if __name__ == "__main__":
    main()
