"""A data set of 30 users and 24 items, and settings for runs of a second."""

from __future__ import annotations

import random

WORDS = ["toy", "story", "golden", "eye", "four", "rooms", "get", "shorty", "copycat"]
GENRES = ["animation", "comedy", "action", "thriller"]
N_USERS, N_ITEMS = 30, 24

# Small and quick; a test changes what it is about.
QUICK = {
    "epochs": 2,
    "train_batch_size": 64,
    "eval_batch_size": 16,
    "MAX_ITEM_LIST_LENGTH": 6,
    "learning_rate": 0.01,
    "show_progress": False,
    "state": "WARNING",
    "topk": [3, 5],
    "valid_metric": "NDCG@5",
    "n_layers": 1,
    "hidden_size": 16,
    "inner_size": 16,
    "embedding_size": 16,
    "load_col": {
        "inter": ["user_id", "item_id", "rating", "timestamp"],
        "item": ["item_id", "year", "genre"],
    },
    "selected_features": ["genre"],
    "item_attribute": "genre",
    "title_field": "title",
    "rec_llm_init": "scratch",
    "rec_llm_config": {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2},
    "user_dropout": 0.1,
}


def write_tiny(folder, seed=0, name="tiny"):
    """Data set of 30 users and 24 items; items follow one another, rows are shuffled."""
    rng = random.Random(seed)
    rows = []
    for user in range(N_USERS):
        item = rng.randrange(N_ITEMS)
        for step in range(rng.randrange(5, 14)):
            rows.append((f"u{user}", f"i{item}", rng.randrange(1, 6), 1000 * user + 7 * step))
            item = (item + rng.choice([1, 1, 1, 2, 5])) % N_ITEMS
    rng.shuffle(rows)
    target = folder / name
    target.mkdir(parents=True)
    lines = ["user_id:token\titem_id:token\trating:float\ttimestamp:float"]
    lines += ["\t".join(map(str, row)) for row in rows]
    (target / f"{name}.inter").write_text("\n".join(lines) + "\n")
    lines = ["item_id:token\ttitle:token_seq\tyear:token\tgenre:token_seq"]
    for item in range(N_ITEMS):
        title = f"{WORDS[item % 9]} {WORDS[item % 7]} {item}"
        genres = f"{GENRES[item % 4]} {GENRES[(item + 1) % 3]}"
        lines.append(f"i{item}\t{title}\t{1990 + item % 5}\t{genres}")
    (target / f"{name}.item").write_text("\n".join(lines) + "\n")
    return target
