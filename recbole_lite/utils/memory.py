"""Memory use of this process."""

from __future__ import annotations

import sys

import psutil
import torch

MIB = 2**20


def memory() -> dict[str, float]:
    """Memory of this process at this moment, in MiB.

    Returns
    -------
    dict
        ``resident``: now; ``peak``: the most so far, since the process began; with CUDA
        ``gpu_peak``: the most that torch has held on the current device so far.
    """
    found = {"resident": psutil.Process().memory_info().rss / MIB}
    found["peak"] = max(_peak(), found["resident"])
    if torch.cuda.is_available():
        found["gpu_peak"] = torch.cuda.max_memory_allocated() / MIB
    return {name: round(value, 1) for name, value in found.items()}


def _peak() -> float:
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset / MIB
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / MIB if sys.platform == "darwin" else peak / 1024  # bytes there, KiB on Linux
