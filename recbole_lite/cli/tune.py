"""``--tune=FILE`` and ``--resume=SWEEP`` on the command line of a run."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from recbole_lite.experiments.tune.tune_settings import SWEEP_FILE, split_arguments
from recbole_lite.utils.errors import ConfigError
from recbole_lite.utils.files import spooled
from recbole_lite.utils.process import interrupted_status

INTERRUPTED = "interrupted; --resume=FOLDER continues a sweep that has started"


def is_sweep(overrides: Sequence[str]) -> bool:
    """Whether the arguments ask for a sweep, or for an interrupted one to go on."""
    return any(text.split("=")[0] == "--tune" for text in overrides) or any(
        folder and Path(folder, SWEEP_FILE).is_file() for folder in _resumed(overrides)
    )


def run_sweep(args: argparse.Namespace) -> int:
    """Run a sweep and print its report.

    Returns
    -------
    int
        Exit status: 0; 130 after Ctrl-C, 143 after SIGTERM; 2 where no trial has a result.
    """
    from recbole_lite.experiments.tune.runner import SweepOptions, sweep
    from recbole_lite.report.sweep import render

    settings, rest = split_arguments(args.overrides)
    resumed = _resumed(rest)
    rest = [text for text in rest if not text.startswith("--resume=")]
    space = settings.pop("tune", None)
    if space is None and (rest or args.model or args.dataset or args.config_files):
        raise ConfigError(
            f"resume: {resumed[-1]} is a sweep, which has its own model and settings: give "
            "--resume alone (and --ray-address), or the whole command with --tune"
        )
    with nullcontext() if space is None else spooled(space, ".yaml") as path:
        result = sweep(
            model=args.model,
            dataset=args.dataset,
            config_file_list=args.config_files,
            overrides=rest,
            options=SweepOptions(path, settings, resumed[-1] if resumed else None, args.typed),
        )
    print(f"\n{render(result)}")
    if result["interrupted"]:
        return interrupted_status()
    return 0 if result["best"] else 2


def _resumed(overrides: Sequence[str]) -> list[str]:
    """Folders that ``--resume`` names."""
    return [text.partition("=")[2] for text in overrides if text.startswith("--resume=")]
