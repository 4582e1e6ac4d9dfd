"""Kill a run with SIGKILL at random moments, resume it, compare with a run that nobody killed.

    python tests/faults/kill_and_resume.py --kills 30 --seed 1

Half of the kills come from outside after a random time; the other half strike just before a
random file operation (open for writing, rename, remove, mkdir), where a careless order of writes
would show. A continued run may be killed again. After each kill every file that stands under its
final name must be whole; at the end metrics, history and weights must equal, bit for bit, those of
the run that was left alone.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch
from processes import Job, Processes
from safetensors import safe_open

from recbole_lite.trainer import checkpoint


def checkpoint_folder(folder: Path) -> Path | None:
    """The run's folder; None before its configuration is written: nothing to resume."""
    found = [path.parent for path in (folder / "saved").glob("*/config.json")]
    assert len(found) <= 1, f"a continued run has made a folder of its own: {found}"
    return found[0] if found else None


def check_files(folder: Path) -> None:
    """Load every file that stands under its final name."""
    for path in (folder / "cache").glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            content = file.get_tensor("vectors").numpy()
            assert file.metadata()["sha256"] == hashlib.sha256(content).hexdigest(), path
    for path in (folder / "saved").glob("*/*"):
        if path.name == checkpoint.CONFIG_FILE:
            checkpoint.load_config(path.parent)
        elif path.suffix == ".safetensors":
            checkpoint.load_weights(path)
        elif path.suffix == ".pt":
            torch.load(path, weights_only=True)
    saved = checkpoint_folder(folder)
    if saved and any(saved.glob("last-*.safetensors")):
        assert checkpoint.load_last(saved) is not None


def tensors_of(job: Job) -> dict[str, torch.Tensor]:
    """Weights of the best validation and of the last epoch."""
    folder = checkpoint_folder(job.folder)
    best, _ = checkpoint.load_weights(folder / checkpoint.BEST_FILE)
    last, _ = checkpoint.load_last(folder)
    return {**best, **{f"last {name}": tensor for name, tensor in last.items()}}


def differences(job: Job, whole: Job) -> list[str]:
    """Names of what differs from the run that nobody killed."""
    ours, theirs = job.result, whole.result
    found = [
        key
        for key in theirs
        if key not in ("run_dir", "report", "memory") and ours[key] != theirs[key]
    ]
    ours, theirs = tensors_of(job), tensors_of(whole)
    if ours.keys() != theirs.keys():
        return [*found, "names of tensors"]
    return found + [name for name in theirs if not torch.equal(ours[name], theirs[name])]


def phase(job: Job) -> str:
    """What the process was doing when it died, told from its last file operation and log line."""
    last = (["", *job.events])[-1]
    logs = [event for event in job.events if event.startswith("log")]
    saved = "saved/" in last or "Saved the best" in last
    if last.startswith("file"):
        return "cache write" if " cache/" in last else "checkpoint write" if saved else "start"
    names = [("best valid", "end"), ("Loaded the best weights", "test"), ("evaluating", "between")]
    names += [("training", "evaluation"), ("encoding", "encoding"), ("item vectors", "start")]
    names += [("trainable parameters", "training"), ("Saved", "checkpoint write")]
    names += [("valid result", "training"), ("Resuming", "training")]
    return next((name for text, name in names if text in logs[-1]), "start") if logs else "start"


class Scenario:
    """Kills of one kind of run.

    Parameters
    ----------
    processes : Processes
    folder : Path
        Everything is written below it.
    settings : dict
        As `Processes.world` gives them, with changes.
    """

    def __init__(self, processes: Processes, folder: Path, settings: dict):
        self.processes, self.folder, self.settings = processes, folder, settings
        started = time.perf_counter()
        self.whole = self.start("whole")
        assert processes.finish(self.whole) == 0, (self.whole.folder / "stderr").read_text()
        self.seconds = time.perf_counter() - started
        self.phases: Counter[str] = Counter()

    def start(self, name: str, resume: Path | None = None, die_at: int | None = None) -> Job:
        """Start the run, or go on with it."""
        settings = {**self.settings, "resume": str(resume) if resume else None}
        kwargs = {"model": "LiteLLM4Rec", "dataset": "tiny", "config_dict": settings}
        return self.processes.start(self.folder / name, "run", kwargs, die_at=die_at)

    def kill(self, name: str, draw: random.Random, resume: Path | None, die_at: int | None) -> bool:
        """One life of a run; whether it was killed before its end."""
        job = self.start(name, resume, die_at)
        if die_at is None:
            time.sleep(draw.uniform(0, self.seconds))
            job.kill()
        status = self.processes.finish(job)
        assert status in (0, -9), (job.folder / "stderr").read_text()
        if status:
            self.phases[phase(job)] += 1
        return status != 0

    def strike(self, name: str, draw: random.Random, die_at: int | None = None) -> list[str]:
        """Kill a run once or more, let it end, and compare; names of what differs."""
        folder, resume, kills = self.folder / name, None, 0
        while self.kill(name, draw, resume, die_at) and kills < 3:
            check_files(folder)
            resume, kills = checkpoint_folder(folder), kills + 1
            die_at = None
            if draw.random() < 0.7:  # else: killed again while it goes on
                break
        last = self.start(name, checkpoint_folder(folder))
        assert self.processes.finish(last) == 0, (folder / "stderr").read_text()
        check_files(folder)
        return differences(last, self.whole)


# Kinds of runs: everything that a checkpoint holds has to come back.
KINDS = {
    "plain": {},
    "stages, schedule": {
        "lr_scheduler": "cosine",
        "warmup_ratio": 0.1,
        "train_strategy": "sampling",
        "stages": [{"epochs": 2}, {"epochs": 2, "item_llm_training": "embeddings"}],
    },
    "validation every 2nd epoch": {"eval_step": 2, "stopping_step": 0, "epochs": 5},
}


def main() -> int:
    """Strike as often as asked; exit status 1 if anything differed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=30, help="at least so many (default: 30)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    arguments = parser.parse_args()
    draw, failures, phases = random.Random(arguments.seed), 0, Counter()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as name, Processes() as processes:
        folder = Path(name)
        settings = processes.world(folder / "world")
        scenarios = [
            Scenario(processes, folder / kind.replace(" ", "_"), {**settings, **changes})
            for kind, changes in KINDS.items()
        ]
        number = -1
        while sum(scenario.phases.total() for scenario in scenarios) < arguments.kills:
            number += 1
            scenario = scenarios[number % len(scenarios)]
            operations = len(scenario.whole.operations())
            die_at = draw.randrange(operations - 1) if draw.random() < 0.5 else None
            found = scenario.strike(f"killed-{number}", draw, die_at)
            failures += bool(found)
            if found:
                print(f"{list(KINDS)[number % len(KINDS)]}, run {number}: {', '.join(found[:6])}")
        for scenario in scenarios:
            phases.update(scenario.phases)
    seconds = time.perf_counter() - started
    print(
        f"{phases.total()} kills in {number + 1} runs ({json.dumps(dict(phases))}); {failures} "
        f"runs ended otherwise than the run that was left alone; {seconds:.0f} s"
    )
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
