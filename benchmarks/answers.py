"""What diversity costs in accuracy, and explanations in time.

    python benchmarks/answers.py --model=saved/RUN --data_path=DIR --out=results/answers/ml-100k

Diversity: lists of ten for every test user of a run, with the protocol of the run; similarity is
the mean cosine of the trained vectors over the pairs of a list, coverage the share of the catalogue
that is in some list. Explanations: `Recommender.recommend` for one user after another, without and
with `explain`, in turn; medians over the users, by the number of items that the model reads.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from shared import parser_of, write
from tabulate import tabulate

from recbole_lite import Recommender, load_data_and_model
from recbole_lite.inference.reranking import normalized

K = 10
DIVERSITIES = (0, 0.1, 0.3, 0.5, 0.7)
PAIRS = np.triu_indices(K, 1)


def main() -> None:
    parser = parser_of(__doc__, data=False)
    parser.add_argument("--model", required=True, help="folder of a finished run")
    parser.add_argument("--data_path", help="where the data set is now")
    parser.add_argument("--users", type=int, default=300, help="users with explanations")
    parser.add_argument("--out", type=Path, help="stem of a JSON file and a Markdown file")
    args = parser.parse_args()
    recommender = Recommender.load(args.model)
    users = tested(args.model, args.data_path)
    diversity = [diverse(recommender, users, weight) for weight in DIVERSITIES]
    explanations = explained(recommender, users[: args.users])
    figures = {"model": recommender.name, "diversity": diversity, "explanations": explanations}
    text = "\n\n".join(
        tabulate(rows, headers="keys", tablefmt="github", floatfmt=".4g")
        for rows in (diversity, explanations)
    )
    write(args.out and args.out.with_suffix(".json"), figures, text)


def tested(folder: str, data_path: str | None) -> list[tuple[list[int], list[int], int]]:
    """What the model reads of each test user, what the protocol excludes, and the target."""
    _, model, _, _, _, test = load_data_and_model(folder, data_path)
    found = []
    for batch, excluded, rows, targets in test:
        seen: list[list[int]] = [[] for _ in range(len(batch))]
        for row, item in zip(*(excluded or ([], [])), strict=True):
            seen[int(row)].append(int(item))
        items, lengths = batch[model.ITEM_SEQ], batch[model.ITEM_SEQ_LEN]
        for row, target in zip(rows.tolist(), targets.tolist(), strict=True):
            found.append((items[row, : lengths[row]].tolist(), seen[row], target))
    return found


def diverse(recommender: Recommender, users: list, weight: float) -> dict[str, float]:
    vectors = normalized(recommender.item_vectors())
    places, similarities, shown = [], [], set()
    started = time.perf_counter()
    for first in range(0, len(users), 256):
        histories, seen, targets = zip(*users[first : first + 256], strict=True)
        ranked = recommender.rank(histories, K, False, None, seen, weight)
        for (items, _), target in zip(ranked, targets, strict=True):
            places.append(items.index(target) if target in items else np.inf)
            listed = vectors[np.array(items) - 1]
            similarities.append((listed @ listed.T)[PAIRS].mean())
            shown.update(items)
    seconds = time.perf_counter() - started
    return {
        "diversity": weight,
        f"Recall@{K}": float(np.isfinite(places).mean()),
        f"NDCG@{K}": float((1 / np.log2(np.array(places) + 2)).mean()),
        "similarity": float(np.mean(similarities)),
        "coverage": len(shown) / len(recommender.catalogue),
        "ms / user": 1000 * seconds / len(users),
    }


def explained(recommender: Recommender, users: list) -> list[dict[str, float]]:
    recommender.warm_up(64)
    ids, times = recommender.catalogue.ids, {}
    for history, _, _ in users:
        raw = [ids[item] for item in history]
        for explain in (False, True):
            started = time.perf_counter()
            recommender.recommend([raw], K, explain=explain)
            passed = 1000 * (time.perf_counter() - started)
            times.setdefault(len(raw), ([], []))[explain].append(passed)
    return [
        {
            "items read": length,
            "users": len(without),
            "ms without": float(np.median(without)),
            "ms with": float(np.median(with_reasons)),
        }
        for length, (without, with_reasons) in sorted(times.items())
        if len(without) >= 10
    ]


if __name__ == "__main__":
    main()
