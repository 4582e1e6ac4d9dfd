"""Logging of a run in RecBole's format: one file per run, colours on terminals only."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import colorlog

from recbole_lite.utils.errors import ConfigError
from recbole_lite.utils.paths import create_unique, run_name
from recbole_lite.utils.process import COLOURS, uses_colours

FILE_ONLY = {"file_only": True}  # `extra=` of records that would flood a terminal
_LEVEL_COLOURS = {"DEBUG": "cyan", "WARNING": "yellow", "ERROR": "red", "CRITICAL": "red"}
_OURS = "recbole_lite_handler"


class _FileHandler(logging.FileHandler):
    """Handler that reports a failed write once and goes on: a full disk must not end the run."""

    def handleError(self, record):  # noqa: N802 (logging's name)
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not getattr(self, "failed", False):
            self.failed = True
            print(f"{self.baseFilename}: cannot write the log: {error.strerror}", file=sys.stderr)


class _PlainFormatter(logging.Formatter):
    """Formatter that removes the colour codes in RecBole's messages."""

    def format(self, record):
        return COLOURS.sub("", super().format(record))


def init_logger(config, folder: str | Path = "log") -> Path:
    """Send the root logger, which is RecBole's, to the console and to a new file.

    Parameters
    ----------
    config : LiteConfig
        ``state`` is the level (RecBole's key).
    folder : str or Path
        The file is ``<folder>/<model>/<model>-<dataset>-<time>.log``.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ConfigError
        The file cannot be written.
    """
    path = _create_log_file(config, Path(folder, config["model"]))
    to_file = _FileHandler(path, encoding="utf-8")
    to_file.setFormatter(
        _PlainFormatter("%(asctime)s %(levelname)s  %(message)s", "%a %d %b %Y %H:%M:%S")
    )
    root = logging.getLogger()
    for handler in list(root.handlers):
        if getattr(handler, _OURS, False):  # of an earlier run in this process
            root.removeHandler(handler)
            handler.close()
    for handler in (to_file, _console_handler()):
        setattr(handler, _OURS, True)
        root.addHandler(handler)
    level = logging.getLevelName(str(config["state"] or "INFO").upper())
    root.setLevel(level if isinstance(level, int) else logging.INFO)
    for chatty in ("httpx", "filelock", "fsspec", "matplotlib"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    return path


class _Collecting(logging.Handler):
    def __init__(self, level: int):
        super().__init__(level)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(COLOURS.sub("", record.getMessage()))


@contextmanager
def collected_warnings() -> Iterator[list[str]]:
    """Collect the warnings of the root logger, which is RecBole's, in place of printing them."""
    root, handler = logging.getLogger(), _Collecting(logging.WARNING)
    before, root.handlers = root.handlers, [handler]
    try:
        yield handler.messages
    finally:
        root.handlers = before


def _create_log_file(config, folder: Path) -> Path:
    name = run_name(config)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return create_unique(folder, name, ".log")
    except OSError as error:
        raise ConfigError(
            f"{folder / name}.log: cannot write the log: {error.strerror}; logs go to "
            f"the folder {str(folder.parent)!r} of the working directory"
        ) from None


def _console_handler() -> logging.Handler:
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(lambda record: not getattr(record, "file_only", False))
    if uses_colours():
        line = "%(log_color)s%(asctime)s %(levelname)s  %(message)s"
        formatter = colorlog.ColoredFormatter(line, "%H:%M:%S", log_colors=_LEVEL_COLOURS)
    else:
        formatter = _PlainFormatter("%(asctime)s %(levelname)s  %(message)s", "%H:%M:%S")
    handler.setFormatter(formatter)
    return handler
