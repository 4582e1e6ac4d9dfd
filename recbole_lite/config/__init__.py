"""Configuration: settings from files and the command line, their checks, names of models."""


def __getattr__(name: str):
    """``recbole_lite.config.LiteConfig``; on first use, since it imports torch and RecBole."""
    if name != "LiteConfig":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from recbole_lite.config.configurator import LiteConfig

    return LiteConfig
