"""Hyper-parameter sweeps on Ray Tune: validation selects, the test set is looked at once."""

from __future__ import annotations

__all__ = ["SweepOptions", "sweep"]


def __getattr__(name: str):
    # The command line asks this package of every run whether it is a sweep.
    if name not in ("SweepOptions", "sweep"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from recbole_lite.experiments.tune import runner

    return getattr(runner, name)
