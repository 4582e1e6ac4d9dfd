"""What the benchmarks share: arguments, processes of their own, files of results."""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from recbole_lite.utils.environment import environment
from recbole_lite.utils.files import write_json


def parser_of(doc: str, data: bool = True, **options: Any) -> argparse.ArgumentParser:
    """Parser described by the first line of `doc`; with `data` it asks for a data set."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0], **options)
    if data:
        parser.add_argument("--dataset", default="ml-1m")
        parser.add_argument("--data_path", default="dataset")
    return parser


def in_child(function: Callable, *args, method: str = "spawn", **options: Any) -> Any:
    """Result of a function in a process of its own, so that memory is its own, too."""
    with ProcessPoolExecutor(1, multiprocessing.get_context(method), **options) as child:
        return child.submit(function, *args).result()


def peak_mib() -> float:
    """Peak of this process's resident memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def medians(runs: list[dict[str, float]]) -> dict[str, float]:
    """Median of each figure of several runs."""
    return {key: statistics.median(run[key] for run in runs) for key in runs[0]}


def write(path: str | Path | None, figures: dict, text: str | None = None) -> None:
    """Write figures with the command and the environment as JSON, a table beside them.

    Parameters
    ----------
    path : str or Path, optional
        None: nothing is written.
    figures : dict
    text : str, optional
        Table in Markdown, for the file of the same stem; it is printed in any case.
    """
    if text is not None:
        print(text)
    if path is None:
        return
    command = " ".join(["python", *sys.argv])
    write_json(path, {"command": command, "environment": environment(), **figures})
    if text is not None:
        Path(path).with_suffix(".md").write_text(text + "\n")
