"""What a GPU makes of training, evaluation and serving, in one call of minutes.

    sh benchmarks/gpu.sh DATA_PATH T5_TOKENIZER ITEM_EMBEDDINGS OUT [--parts=smoke,step ...]

    smoke     every kind of model: losses and scores on the GPU equal those on the CPU; what
              bfloat16 changes; what makes the host wait in a training step. A difference ends
              the call
    tests     tests/device, on the GPU
    step      milliseconds of a training step and of an evaluation, beside the floor:
              floating-point operations over the measured rate of matrix products
    latency   a batch of 32 histories to its top 10, by Python's launches and by a CUDA graph; P5
              and POD with 20 beams at equal size, as they run here and by stock ``generate``
    compile   whether torch.compile makes a training step shorter (the key ``compile``)
    item_lm   ItemLM on ml-1m: Recall@10 and NDCG@10 that --seconds of training reach
    paper     LiteLLM4Rec as the paper has it, for the time that is left

Each part runs in a process of its own, which is ended when its time is up. OUT/gpu.json is written
anew after every figure, so that a call that is cut off leaves what it had. --tiny runs all of it on
the CPU with small models: a check that nothing fails for a silly reason.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from recbole.utils import init_seed
from tabulate import tabulate
from torch.utils.flop_counter import FlopCounterMode

from recbole_lite import LiteConfig, create_dataset, data_preparation
from recbole_lite.data.device_transfer import batch_to_device
from recbole_lite.experiments.reproduce import efficiency
from recbole_lite.experiments.reproduce.time_budget import TrainingSteps
from recbole_lite.inference.torch_runtime import TorchRuntime
from recbole_lite.quick_start import run_one
from recbole_lite.trainer.compilation import compile_reader
from recbole_lite.trainer.matmul_backend import matrix_products, mixed_precision
from recbole_lite.trainer.training_loop import TrainingLoop
from recbole_lite.utils.environment import environment
from recbole_lite.utils.files import to_plain, write_json
from recbole_lite.utils.paths import PROPERTIES

LIMITS = {"smoke": 90, "tests": 80, "step": 130, "latency": 110, "item_lm": 205, "compile": 120,
          "paper": 90}  # fmt: skip
ENDS_ALL = ("smoke",)  # parts without which the others are worth nothing
LEAST = 25  # seconds without which a part is not begun

STILL = dict.fromkeys(
    ("user_dropout", "item_dropout", "rec_llm_dropout", "lm_dropout", "llm_dropout",
     "hidden_dropout_prob", "attn_dropout_prob"), 0.0,
)  # fmt: skip
SCRATCH = {"item_llm": "minilm", "rec_llm_init": "scratch", "llm_init": "scratch"}
T5_SMALL = {"train_strategy": "all", "eval_batch_size": 2048}  # the paper's model, its sizes
PREFIX = [PROPERTIES / "prefix" / "ml-1m-t5-small.yaml"]
ITEM_LM = {  # results/ml-1m/item_lm
    "item_init": "text", "MAX_ITEM_LIST_LENGTH": 50, "train_batch_size": 64, "epochs": 14,
    "lm_dropout": 0.2, "eval_batch_size": 2048,
}  # fmt: skip
WIDER = {**ITEM_LM, "MAX_ITEM_LIST_LENGTH": 200, "lm_dropout": 0.3, "epochs": 40}
SASREC = {"train_strategy": "all", "loss_type": "CE", "learner": "adamw", "eval_batch_size": 2048}
# name -> (model, files, settings)
KINDS = {
    "LiteLLM4Rec": ("LiteLLM4Rec", [], T5_SMALL),
    "LiteLLM4Rec, prefix": ("LiteLLM4Rec", PREFIX, {"eval_batch_size": 2048}),
    "ItemLM": ("ItemLM", [], ITEM_LM),
    "P5": ("P5", [], {}),
    "POD": ("POD", [], {}),
    "LightLM": ("LightLM", [], {}),
    "SASRec": ("SASRec", [], SASREC),
}
SMALL = {
    "rec_llm_config": {"num_layers": 2},
    "llm_config": {"num_layers": 2, "num_decoder_layers": 2},
}
TINY = {
    "rec_llm_config": {"num_layers": 1, "d_model": 16, "d_ff": 16, "num_heads": 2, "d_kv": 8},
    "llm_config": {"num_layers": 1, "num_decoder_layers": 1, "d_model": 16, "d_ff": 16,
                   "num_heads": 2, "d_kv": 8},
    "hidden_size": 16, "inner_size": 16, "n_heads": 2, "n_layers": 1,
}  # fmt: skip
PRECISIONS = ("float32", "tf32", "bfloat16")


class Part:
    """A part's arguments, its clock, and its place in the file."""

    def __init__(self, name: str, args, limit: float):
        self.name, self.args, self.tiny = name, args, args.tiny
        self.ends = time.perf_counter() + limit
        self.device = torch.device("cpu" if args.tiny else "cuda")

    @property
    def left(self) -> float:
        """Seconds until the part is ended."""
        return self.ends - time.perf_counter()

    def record(self, **figures) -> None:
        """Add figures to the part's and write the file anew."""
        update(self.args.out, lambda parts: parts.setdefault(self.name, {}).update(figures))
        print(f"[{self.name}] {json.dumps(figures)[:400]}", flush=True)

    def config(self, kind: str, precision: str = "float32", **changes) -> LiteConfig:
        """Settings of a kind of model on this device."""
        model, files, settings = KINDS[kind]
        settings = {
            **SCRATCH, **settings, "data_path": str(self.args.data_path), "show_progress": False,
            "tokenizer": str(self.args.tokenizer), "state": "WARNING", "use_gpu": not self.tiny,
            "item_embedding_cache_dir": str(self.args.item_embeddings), "local_files_only": True,
            "checkpoint_every": 0,
            **amp(precision), **changes,
        }  # fmt: skip
        if self.tiny:
            settings |= TINY | {"train_batch_size": 16}
        return LiteConfig(model, self.args.dataset, files, config_dict=settings)


def amp(precision: str) -> dict[str, Any]:
    """Settings of a precision."""
    return {
        "enable_amp": precision == "bfloat16",
        "matmul_backend": "tf32" if precision == "tf32" else "auto",
    }


def update(out: Path, change: Callable[[dict], None]) -> None:
    """Change the parts in OUT/gpu.json; the file is whole at any time."""
    path = out / "gpu.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content["parts"])
    write_json(path, content)


class Training(TrainingSteps):
    """A model in training on the data set, with its loaders: those of `like`, if there is one."""

    def __init__(self, config: LiteConfig, like: Training | None = None):
        self.loaders = like.loaders if like else data_preparation(config, create_dataset(config))
        self.train, self.valid, self.test = self.loaders
        init_seed(config["seed"], True)
        super().__init__(config, self.train)

    def steps(self, count: int) -> float:
        """Seconds of a step: the mean over so many, batches and the wait at the end included."""

        def work():
            with self.trainer._products():
                TrainingLoop._train_epoch(self.trainer, itertools.islice(self.batches, count), 0)

        return timed(work, self.device) / count

    def loss(self, batch) -> torch.Tensor:
        """Loss of a batch, with its gradients in the parameters."""
        self.model.train()
        self.optimizer.zero_grad()
        with mixed_precision(self.device, self.config["enable_amp"]):
            loss = self.model.calculate_loss(batch_to_device(batch, self.device))
        loss.backward()
        return loss

    def evaluation(self) -> float:
        """Seconds of an evaluation of all users of the validation split."""
        return timed(lambda: self.trainer.evaluate(self.valid, load_best_model=False), self.device)


def timed(call: Callable, device: torch.device) -> float:
    """Seconds of a call with what the GPU has to do for it."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return efficiency.seconds(call, device)


# -- smoke and tests ----------------------------------------------------------------------------


def smoke(part: Part) -> None:
    """Compare every kind of model with itself on the CPU; raise over the first difference."""
    for kind in KINDS:
        small = STILL | SMALL | {"train_batch_size": 32}
        there = Training(part.config(kind, **small))
        here = Training(part.config(kind, **small, use_gpu=False), there)
        half = Training(part.config(kind, "bfloat16", **small), there)
        for other in (here, half):
            other.model.load_state_dict(there.model.state_dict())
        found = {"scores": difference(scores(there), scores(here))}
        found["bfloat16 scores"] = difference(scores(half), scores(here))
        batches = list(itertools.islice(here.batches, 3))
        for side, name in ((there, "losses"), (half, "bfloat16 losses")):
            found[name] = losses(side, batches)
        expected = losses(here, batches)
        for name in ("losses", "bfloat16 losses"):
            found[name] = max(abs(a / b - 1) for a, b in zip(found[name], expected, strict=True))
        found["waits in 2 steps"] = waits(half, batches[:2])
        part.record(**{kind: found})
        for name, most in (("scores", 2e-3), ("losses", 2e-3), ("bfloat16 losses", 0.1)):
            if not found[name] <= most:
                raise SystemExit(f"{kind}: {name} differ from the CPU's by {found[name]:.1e}")


def losses(side: Training, batches: list) -> list[float]:
    """Losses of training steps; each kind's draws begin with one seed."""
    init_seed(2020, True)
    found = []
    for batch in batches:
        found.append(side.loss(batch).item())
        side.optimizer.step()
    return found


@torch.no_grad()
def scores(side: Training) -> torch.Tensor:
    """Scores of some users; of a model that searches beams, what its encoder makes of them."""
    side.model.eval()
    rows = torch.arange(min(32, len(side.valid._dataset)))
    batch = batch_to_device(side.valid.collate_fn(rows)[0], side.device)
    with mixed_precision(side.device, side.config["enable_amp"]):
        if hasattr(side.model, "tokens"):
            states, mask = side.model.encode(*side.model.tokens(batch))
            side.model.full_sort_predict(batch)  # the search has to run as well
            return (states * mask[..., None]).float().cpu()
        return side.model.full_sort_predict(batch)[:, 1:].float().cpu()


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Norm of the difference over that of what is expected."""
    return float((found - expected).norm() / expected.norm())


def waits(side: Training, batches: list) -> dict[str, int]:
    """What made the host wait for the GPU in training steps: place -> times."""
    if side.device.type != "cuda":
        return {}
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            for batch in batches:
                side.loss(batch)
                side.optimizer.step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    waited = [w for w in seen if "called a synchronizing" in str(w.message)]
    return dict(Counter(f"{'/'.join(Path(w.filename).parts[-2:])}:{w.lineno}" for w in waited))


def device_tests(part: Part) -> None:
    """Run tests/device on the GPU; a failure is recorded and ends nothing."""
    root = Path(__file__).parents[1]
    command = [sys.executable, "-m", "pytest", "-m", "device", "-q", "-p", "no:cacheprovider"]
    command += ["--ignore=tests/device/test_pretend_device.py", "tests/device", "--tb=line"]
    if not part.tiny:
        command += ["-n", "8"]
    else:
        command += ["-k", "recommendations_equal and ItemLM"]
    chosen = {**os.environ, "RECBOLE_LITE_TEST_DEVICE": part.device.type, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=root, env=chosen, capture_output=True, text=True)
    lines = (done.stdout + done.stderr).splitlines()
    wrong = [line[:300] for line in lines if line.startswith(("FAILED", "ERROR"))]
    wrong += [
        line[:300]
        for line in lines
        if line.startswith("/") and ("assert" in line or "Error" in line)
    ]
    counts = [line for line in lines if " passed" in line or " failed" in line]
    part.record(summary=counts[-1:], exit=done.returncode, failures=wrong[:60])


# -- step ---------------------------------------------------------------------------------------


def rates(device: torch.device, size: int) -> dict[str, float]:
    """TFLOP/s of a product of square matrices of random numbers, by precision."""
    found = {}
    for precision in PRECISIONS:
        dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
        a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
        with matrix_products(precision if precision == "tf32" else "auto", device):
            times = [timed(lambda a=a, b=b: a @ b, device) for _ in range(13)][3:]
        found[precision] = 2e-12 * size**3 / statistics.median(times)
    return found


def step(part: Part) -> None:
    """Time training steps and evaluations."""
    speed = rates(part.device, 256 if part.tiny else 8192)
    part.record(tflops=speed)
    asked = [
        ("LiteLLM4Rec", 2048, ("bfloat16", "tf32", "float32")),
        ("ItemLM", 64, ("bfloat16", "float32")),
        ("LiteLLM4Rec, prefix", 2048, ("bfloat16", "float32")),
        ("LiteLLM4Rec", 256, ("bfloat16", "float32")),
        ("P5", 64, ("bfloat16", "float32")),
        ("ItemLM", 512, ("bfloat16",)),
        ("POD", 64, ("bfloat16",)),
        ("LightLM", 64, ("bfloat16",)),
        ("SASRec", 2048, ("float32",)),
        ("LiteLLM4Rec, prefix", 128, ("bfloat16",)),
    ]
    rows = []
    for kind, batch, precisions in asked:
        side = None
        for precision in precisions:
            if part.left < 12:
                part.record(cut=f"before {kind}, batch {batch}, {precision}")
                return
            side = Training(part.config(kind, precision, train_batch_size=batch), side)
            row = {"kind": kind, "batch": batch, "precision": precision}
            rows.append(row | times_of(side, part.tiny) | floors(side, speed, precision))
            part.record(rows=rows)
            if precision == "bfloat16" and kind in ("LiteLLM4Rec", "ItemLM"):
                part.record(**{f"kernels of {kind}, batch {batch}": kernels(side, part.tiny)})


def times_of(side: Training, tiny: bool) -> dict[str, Any]:
    """Milliseconds of a training step, and of making a batch on the host."""
    side.steps(2 if tiny else 8)  # warm-up
    count = 2 if tiny else min(max(int(0.8 / side.steps(3)), 5), 100)
    made = timed(lambda: [next(side.batches) for _ in range(5)], torch.device("cpu")) / 5
    repeats = [side.steps(count) for _ in range(1 if tiny else 3)]
    found = {
        "step_ms": 1000 * statistics.median(repeats),
        "step_ms_range": [1000 * min(repeats), 1000 * max(repeats)],
        "batch_ms": 1000 * made,
    }
    if side.device.type == "cuda":
        found["memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
        torch.cuda.reset_peak_memory_stats()
    return found


def floors(side: Training, speed: dict[str, float], precision: str) -> dict[str, float]:
    """What a step has to compute; milliseconds of an evaluation, which is never in bfloat16."""
    gflop = counted(lambda: side.loss(next(side.batches)))
    found = {"step_gflop": gflop, "step_floor_ms": gflop / speed[precision]}
    if not hasattr(side.model, "beam_counts"):
        gflop = counted(side.evaluation)
        found["evaluation_ms"] = 1000 * min(side.evaluation() for _ in range(2))
        rate = speed["tf32" if precision == "tf32" else "float32"]
        found |= {"evaluation_gflop": gflop, "evaluation_floor_ms": gflop / rate}
    return found


def counted(call: Callable) -> float:
    """10^9 floating-point operations of the matrix products in a call."""
    with FlopCounterMode(display=False) as counter:
        call()
    return 1e-9 * counter.get_total_flops()


def kernels(side: Training, tiny: bool) -> dict[str, Any]:
    """Milliseconds a step in which the GPU worked, and the kernels that took most of them."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if side.device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    count = 1 if tiny else 4
    try:
        with torch.profiler.profile(activities=activities) as profile:
            side.steps(count)
    except RuntimeError as error:  # not every machine lets its counters be read
        return {"failed": str(error)[:300]}
    events = [e for e in profile.key_averages() if e.self_device_time_total > 0]
    kernel = [e for e in events if e.device_type == torch.autograd.DeviceType.CUDA]
    kernel.sort(key=lambda e: -e.self_device_time_total)
    return {
        "busy_ms": sum(e.self_device_time_total for e in kernel) / 1000 / count,
        "launches": sum(e.count for e in kernel) / count,
        "most": {e.key[:90]: e.self_device_time_total / 1000 / count for e in kernel[:12]},
    }


def compiled(part: Part) -> None:
    """Time steps with torch.compile of the language model, to see whether it pays."""
    rows = []
    for kind, batch in (("ItemLM", 64), ("LiteLLM4Rec", 2048)):
        side = Training(part.config(kind, "bfloat16", train_batch_size=batch))
        row = {"kind": kind, "batch": batch}
        rows.append(row | {"precision": "bfloat16"} | times_of(side, part.tiny))
        part.record(rows=rows)
        compile_reader(side.model, part.device)
        row |= {"precision": "bfloat16, compiled", "compile_s": side.steps(1)}
        rows.append(row | times_of(side, part.tiny))
        part.record(rows=rows)


# -- latency ------------------------------------------------------------------------------------


def latency(part: Part) -> None:
    """Time answers to histories, then P5 and POD."""
    side = Training(part.config("LiteLLM4Rec"))
    model = side.model.eval()
    batch = side.test.collate_fn(torch.arange(min(32, len(side.test._dataset))))[0]
    histories = [[i for i in row if i] for row in batch[model.ITEM_SEQ].tolist()]
    repeats = 5 if part.tiny else 200
    found: dict[str, dict] = {}
    for precision, way in itertools.product(PRECISIONS, ("launches", "graph")):
        runtime = TorchRuntime(model, graphs=way == "graph")
        for size in (1, 32):
            asked = histories[:size]
            with serving(precision, part.device):
                times = [
                    1000 * timed(lambda a=asked, r=runtime: r.rank(a, 10, a), part.device)
                    for _ in range(repeats + 10)
                ][10:]
                ids = runtime.rank(asked, 10, asked)[0]
            found[f"{precision}, {way}, batch {size}"] = {
                "p50": statistics.median(times),
                "p95": statistics.quantiles(times, n=20)[-1],
                "first_items": ids[0, :5].tolist(),
                "graphs": len(runtime.graphs),
            }
            part.record(rank_ms=found)
    for precision in PRECISIONS:
        if part.left < 15:
            part.record(cut=f"before P5 and POD in {precision}")
            return
        part.record(**{f"beams, {precision}": beams(part, precision, found)})


@contextmanager
def serving(precision: str, device: torch.device):
    """A precision for answers; without autocast's cache, out of which a graph must not read."""
    half = torch.autocast(device.type, torch.bfloat16, precision == "bfloat16", cache_enabled=False)
    with half, matrix_products(amp(precision)["matmul_backend"], device):
        yield


def beams(part: Part, precision: str, found: dict) -> dict[str, Any]:
    """Milliseconds of P5 and POD for 32 users, and their ratio to LiteLLM4Rec."""
    settings = {
        **part.config("LiteLLM4Rec").settings,
        "matmul_backend": amp(precision)["matmul_backend"],
    }
    shared = ("data_path", "item_embedding_cache_dir", "use_gpu", "local_files_only", "state",
              "show_progress", "matmul_backend")  # fmt: skip
    settings = {key: settings[key] for key in shared} | (TINY if part.tiny else {})
    with torch.no_grad():
        options = efficiency.TimingOptions(
            models=("P5", "POD"),
            repeats=1 if part.tiny else 7,
            with_sweeps=False,
            autocast="bfloat16" if precision == "bfloat16" else None,
        )
        tokenizer = str(part.args.tokenizer)
        result = efficiency.measure(part.args.dataset, settings, tokenizer, options)
    times = {name: row["ms"] for name, row in result["times"].items()}
    graph = found[f"{precision}, graph, batch 32"]["p50"]
    return {
        "ms": times,
        "ratio_to_launches": {name: ms / times["LiteLLM4Rec"] for name, ms in times.items()},
        "ratio_to_graph": {name: ms / graph for name, ms in times.items()},
        "shares": result["parts"],
        "parameters": result["parameters"],
        "problems": result["problems"],
    }


# -- accuracy -----------------------------------------------------------------------------------


def item_lm(part: Part) -> None:
    """Train ItemLM as the table of results has it, then with a longer window for the rest."""
    trained(part, "window 50", "ItemLM", ITEM_LM, part.args.seconds)
    trained(part, "window 200", "ItemLM", WIDER, min(part.args.seconds, part.left - 12))


def paper(part: Part) -> None:
    """Train LiteLLM4Rec of T5-small's size with the paper's settings, from random weights."""
    changes = {"train_strategy": "all", "user_dropout": 0.7, "epochs": 200, "eval_step": 1}
    trained(part, "T5-small, all", "LiteLLM4Rec", changes, min(90, part.left - 15))


def trained(part: Part, name: str, kind: str, changes: dict, seconds: float) -> None:
    """Train for so many seconds at most, the learning rate's schedule planned for that."""
    started = time.perf_counter()
    if seconds < (0 if part.tiny else 15):
        part.record(**{name: "no time left"})
        return
    side = Training(part.config(kind, "bfloat16", **changes))
    side.steps(2 if part.tiny else 10)
    a_step, an_epoch = side.steps(2 if part.tiny else 40), len(side.train)
    an_evaluation = min(side.evaluation() for _ in range(1 if part.tiny else 2))
    left = 0.92 * (seconds - (time.perf_counter() - started))
    epochs = int(left / (a_step * an_epoch + an_evaluation))
    steps = 3 if part.tiny else int((left - an_evaluation) / a_step)
    epochs = min(max(epochs, 1), changes["epochs"])
    planned = {**changes, "epochs": epochs, "max_steps": min(steps, epochs * an_epoch)}
    config = part.config(kind, "bfloat16", **planned)
    about = {"step_ms": 1000 * a_step, "evaluation_ms": 1000 * an_evaluation, "planned": planned}
    del side
    history: list[dict] = []

    def keep(entry) -> None:
        history.append(
            {"s": entry["seconds"], "loss": entry["train_loss"], **entry["valid_result"]}
        )
        part.record(**{name: {**about, "history": history}})

    result = run_one(config, on_epoch=keep)
    facts = {key: result[key] for key in ("epochs", "parameters", "seconds")}
    steps = planned["max_steps"]
    facts |= {"steps": steps, "steps_per_s": steps / result["seconds"]["training"]}
    facts |= {
        "valid": to_plain(result["best_valid_result"]),
        "test": to_plain(result["test_result"]),
    }
    part.record(**{name: {**about, **facts, "history": history}})


# -- the call -----------------------------------------------------------------------------------

PARTS: dict[str, Callable[[Part], None]] = {
    "smoke": smoke, "tests": device_tests, "step": step, "latency": latency, "item_lm": item_lm,
    "compile": compiled, "paper": paper,
}  # fmt: skip


def table(parts: dict[str, dict]) -> str:
    """What was found, in short."""
    lines = [f"{name}: {found.get('status', 'not begun')}" for name, found in parts.items()]
    rows = [
        [r["kind"], r["batch"], r["precision"], r["step_ms"], r.get("step_floor_ms"), r["batch_ms"],
         r.get("evaluation_ms"), r.get("evaluation_floor_ms"), r.get("memory_gib")]
        for name in ("step", "compile")
        for r in parts.get(name, {}).get("rows", [])
    ]  # fmt: skip
    head = ["", "batch", "", "step ms", "floor", "batch ms", "eval ms", "floor", "GiB"]
    text = ["\n".join(lines), tabulate(rows, head, floatfmt=".2f")]
    found = parts.get("latency", {})
    rows = [[name, t["p50"], t["p95"]] for name, t in found.get("rank_ms", {}).items()]
    text.append(tabulate(rows, ["histories to top 10, ms", "p50", "p95"], floatfmt=".3f"))
    for precision in PRECISIONS:
        beam = found.get(f"beams, {precision}", {"ms": {}})
        rows = [
            [name, ms, beam["ratio_to_launches"][name], beam["ratio_to_graph"][name]]
            for name, ms in beam["ms"].items()
        ]
        head = [f"32 users, {precision}", "ms", "to LiteLLM4Rec", "to its graph"]
        text.append(tabulate(rows, head, floatfmt=".1f"))
    runs = {k: v for part in ("item_lm", "paper") for k, v in parts.get(part, {}).items()}
    rows = [
        [name, r["steps_per_s"], r["epochs"], r["seconds"]["training"],
         *(r[s][m] for s in ("valid", "test") for m in ("recall@10", "ndcg@10"))]
        for name, r in runs.items() if isinstance(r, dict) and "test" in r
    ]  # fmt: skip
    head = ["", "steps/s", "epochs", "s", "valid R@10", "N@10", "test R@10", "N@10"]
    text.append(tabulate(rows, head, floatfmt=".4f"))
    return "\n\n".join(text)


def arguments(argv: list[str] | None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="ml-1m")
    parser.add_argument("--data_path", required=True)
    parser.add_argument(
        "--tokenizer", required=True, help="folder of T5's tokenizer, for P5 and POD"
    )
    parser.add_argument("--item_embeddings", required=True, help="folder of cached item vectors")
    parser.add_argument("--out", type=Path, required=True, help="folder for gpu.json")
    parser.add_argument("--parts", default=",".join(LIMITS), help="names, comma-separated")
    parser.add_argument("--total", type=float, default=525, help="seconds of the whole call")
    parser.add_argument("--seconds", type=float, default=180, help="of a training in item_lm")
    parser.add_argument("--tiny", action="store_true", help="small models on the CPU")
    parser.add_argument("--part", help=argparse.SUPPRESS)  # the process of one part
    args = parser.parse_args(argv)
    for name in ("data_path", "tokenizer", "item_embeddings", "out"):
        setattr(args, name, Path(getattr(args, name)).absolute())
    unknown = set(args.parts.split(",")) - set(PARTS)
    if unknown:
        parser.error(f"--parts: unknown {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    if not args.tiny and not torch.cuda.is_available():
        parser.error("no GPU (CUDA) is here; --tiny runs the same on the CPU")
    return args


def start(name: str, argv: list[str]) -> subprocess.Popen:
    """Start a part's process, which imports and then waits for its limit on standard input."""
    command = [sys.executable, __file__, *argv, "--part", name]
    return subprocess.Popen(command, stdin=subprocess.PIPE, text=True, start_new_session=True)


def finish(process: subprocess.Popen, limit: float) -> str:
    """Let a part run for `limit` seconds; how it ended."""
    process.stdin.write(f"{limit}\n")
    process.stdin.close()
    try:
        code = process.wait(limit + 5)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        process.wait()
        return "cut: its time was up"
    return "done" if code == 0 else f"failed with status {code}"


def main(argv: list[str] | None = None) -> int:
    args = arguments(argv)
    if args.part:
        limit = float(sys.stdin.readline())
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)  # where runs write
            PARTS[args.part](Part(args.part, args, limit))
        return 0
    begun = time.perf_counter()
    args.out.mkdir(parents=True, exist_ok=True)
    facts = {"command": " ".join(["python", *sys.argv]), "tiny": args.tiny, "parts": {}}
    write_json(args.out / "gpu.json", {**facts, "environment": environment()})
    names = args.parts.split(",")
    given = list(sys.argv[1:] if argv is None else argv)
    # All at once: their imports, half a minute on some hosts, are over before anything is timed.
    waiting = {name: start(name, given) for name in names}
    code = 0
    for name in names:
        process = waiting.pop(name)
        left = args.total - (time.perf_counter() - begun)
        began = time.perf_counter()
        if left < LEAST and not args.tiny:
            process.kill()
            status = "not begun: no time was left"
        else:
            status = finish(process, min(LIMITS[name], left))
        figures = {"status": status, "wall_s": round(time.perf_counter() - began, 1)}
        update(args.out, lambda parts, name=name, f=figures: parts.setdefault(name, {}).update(f))
        print(f"[{name}] {figures}", flush=True)
        if status != "done" and name in ENDS_ALL:
            print(f"error: {name} {status}; nothing else is measured", file=sys.stderr)
            for other in waiting.values():
                other.kill()
            code = 1
            break
    text = table(json.loads((args.out / "gpu.json").read_text(encoding="utf-8"))["parts"])
    (args.out / "gpu.md").write_text(text + "\n", encoding="utf-8")
    print(text)
    return code


if __name__ == "__main__":
    sys.exit(main())
