"""Train a tiny model for many epochs; memory, open files and the log must not grow with them.

    python tests/faults/long_run.py --epochs 1000

Exit status 1 if resident memory grows by more than 2 KiB an epoch after the first tenth, if files
stay open, or if the log takes more than 2 KiB an epoch.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
import time
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS.parent), str(TESTS)]

import numpy as np  # noqa: E402
import psutil  # noqa: E402
import torch  # noqa: E402
from fuzz import _language_model  # noqa: E402
from processes import SETTINGS  # noqa: E402

from recbole_lite import run  # noqa: E402

KIB = 1024


class Samples(logging.Handler):
    """Memory and open files, whenever an epoch has been trained."""

    def __init__(self):
        super().__init__()
        self.process = psutil.Process()
        self.memory: list[int] = []  # bytes
        self.files: list[int] = []

    def emit(self, record):
        """Take a sample at RecBole's line about an epoch."""
        if " training" in record.getMessage():
            self.memory.append(self.process.memory_info().rss)
            self.files.append(self.process.num_fds())


def main() -> int:
    """Train, report, judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=1000)
    parser.add_argument("--model", default="LiteLLM4Rec")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    from tiny_data import write_tiny

    with tempfile.TemporaryDirectory() as name:
        os.chdir(name)
        write_tiny(Path("data"))
        _language_model("bert", Path("bert"))
        settings = {**SETTINGS, "data_path": "data", "item_llm": "bert"}
        settings |= {"epochs": arguments.epochs, "stopping_step": arguments.epochs}
        samples = Samples()
        logging.getLogger().addHandler(samples)
        logging.getLogger().setLevel(logging.INFO)
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 (the console would only be scrolled away)
        started = time.perf_counter()
        result = run(arguments.model, "tiny", config_dict=settings)
        seconds = time.perf_counter() - started
        sys.stderr = sys.__stderr__
        log = Path(result["log_file"]).stat().st_size
        saved = sum(path.stat().st_size for path in Path(result["run_dir"]).iterdir())
        board = sum(p.stat().st_size for p in Path("log_tensorboard").rglob("*") if p.is_file())
    begin = len(samples.memory) // 10  # the first epochs fill caches
    memory, files = np.array(samples.memory[begin:]), samples.files[begin:]
    slope = np.polyfit(np.arange(len(memory)), memory, 1)[0]
    print(
        f"{len(samples.memory)} epochs of {arguments.model} in {seconds:.0f} s\n"
        f"resident memory: {memory[0] / KIB**2:.1f} MiB after epoch {begin}, "
        f"{memory[-1] / KIB**2:.1f} MiB at the end, slope {slope / KIB:+.2f} KiB an epoch\n"
        f"open files: {files[0]} after epoch {begin}, {files[-1]} at the end, most {max(files)}\n"
        f"log {log / KIB:.0f} KiB ({log / len(samples.memory):.0f} bytes an epoch), TensorBoard "
        f"{board / KIB:.0f} KiB, checkpoints {saved / KIB:.0f} KiB"
    )
    flat = slope < 2 * KIB and files[-1] <= files[0] and log < 2 * KIB * len(samples.memory)
    return int(not flat)


if __name__ == "__main__":
    sys.exit(main())
