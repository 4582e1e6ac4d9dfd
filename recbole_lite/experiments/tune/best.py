"""The best trial: its test figures, once, and a file that repeats it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import torch
import yaml

from recbole_lite.experiments.tune.trial import Plan
from recbole_lite.utils.files import write_text

BEST_FILE = "best.yaml"


def evaluate_best(best: dict[str, Any], plan: Plan) -> dict[str, float] | None:
    """Test figures of a trial's best weights; the only look of a sweep at the test split.

    None where the split leaves nothing for a test.
    """
    from recbole_lite.inference.saved_run import evaluate_saved_run

    threads = torch.get_num_threads()
    torch.set_num_threads(plan.threads)  # sums in the order of the trial's
    try:
        # The trial's own settings name the folder that the sweep was in before a move.
        changes = {"item_embedding_cache_dir": plan.cache_dir} if plan.cache_dir else {}
        return evaluate_saved_run(best["run_dir"], {**changes, "show_progress": False})[1]
    finally:
        torch.set_num_threads(threads)


def write_best(plan: Plan, result: dict[str, Any]) -> None:
    """Write ``best.yaml`` into the sweep's folder: the keys that repeat the best trial."""
    best, spec = result["best"], plan.spec
    values = {"model": spec.model, "dataset": spec.dataset, **spec.values, **best["params"]}
    head = [
        f"Best of {len(result['trials'])} trials ({best['trial']}) by {result['metric']}.",
        f"valid: {_figures(best['valid'])} (epoch {best['best_epoch']})",
    ]
    if best["test_result"] is not None:
        head.append(f"test:  {_figures(best['test_result'])}")
    if best["status"] != "finished":
        values["last_epoch"] = best["epochs"]
        head.append(
            f"last_epoch: the trial was {best['status']} after this epoch; "
            "leave it out to train further."
        )
    if not plan.use_gpu and torch.cuda.is_available():
        values["use_gpu"] = False  # where the trials ran
    path = Path(plan.folder, BEST_FILE)
    shown = path.relative_to(plan.cwd) if path.is_relative_to(plan.cwd) else path
    head += [
        "The same figures, on the same machine and from the same folder:",
        f"OMP_NUM_THREADS={plan.threads} python run_recbole_lite.py "
        f"--config_files={shlex.quote(str(shown))}",
    ]
    body = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    text = "".join(f"# {line}\n" for line in head) + body
    write_text(path, text)


def _figures(figures: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in figures.items() if value is not None)
