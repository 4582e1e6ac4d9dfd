"""Errors that a user can act on.

Every message names the place (file and line, or key), says what was found there
and what to do. The command line prints the message alone and exits with 2.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from logging import getLogger
from pathlib import Path


class RecboleLiteError(Exception):
    """Base of all errors that recbole-lite raises on purpose."""


class ConfigError(RecboleLiteError):
    """A key, a value or a configuration file is wrong."""


class MissingDependencyError(RecboleLiteError, ImportError):
    """A package is not installed; the message holds the command that installs it."""


class ModelFilesError(RecboleLiteError):
    """Weights, tokenizer or configuration of a language model cannot be had."""


class CheckpointError(RecboleLiteError):
    """A checkpoint is missing, damaged, or does not fit the model."""


class OtherIdsError(CheckpointError):
    """The rows of a checkpoint belong to other users, items or features than the data have."""


class ReportError(RecboleLiteError):
    """What a run has written cannot be read, or runs cannot be compared."""


class RequestError(RecboleLiteError, ValueError):
    """What a trained model is asked for cannot be answered."""


class TrainingError(RecboleLiteError):
    """Training went wrong in numbers, e.g. a loss that is not finite."""


class DownloadError(RecboleLiteError):
    """A data set could not be fetched; the message says how to bring it by hand."""


class DataError(RecboleLiteError):
    """A data file is malformed.

    Parameters
    ----------
    message : str
        What was found and what to do.
    path : str or Path, optional
        The file.
    line : int, optional
        The line in it, counted from 1 (the header is line 1).
    """

    def __init__(self, message: str, path: str | Path | None = None, line: int | None = None):
        self.path = None if path is None else Path(path)
        self.line = line
        place = "" if path is None else f"{path}: " if line is None else f"{path}, line {line}: "
        super().__init__(place + message)


def unreadable(error: OSError, path: str | Path) -> DataError:
    """Error for a file that cannot be opened or read."""
    if isinstance(error, FileNotFoundError):
        return DataError("there is no such file; check the path", path)
    if isinstance(error, IsADirectoryError):
        return DataError("this is a directory; name the file in it", path)
    return DataError(f"the file cannot be read: {error.strerror or error}", path)


def one_line(error: Exception, limit: int = 200) -> str:
    """Class and first sentence of an error, shortened, without control characters."""
    line = next(iter(str(error).strip().splitlines()), "")
    sentence = "".join(char for char in line.split(". ")[0] if char.isprintable()).rstrip(".")
    return f"{type(error).__name__}: {sentence[:limit]}{'...' if len(sentence) > limit else ''}"


def shorten(text: str, limit: int) -> str:
    """Text of at most `limit` characters; ``...`` stands for the rest."""
    return text if len(text) <= limit else text[: limit - 3] + "..."


def listed(names: Sequence) -> str:
    """First names of a list; ``...`` stands for the rest."""
    return ", ".join(map(str, names[:3])) + (", ..." if len(names) > 3 else "")


@contextmanager
def best_effort(what: str, remedy: str = "") -> Iterator[None]:
    """Let a step that only describes a run fail with a warning: the training is worth more.

    Parameters
    ----------
    what : str
        Begins the warning: ``what: cannot be made: ...``.
    remedy : str
        Ends it.
    """
    try:
        yield
    except Exception as error:
        getLogger().warning(f"{what}: cannot be made: {one_line(error)}{remedy and '; ' + remedy}")
