"""Every general and sequential model of RecBole: train, reload, resume; and what is refused.

    python tests/faults/every_model.py [NAME ...]

Each model must score the same after it is loaded again, and a run that is resumed after its first
epoch must end with the losses and figures of one that was not interrupted. The suite tries a few
(tests/model/test_recbole_overrides.py, tests/test_all_sequential.py).
"""

from __future__ import annotations

import argparse
import math
import os
import random
import sys
import tempfile
import time
import warnings
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS.parent), str(TESTS)]

from recbole_lite import get_trainer, load_data_and_model, run  # noqa: E402
from recbole_lite.config.registry import REFUSED, get_model, recbole_models  # noqa: E402
from recbole_lite.trainer.initial_weights import TRAIN_STAGES  # noqa: E402
from recbole_lite.utils.errors import ConfigError  # noqa: E402

N_USERS, N_ITEMS = 60, 150  # the defaults of some models want a hundred items
WITH_A_GRAPH = {"GRU4RecKG", "KSR"}
QUICK = {
    "epochs": 3,
    "pretrain_epochs": 2,
    "train_batch_size": 64,
    "MAX_ITEM_LIST_LENGTH": 10,
    "show_progress": False,
    "state": "ERROR",
    "sample_users": 0,
    "load_col": {
        "inter": ["user_id", "item_id", "rating", "timestamp"],
        "item": ["item_id", "year", "genre"],
    },
    "selected_features": ["genre"],
    "item_attribute": "genre",
}
GRAPH = {
    "load_col": {
        "inter": ["user_id", "item_id", "timestamp"],
        "kg": ["head_id", "relation_id", "tail_id"],
        "link": ["item_id", "entity_id"],
        "ent": ["ent_id", "ent_emb"],
        "rel": ["rel_id", "rel_emb"],
    },
    "additional_feat_suffix": ["ent", "rel"],
    "preload_weight": {"ent_id": "ent_emb", "rel_id": "rel_emb"},
    "alias_of_entity_id": ["ent_id"],
    "alias_of_relation_id": ["rel_id"],
}


def write_data(folder: Path, seed: int = 1) -> None:
    """Write the data set ``every`` with features and a knowledge graph."""
    rng = random.Random(seed)
    rows = []
    for user in range(N_USERS):
        start = rng.randrange(N_ITEMS)
        for step in range(rng.randint(5, 12)):
            item = (start + step * rng.choice([1, 1, 2])) % N_ITEMS
            rows.append(f"u{user}\ti{item}\t{rng.randint(1, 5)}\t{1000 * user + 60 * step}")
    rng.shuffle(rows)

    def vector():
        return " ".join(f"{rng.gauss(0, 1):.3f}" for _ in range(64))

    items = range(N_ITEMS)
    files = {
        "inter": ("user_id:token\titem_id:token\trating:float\ttimestamp:float", rows),
        "item": (
            "item_id:token\ttitle:token_seq\tyear:token\tgenre:token_seq",
            [f"i{i}\tThing {i}\t{1990 + i % 5}\tg{i % 3} g{i % 4}" for i in items],
        ),
        "kg": (
            "head_id:token\trelation_id:token\ttail_id:token",
            [f"e{i}\tr{i % 5}\te{7 * i % N_ITEMS}" for i in items],
        ),
        "link": ("item_id:token\tentity_id:token", [f"i{i}\te{i}" for i in items]),
        "ent": ("ent_id:token\tent_emb:float_seq", [f"e{i}\t{vector()}" for i in items]),
        "rel": ("rel_id:token\trel_emb:float_seq", [f"r{i}\t{vector()}" for i in range(5)]),
    }
    target = folder / "every"
    target.mkdir(parents=True)
    for suffix, (header, lines) in files.items():
        (target / f"every.{suffix}").write_text("\n".join([header, *lines]) + "\n")


def check(name: str, data_path: Path, **changes) -> None:
    """Assert that a model's figures survive a reload, and its training an interruption."""
    settings = {**QUICK, "data_path": str(data_path), **changes}
    settings |= GRAPH if name in WITH_A_GRAPH else {}
    for before, stage in zip(("", *TRAIN_STAGES.get(name, ())), TRAIN_STAGES.get(name, ())):  # noqa: B905
        if before:
            settings["pre_model_path"] = run(name, "every", config_dict=settings)["run_dir"]
        settings["train_stage"] = stage
    whole = run(name, "every", config_dict=settings)
    config, model, _, _, _, test_data = load_data_and_model(whole["run_dir"])
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    assert _equal(trainer.evaluate(test_data, load_best_model=False), whole["test_result"])
    if whole["epochs"] == 1:  # counted, not trained: nothing to resume
        return
    part = run(name, "every", config_dict={**settings, "epochs": 1})
    rest = run(name, "every", config_dict={**settings, "resume": part["run_dir"]})
    losses = [[epoch["train_loss"] for epoch in result["history"]] for result in (whole, rest)]
    assert len(losses[0]) == len(losses[1])
    assert all(map(lambda a, b: math.isclose(a, b, rel_tol=1e-5), *losses)), losses
    assert _equal(rest["test_result"], whole["test_result"])


def _equal(one, other) -> bool:
    return one.keys() == other.keys() and all(
        math.isclose(one[key], other[key], abs_tol=1e-6) for key in one
    )


def main() -> int:
    """Try all models, or those named; the exit status is 1 if one fails."""
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*")
    names = parser.parse_args().names or sorted(recbole_models())
    failures = 0
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        write_data(Path(folder, "data"))
        for name in names:
            started = time.perf_counter()
            try:
                check(name, Path(folder, "data"))
                outcome = "ok"
            except Exception as error:
                failures += 1
                outcome = f"FAILED: {type(error).__name__}: {error}"
            print(f"{name:12} {time.perf_counter() - started:6.1f} s  {outcome}", flush=True)
    for name in REFUSED:
        try:
            get_model(name)
        except ConfigError:
            continue
        failures += 1
        print(f"{name:12} is not refused")
    print(f"{len(names)} models tried, {len(REFUSED)} refused by name, {failures} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
