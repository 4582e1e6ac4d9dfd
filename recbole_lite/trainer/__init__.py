"""Training: loop, checkpoints, resuming, several processes, numeric checks."""


def __getattr__(name: str):
    """``recbole_lite.trainer.LiteTrainer``; on first use, since it imports torch and RecBole."""
    if name not in ("LiteMixin", "LiteTrainer"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from recbole_lite.trainer import trainer

    return getattr(trainer, name)
