"""What padding costs: training and evaluation with ``cut_padding`` off and on, and the floor.

    python benchmarks/padding.py --dataset=amazon-beauty-2014 --data_path=DIR --window=50 \
        --out=results/padding

Models of two layers, d = 64 (LiteLLM4Rec with train_strategy all, SASRec, P5, POD, LightLM) and 256
(ItemLM, its defaults). The sides take turns, --repeats times --steps training steps and one
evaluation each (padded, and models that search beams: of --users users), on one thread, in CPU
time; medians. "Floor" is the time of the matrix products of an evaluation without padding, at the
rates of such products, measured in between; what an evaluation computes once is not part of it.

P5, POD and LightLM pad tokens; --tokenizer is T5's, for P5 and POD. --bucket draws the training
batches of the cut side by length (bucket_by_length).
"""

from __future__ import annotations

import statistics
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from shared import medians, parser_of, write
from tabulate import tabulate
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from recbole_lite import LiteConfig, create_dataset, data_preparation
from recbole_lite.data.loaders import HistoryMaskLoader
from recbole_lite.data.prefix_windows import TARGETS
from recbole_lite.experiments.reproduce.time_budget import TrainingSteps, clock
from recbole_lite.trainer.matmul_backend import matrix_products

T5 = {"num_layers": 2, "d_model": 64, "d_ff": 256, "num_heads": 4, "d_kv": 16}
BEAMS = {"llm_init": "scratch", "llm_config": {**T5, "num_decoder_layers": 2}}
SASREC = {"n_layers": 2, "hidden_size": 64, "inner_size": 256, "loss_type": "CE"}
COMMON = {"show_progress": False, "state": "WARNING"}
MODELS = {
    "ItemLM": {},
    "LiteLLM4Rec": {
        "item_llm": "minilm",
        "item_llm_max_length": 16,
        "rec_llm_init": "scratch",
        "rec_llm_config": T5,
    },
    "SASRec": SASREC,
    "SASRec, prefix": {**SASREC, "train_strategy": "prefix"},
    "LightLM": BEAMS,
    "P5": BEAMS,
    "POD": BEAMS,
}
SHOWN = 8  # operators of a profile


class Side:
    """A model, its training batches and the users that it is evaluated on."""

    def __init__(self, name: str, cut: bool, args):
        own = {"data_path": args.data_path, "cut_padding": cut}
        own["bucket_by_length"] = cut and args.bucket
        if name in ("P5", "POD"):
            own["tokenizer"] = args.tokenizer
        own["MAX_ITEM_LIST_LENGTH"] = args.window
        own["item_embedding_cache_dir"] = args.cache
        config = LiteConfig(
            name.split(",")[0], args.dataset, config_dict={**COMMON, **MODELS[name], **own}
        )
        dataset = create_dataset(config)
        train, _, test = data_preparation(config, dataset)
        torch.manual_seed(0)
        self.config, self.training, self.cut = config, TrainingSteps(config, train), cut
        self.model, self.trainer, self.test = self.training.model, self.training.trainer, test
        if not cut or MODELS[name] is BEAMS:  # in batches of the same size as all users
            rows = np.random.default_rng(0).permutation(len(test._dataset))[: args.users]
            part = dataset.copy(test._dataset.inter_feat[np.sort(rows)])
            self.test = HistoryMaskLoader(config, part, None)

    def train(self, steps: int) -> dict[str, float]:
        """Targets a second of some steps, and the share of padding in them."""
        self.model.train()
        targets = items = inputs = 0
        started = clock()
        with matrix_products(self.config["matmul_backend"]), self.positions() as read:
            for _ in range(steps):
                batch = next(self.training.batches)
                targets += int((batch[TARGETS] > 0).sum()) if TARGETS in batch else len(batch)
                inputs += batch["item_id_list"].numel()
                items += int(batch["item_length"].sum())
                self.training.step(batch)
        seconds = clock() - started
        slots, used = (sum(numbers) for numbers in zip(*read, strict=True)) if read else (inputs, 0)
        return {
            "targets_per_s": targets / seconds,
            "step_ms": 1000 * seconds / steps,
            "positions_per_step": slots / steps,
            "padding": 1 - (used or items) / slots,
        }

    @contextmanager
    def positions(self):
        """Positions that the language model reads in each step, and how many are no padding."""
        read: list[tuple[int, int]] = []
        reader, tokens = (getattr(self.model, name, None) for name in ("reader", "tokens"))
        if reader is not None:
            hook = reader.register_forward_pre_hook(
                lambda _, x: read.append((x[0][..., 0].numel(), 0))
            )
        elif tokens is not None:

            def counted(*arguments):
                found = tokens(*arguments)
                read.append((found[2].numel(), int(found[2].sum())))
                return found

            self.model.tokens = counted
        try:
            yield read
        finally:
            if reader is not None:
                hook.remove()
            elif tokens is not None:
                del self.model.tokens

    def evaluate(self) -> dict[str, float]:
        """Users a second of an evaluation, and its figures."""
        started = clock()
        figures = self.trainer.evaluate(self.test, load_best_model=False)
        seconds = clock() - started
        return {"users_per_s": len(self.test._dataset) / seconds, "seconds": seconds, **figures}


def floor(side: Side) -> dict[str, float]:
    """Seconds of the matrix products of an evaluation without padding."""
    windows = side.test._dataset.inter_feat
    lengths = windows.lengths()
    typical = np.flatnonzero(lengths == int(np.median(lengths)))[:256]
    batch = windows.collate(typical)
    batch.interaction["item_id_list"] = batch["item_id_list"][:, : int(np.median(lengths))]
    with side.model.fixed_items():
        side.model.full_sort_predict(batch)  # what is computed once
        with FlopCounterMode(display=False) as counter:
            scores = side.model.full_sort_predict(batch)
    size = side.model.head_weight().shape[1]
    head = 2 * len(scores) * scores.shape[1] * size
    encoder = (counter.get_total_flops() - head) / batch["item_id_list"].numel()
    operations = [encoder * lengths.sum(), head / len(scores) * len(lengths)]
    rates = [
        rate(side, 2048, size, 4 * size),  # of the encoder's products
        rate(side, 256, size, scores.shape[1]),
    ]
    seconds = sum(n / r for n, r in zip(operations, rates, strict=True))
    return {"seconds": seconds, "gflop": sum(operations) / 1e9, "gflops": [r / 1e9 for r in rates]}


def rate(side: Side, n: int, k: int, m: int) -> float:
    """Operations a second of products ``[n, k] @ [k, m]``."""
    a, b = torch.randn(n, k), torch.randn(m, k)
    times = []
    with matrix_products(side.config["matmul_backend"]):
        for _ in range(9):
            started = clock()
            for _ in range(5):
                torch.nn.functional.linear(a, b)
            times.append((clock() - started) / 5)
    return 2 * n * k * m / statistics.median(times[1:])


def shares(function, *args) -> dict[str, float]:
    """Share of the operators with the largest own time."""
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        function(*args)
    own = {event.key: event.self_cpu_time_total for event in recorded.key_averages()}
    total = sum(own.values())
    return {key: own[key] / total for key in sorted(own, key=own.get, reverse=True)[:SHOWN]}


def measure(name: str, args) -> dict:
    """Both sides of a model."""
    sides = {"padded": Side(name, False, args), "cut": Side(name, True, args)}
    sides["cut"].model.load_state_dict(sides["padded"].model.state_dict())
    trained = {key: [] for key in sides}
    tested = {key: [] for key in sides}
    floors = []
    for repeat in range(args.repeats + 1):
        for key, side in sides.items():
            train = side.train(args.steps if repeat else 2)
            test = side.evaluate() if repeat or key == "cut" else None
            if repeat:  # the first is a warm-up
                trained[key].append(train)
                tested[key].append(test)
        if hasattr(sides["cut"].model, "head_weight"):
            floors.append(floor(sides["cut"]))
    result = {
        key: {
            "training": medians(trained[key]),
            "evaluation": medians(tested[key]),
            "profile of training": shares(side.train, 4),
            "profile of evaluation": shares(side.evaluate),
        }
        for key, side in sides.items()
    }
    if floors:
        result["floor"] = min(floors, key=lambda one: one["seconds"])
    return result


def rows_of(results: dict) -> list[list]:
    rows = []
    for name, result in results.items():
        (padded, cut), least = (result[key] for key in ("padded", "cut")), result.get("floor")
        train = [side["training"]["targets_per_s"] for side in (padded, cut)]
        test = [side["evaluation"]["users_per_s"] for side in (padded, cut)]
        rows.append(
            [
                name,
                *(f"{side['training']['padding']:.0%}" for side in (padded, cut)),
                *(f"{value:,.0f}" for value in train),
                f"{train[1] / train[0]:.1f}x",
                *(f"{value:,.0f}" for value in test),
                f"{test[1] / test[0]:.1f}x",
                f"{cut['evaluation']['seconds'] / least['seconds']:.2f}x" if least else "",
            ]
        )
    return rows


HEADER = [
    "model", "padding", "cut", "targets/s", "cut", "ratio", "users/s", "cut", "ratio", "to floor",
]  # fmt: skip


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--window", type=int, default=50)
    parser.add_argument("--models", nargs="+", default=["ItemLM", "LiteLLM4Rec", "SASRec"])
    parser.add_argument("--users", type=int, default=4096)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tokenizer")
    parser.add_argument("--bucket", action="store_true")
    parser.add_argument("--cache", default=".cache/item_embeddings")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    results = {name: measure(name, args) for name in args.models}
    text = tabulate(rows_of(results), HEADER, "github", disable_numparse=True)
    models = (
        "" if "ItemLM" in args.models else "-" + "-".join(args.models).replace(", ", "-").lower()
    )
    similar = "-similar-length" * args.bucket
    path = args.out and args.out / f"{args.dataset}-{args.window}{models}{similar}.json"
    settings = {
        key: getattr(args, key) for key in ("window", "users", "steps", "repeats", "bucket")
    }
    write(path, {"dataset": args.dataset, **settings, "results": results}, text)


if __name__ == "__main__":
    main()
