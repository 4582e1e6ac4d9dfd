"""Serving LITE-LLM4Rec: latency, users a second, memory, and how near the hardware's floor.

    python benchmarks/inference.py --dataset=ml-1m --data_path=DIR --lengths_from=amazon-games \
        --threads=1 --out=results/inference

From ids of a batch (histories and what each user has seen, as padded tensors) to the top items
that were not seen. The engines take turns in one process, after a warm-up: p50 and p95 by the wall
clock, and of the processor's time, which tells more where a machine is shared (with one thread the
two are the same on an idle one).

    plain            Hugging Face's encoder, mean, linear layer, mask, topk
    onnx             the exported graph in onnxruntime, float32: what a Recommender takes on a CPU
    onnx int8        the same after dynamic quantisation
    SASRec           RecBole's full_sort_predict, mask, topk

Without --model the Recommendation LLM is of T5-small's size (the paper's) with random weights; with
--model=RUN_FOLDER it is a trained run's. Whether the exported graphs recommend the same, and what
int8 costs in accuracy, is what ``recbole-lite export --int8`` measures.

"full": every history as long as the model reads. "mixed": the same users, cut to lengths drawn
from the test users of the data set --lengths_from. The floor is floating-point operations over the
best rate of a float32 matrix product and bytes of weights over the speed of reading memory,
whichever is longer, measured in the same process; padding does not count.
"""

from __future__ import annotations

import gc
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from shared import in_child, parser_of, write
from tabulate import tabulate
from torch.nn.utils.rnn import pad_sequence

from recbole_lite import (
    LiteConfig,
    create_dataset,
    data_preparation,
    load_data_and_model,
)
from recbole_lite.experiments.reproduce.efficiency import last_items
from recbole_lite.inference.onnx_export import INT8_FILE, MODEL_FILE, export_onnx
from recbole_lite.inference.onnx_runtime import OnnxRuntime
from recbole_lite.inference.quantize import quantize
from recbole_lite.trainer.matmul_backend import matrix_products

TOP = 10
PLAIN, ONNX, INT8, SASREC = "plain", "onnx", "onnx int8", "SASRec"
EXPORT = "export"
REPEATS = {1: 200, 32: 40, 256: 8}
QUICK = {"show_progress": False, "state": "WARNING"}


class Users:
    """Histories of the test users, whole and as long as a model reads."""

    def __init__(self, model, test_data, lengths: np.ndarray | None, seed: int = 2020):
        rng = np.random.default_rng(seed)
        windows = test_data._dataset
        rows = torch.arange(len(windows.inter_feat))
        batch, (owner, items), *_ = test_data.collate_fn(rows)
        self.histories = batch[model.ITEM_SEQ].cpu()  # [U, L]
        self.counts = batch[model.ITEM_SEQ_LEN].cpu()
        sizes = torch.bincount(owner, minlength=len(rows)).tolist()
        self.seen = pad_sequence(items.split(sizes), batch_first=True)
        self.order = torch.from_numpy(rng.permutation(len(rows)))
        longest = self.histories.shape[1]
        full = self.order[self.counts[self.order] == longest]
        self.kinds = {"full": (full, None)}
        if lengths is not None:
            drawn = rng.choice(np.minimum(lengths, longest), len(rows))
            self.kinds["mixed"] = (self.order, torch.from_numpy(drawn))

    def batch(self, kind: str, number: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The `number`-th batch: ids ``[size, L]`` and ids seen ``[size, S]``."""
        order, lengths = self.kinds[kind]
        rows = order[torch.arange(number * size, (number + 1) * size) % len(order)]
        items, counts = self.histories[rows], self.counts[rows]
        if lengths is not None:  # the last ones
            items, counts = last_items(items, counts, lengths[rows])
        seen = self.seen[rows]
        return items[:, : counts.max()].contiguous(), seen[:, : (seen != 0).sum(1).max()]


# -- engines --------------------------------------------------------------------------------------


def plain(model, device) -> Callable:
    """What one writes with Hugging Face's encoder alone; the item vectors are at hand."""
    encoder, adapter = model.rec_llm.encoder, model.item_tower.adapter
    ids = torch.arange(model.n_items, device=device)
    with torch.no_grad():
        vectors = model.item_tower._add_missing(model.item_tower.vectors, ids).clone()

    def recommend(items, seen):
        mask = items != 0
        hidden = encoder(
            inputs_embeds=adapter(F.embedding(items, vectors)), attention_mask=mask.long()
        ).last_hidden_state
        if model.pooling.kind == "mean":
            weights = mask[..., None].float()
            users = (hidden * weights).sum(1) / weights.sum(1)
        else:
            users = model.pooling(hidden, mask)
        scores = F.pad(F.linear(users, model.head_weight()), (1, 0), value=-torch.inf)
        scores.scatter_(1, seen, -torch.inf)
        return scores.topk(TOP).indices

    return recommend


def sasrec(args) -> Callable:
    """RecBole's SASRec (its own sizes, random weights) on the same data."""
    settings = {**QUICK, "data_path": args.data_path, "train_strategy": "all", "loss_type": "CE"}
    settings["use_gpu"] = args.device == "cuda"
    config = LiteConfig("SASRec", args.dataset, config_dict=settings)
    train, *_ = data_preparation(config, create_dataset(config))
    model = config.model_class(config, train._dataset).to(args.device).eval()
    longest = model.max_seq_length

    def recommend(items, seen):
        length = (items != 0).sum(1)
        items = F.pad(items, (0, longest - items.shape[1]))
        scores = model.full_sort_predict({model.ITEM_SEQ: items, model.ITEM_SEQ_LEN: length})
        scores[:, 0] = -torch.inf
        scores.scatter_(1, seen, -torch.inf)
        return scores.topk(TOP).indices

    return recommend


def build(name: str, model, folder: Path, args) -> Callable:
    """Engine of that name: (items, seen) -> ids."""
    if name == PLAIN:
        return plain(model, args.device)
    if name == SASREC:
        return sasrec(args)
    onnx = OnnxRuntime(folder / (INT8_FILE if name == INT8 else MODEL_FILE), args.threads)
    return lambda items, seen: torch.from_numpy(onnx.rank(items.numpy(), TOP, seen.numpy())[0])


def export(model, folder: Path) -> None:
    """Write both ONNX files."""
    items = [(str(number), str(number)) for number in range(1, model.n_items)]
    quantize(export_onnx(model, items, folder))


def names_of(args) -> list[str]:
    """Sides that run on the device."""
    on_cpu = [ONNX, INT8] if args.device == "cpu" else []
    return [PLAIN, *on_cpu, SASREC]


def load(args):
    """Model and test loader: a run's, or of the paper's size with random weights."""
    if args.model:
        _, model, *_, test = load_data_and_model(args.model, args.data_path)
        return model.to(args.device).eval(), test
    settings = {
        **QUICK, "data_path": args.data_path, "item_llm": "minilm", "rec_llm_init": "scratch",
        "use_gpu": args.device == "cuda",
    }  # fmt: skip
    config = LiteConfig("LiteLLM4Rec", args.dataset, config_dict=settings)
    train, _, test = data_preparation(config, create_dataset(config))
    torch.manual_seed(2020)
    return config.model_class(config, train._dataset).to(args.device).eval(), test


def lengths_of(args) -> np.ndarray | None:
    """Lengths of the histories of another data set's test users."""
    if not args.lengths_from:
        return None
    settings = {**QUICK, "data_path": args.data_path, "eval_batch_size": 10**6}
    config = LiteConfig("Pop", args.lengths_from, config_dict=settings)
    *_, test = data_preparation(config, create_dataset(config))
    count = len(test._dataset)
    owner, _ = test.collate_fn(torch.arange(count))[1]
    return np.maximum(np.bincount(owner.numpy(), minlength=count), 1)


# -- measuring ----------------------------------------------------------------------------------


def clock(call: Callable, device: str) -> tuple[float, float]:
    """Seconds of a call, with what a GPU has still to do: by the wall clock, of the processor."""
    started, worked = time.perf_counter(), time.process_time()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started, time.process_time() - worked


def time_engines(engines: dict, users: Users, kind: str, size: int, args) -> dict[str, dict]:
    """Times of each engine, in turns; every turn is another batch."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in engines}
    repeats = max(3, round(REPEATS[size] * args.effort))
    for number in range(-2, repeats):  # two warm-ups
        items, seen = (ids.to(args.device) for ids in users.batch(kind, max(number, 0), size))
        for name, engine in engines.items():
            took = clock(lambda engine=engine, a=items, b=seen: engine(a, b), args.device)
            if number >= 0:
                times[name].append(took)
    return {name: summary(values, size) for name, values in times.items()}


def summary(values: list[tuple[float, float]], size: int) -> dict[str, float]:
    """Milliseconds of a batch, by both clocks; users a second, by the median of the wall's."""
    wall, cpu = (1000 * np.array(column) for column in zip(*values, strict=True))
    p50 = float(np.median(wall))
    return {
        "p50": p50,
        "p95": float(np.percentile(wall, 95)),
        "least": float(wall.min()),
        "most": float(wall.max()),
        "cpu_p50": float(np.median(cpu)),
        "cpu_p95": float(np.percentile(cpu, 95)),
        "cpu_least": float(cpu.min()),
        "users_per_s": 1000 * size / p50,
    }


def hardware(device: str) -> dict[str, float]:
    """Rate of matrix products and speed of reading memory: the best that was seen."""
    shapes = [(2048, 2048, 2048), (640, 512, 2048)] if device == "cpu" else [(8192, 8192, 8192)]
    rate = 0.0
    for rows, inner, columns in shapes:
        x, matrix = torch.randn(rows, inner, device=device), torch.randn(inner, columns).to(device)
        for kind in ("torch", "onednn"):
            with matrix_products(kind, device):
                took = least(lambda x=x, matrix=matrix: x @ matrix, device, 8)
            rate = max(rate, 2e-9 * rows * inner * columns / took)
    memory = torch.ones(2**27, device=device)  # 512 MiB: no cache holds it
    read = least(memory.sum, device, 8)
    return {
        "float32_gflops": rate,
        "read_gb_per_s": 4e-9 * memory.numel() / read,
    }


def least(call: Callable, device: str, repeats: int) -> float:
    """Seconds of the fastest of some calls: of the processor's work, or on a GPU by the wall."""
    call()
    return min(clock(call, device)[device == "cpu"] for _ in range(repeats))


def floor(model, users: Users, kind: str, size: int, speed: dict) -> dict[str, float]:
    """Least milliseconds for a batch: its operations, and its weights read once."""
    encoder = model.reader.encoder
    matrices = [p for p in encoder.parameters() if p.dim() == 2 and min(p.shape) >= 64]
    weights, layers = sum(p.numel() for p in matrices), encoder.config.num_hidden_layers
    head, width = model.head_weight(), model.reader.hidden_size
    operations = []
    for number in range(8):
        items, _ = users.batch(kind, number, size)
        counts = (items != 0).sum(1).double()
        attention = 4 * width * layers * float((counts**2).sum())
        operations.append(2 * weights * float(counts.sum()) + attention + 2 * size * head.numel())
    gflop = 1e-9 * statistics.mean(operations)
    megabytes = 4e-6 * (weights + head.numel())
    compute = 1000 * gflop / speed["float32_gflops"]
    memory = megabytes / speed["read_gb_per_s"]
    return {
        "gflop": gflop,
        "weights_mb": megabytes,
        "compute_ms": compute,
        "memory_ms": memory,
        "floor_ms": max(compute, memory),
    }


# -- memory -------------------------------------------------------------------------------------


def memory(engines: list[str], args) -> dict[str, dict[str, float]]:
    """Memory of each engine, built and used in a process of its own (a fork of this one).

    Called before anything is built here, so that a child's memory is its own.
    """
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in [EXPORT, *engines]:
            found[name] = in_child(_measure_memory, name, folder, args, method="fork")
    del found[EXPORT]
    return found


def _measure_memory(name: str, folder: str, args) -> dict[str, float]:
    """In the child: resident memory once built, its peak while 256 users are answered."""
    imported = _status("VmRSS")
    model, test = load(args)
    if name == EXPORT:
        export(model, Path(folder))
        return {}
    items, seen = Users(model, test, None).batch("full", 0, 256)
    with torch.no_grad():
        engine = build(name, model, Path(folder), args)
    if name != PLAIN:
        del model
    del test
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    built = _status("VmRSS")
    with torch.inference_mode():
        for _ in range(2):
            engine(items, seen)
    return {"imported_mib": imported, "built_mib": built, "peak_mib": _status("VmHWM")}


def _status(field: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    raise KeyError(field)


# -- output -------------------------------------------------------------------------------------


def markdown(result: dict) -> str:
    """Tables of a result."""
    text = []
    clock_ = "cpu_p50" if result["one_thread"] else "p50"
    for kind, sizes in result["times"].items():
        for size, engines in sizes.items():
            least = result["floor"][kind][size]["floor_ms"]
            base = engines[PLAIN]
            rows = [
                [
                    name,
                    f"{t['p50']:.2f}",
                    f"{t['p95']:.2f}",
                    f"{t['users_per_s']:,.0f}",
                    f"{base['p50'] / t['p50']:.2f}x",
                    f"{t['cpu_p50']:.2f}",
                    f"{t['cpu_p95']:.2f}",
                    f"{base['cpu_p50'] / t['cpu_p50']:.2f}x",
                    "" if name == SASREC else f"{t[clock_] / least:.2f}x",
                ]
                for name, t in engines.items()
            ]
            head = [f"{kind}, batch {size}", "p50 ms", "p95 ms", "users/s", "speed-up"]
            head += ["CPU p50 ms", "CPU p95 ms", "speed-up", "of the floor"]
            text.append(_table(rows, head))
    rows = [
        [kind, size, f"{f['gflop']:.3f}", f"{f['compute_ms']:.2f}", f"{f['memory_ms']:.2f}"]
        for kind, sizes in result["floor"].items()
        for size, f in sizes.items()
    ]
    text.append(_table(rows, ["float32 floor", "batch", "GFLOP", "compute ms", "memory ms"]))
    if result["memory"]:
        text.append(memory_table(result["memory"]))
    return "\n\n".join(text)


def memory_table(used: dict[str, dict[str, float]]) -> str:
    """Table of what :func:`memory` found."""
    rows = [
        [name, *(f"{m[key] - m['imported_mib']:,.0f}" for key in ("built_mib", "peak_mib"))]
        for name, m in used.items()
    ]
    return _table(rows, ["MiB beside the imports", "once built", "peak, batch 256"])


def _table(rows, head) -> str:
    return tabulate(rows, head, tablefmt="github", disable_numparse=True)


@torch.inference_mode()
def measure(args, folder: Path) -> dict:
    """All figures."""
    model, test = load(args)
    users = Users(model, test, lengths_of(args))
    if args.device == "cpu":
        with torch.inference_mode(False):
            export(model, folder)
    engines = {name: build(name, model, folder, args) for name in names_of(args)}
    speeds = [hardware(args.device)]
    sizes = [int(size) for size in args.batches.split(",")]
    times = {
        kind: {size: time_engines(engines, users, kind, size, args) for size in sizes}
        for kind in users.kinds
    }
    speeds.append(hardware(args.device))
    # The better of before and after: the floor must not profit from a busy machine.
    speed = {key: max(s[key] for s in speeds) for key in speeds[0]}
    return {
        "hardware": speed,
        "one_thread": args.device == "cpu" and args.threads == 1,
        "load": [round(value, 1) for value in os.getloadavg()],
        "parameters": sum(p.numel() for p in model.parameters()),
        "users": {
            kind: {"users": len(order), "mean_length": _mean_length(users, kind)}
            for kind, (order, _) in users.kinds.items()
        },
        "share_of_test_users_with_full_histories": len(users.kinds["full"][0]) / len(users.order),
        "times": times,
        "floor": {
            kind: {size: floor(model, users, kind, size, speed) for size in sizes}
            for kind in users.kinds
        },
    }


def _mean_length(users: Users, kind: str) -> float:
    items, _ = users.batch(kind, 0, len(users.kinds[kind][0]))
    return float((items != 0).sum(1).double().mean())


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--model", help="folder of a trained LiteLLM4Rec")
    parser.add_argument("--lengths_from", help="data set whose lengths make the mixed histories")
    parser.add_argument("--batches", default="1,32,256")
    parser.add_argument("--effort", type=float, default=1.0, help="factor on the repeats")
    parser.add_argument("--no_memory", action="store_true")
    parser.add_argument("--memory_alone", action="store_true", help="no times: <name>-memory.*")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--name", default="t5-small", help="stem of the files in --out")
    parser.add_argument("--out", type=Path, help="folder for <name>.json and <name>.md")
    args = parser.parse_args()
    if args.memory_alone and (args.no_memory or args.device != "cpu"):
        parser.error("--memory_alone goes neither with --no_memory nor with --device=cuda")
    torch.set_num_threads(args.threads)
    # First of all: what is built here would count as the children's.
    used = memory(names_of(args), args) if args.device == "cpu" and not args.no_memory else {}
    if args.memory_alone:
        path = args.out and args.out / f"{args.name}-memory.json"
        write(path, {"memory": used}, memory_table(used))
        return
    with tempfile.TemporaryDirectory() as folder:
        result = {**measure(args, Path(folder)), "memory": used}
    write(args.out and args.out / f"{args.name}.json", result, markdown(result))


if __name__ == "__main__":
    main()
