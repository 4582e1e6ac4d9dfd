"""Training: loop, checkpoints, resuming, several processes, numeric checks."""


def __getattr__(name: str):
    """Import path of version 0.1: ``from recbole_lite.trainer import LiteTrainer``."""
    if name not in ("LiteMixin", "LiteTrainer"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from recbole_lite.trainer import trainer

    return getattr(trainer, name)
