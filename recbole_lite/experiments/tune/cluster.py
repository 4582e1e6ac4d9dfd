"""How the trials of a sweep share a Ray cluster."""

from __future__ import annotations

from dataclasses import dataclass

from recbole_lite.experiments.tune.tune_settings import TuneSettings
from recbole_lite.utils.errors import ConfigError
from recbole_lite.utils.ray_session import capacity, check_present, machines


@dataclass(frozen=True)
class Resources:
    """What each trial gets, and how many run at a time."""

    cpus: float
    gpus: float
    concurrent: int


def plan_resources(ray, settings: TuneSettings, use_gpu: bool) -> Resources:
    """What each trial gets: as set, else by what the cluster has.

    Raises
    ------
    ConfigError
        A trial is to have more than any machine of the cluster has.
    """
    nodes = machines(ray)
    total = {kind: sum(node.get(kind, 0) for node in nodes) for kind in ("CPU", "GPU")}
    gpus = settings.gpus_per_trial
    if gpus is None:
        gpus = 1 if use_gpu and total["GPU"] >= 1 else 0
    if gpus > 1 and int(gpus) != gpus:
        raise ConfigError(f"gpus_per_trial: above 1 it must be a whole number, found {gpus:g}")
    check_present("gpus_per_trial", "GPU", gpus, nodes)
    cpus = settings.cpus_per_trial
    if cpus is None:
        cpus = max(1, int(total["CPU"] / (total["GPU"] / gpus))) if gpus else 1
    check_present("cpus_per_trial", "CPU", cpus, nodes)
    fit = sum(capacity(node, cpus, gpus) for node in nodes)
    return Resources(cpus, gpus, min(settings.max_concurrent or fit, max(fit, 1)))
