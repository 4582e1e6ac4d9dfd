"""The model that a service uses, and its replacement without a pause."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from logging import getLogger
from pathlib import Path

from anyio.to_thread import run_sync

from recbole_lite.inference.model_folder import BEST_FILE, CONFIG_FILE, ITEMS_FILE, WEIGHTS_FILE
from recbole_lite.inference.recommender import Recommender
from recbole_lite.serve.batching import Batcher
from recbole_lite.serve.limits import Limits, Options
from recbole_lite.utils.errors import one_line
from recbole_lite.utils.files import file_sha256

_POLL = 0.5  # seconds between two looks at the folder
_Files = tuple[tuple[str, int, int], ...]  # name, size and time of each


class ServedModel:
    """A loaded model with its batches."""

    def __init__(self, recommender: Recommender, limits: Limits, on_batch: Callable[[int], None]):
        self.recommender = recommender
        self.batcher = Batcher(recommender, limits.max_batch, limits.max_waiting, on_batch)
        paths = model_files(recommender.folder)
        digests = "".join(file_sha256(path) for path in paths)
        # Of weights, catalogue and settings.
        self.version = hashlib.sha256(digests.encode()).hexdigest()[:12]
        self.active_requests = 0


class LiveModel:
    """The current model of a service.

    Parameters
    ----------
    recommender : Recommender
    limits : Limits
    options : Options
        Without ``load`` the model cannot be replaced; ``watch`` replaces it when the files of its
        folder have changed and stay unchanged for half a second.
    on_batch : callable
        Gets the size of each batch.
    on_reload : callable
        Gets the outcome of each replacement: ``ok`` or ``failed``.
    """

    def __init__(
        self,
        recommender: Recommender,
        limits: Limits,
        options: Options,
        on_batch: Callable[[int], None],
        on_reload: Callable[[str], None],
    ):
        self.limits, self.load, self.watch = limits, options.load, options.watch
        self._on_batch, self._on_reload = on_batch, on_reload
        self._asked = False
        self.current = ServedModel(recommender, limits, on_batch)
        self._folder = recommender.folder
        self._files = model_state(self._folder)

    @contextmanager
    def use(self) -> Iterator[ServedModel]:
        """Model of one request; one that has been replaced is closed after its last request."""
        model = self.current
        model.active_requests += 1
        try:
            yield model
        finally:
            model.active_requests -= 1
            self._close_if_unused(model)

    def request_reload(self, *_) -> None:
        """Ask for a replacement; a handler of signals."""
        self._asked = True

    async def follow(self) -> None:
        """Replace the model whenever that is asked for or, if watched, its files change."""
        before = self._files
        while True:
            await asyncio.sleep(_POLL)
            files = model_state(self._folder) if self.watch else ()
            settled = files not in ((), self._files) and files == before
            before = files
            if self._asked or settled:
                self._asked, self._files = False, files  # a folder that fails is tried once
                await self._replace()

    async def _replace(self) -> None:
        assert self.load is not None
        try:
            new = await run_sync(self._loaded, self.load, abandon_on_cancel=True)
        except Exception as error:  # whatever it is, the current model goes on
            getLogger().error(f"the model is not replaced: {one_line(error)}")
            self._on_reload("failed")
            return
        old, self.current = self.current, new
        self._close_if_unused(old)
        getLogger().warning(f"model {old.version} is replaced by {new.version}")
        self._on_reload("ok")

    def _loaded(self, load: Callable[[], Recommender]) -> ServedModel:
        return ServedModel(load(), self.limits, self._on_batch)

    def _close_if_unused(self, model: ServedModel) -> None:
        if model is not self.current and not model.active_requests:
            model.batcher.close()


def model_files(folder: Path) -> list[Path]:
    """Files that describe a model: settings, catalogue and weights."""
    weights = [folder / name for name in (BEST_FILE, WEIGHTS_FILE)]
    return [folder / CONFIG_FILE, folder / ITEMS_FILE, *filter(Path.exists, weights)]


def model_state(folder: Path) -> _Files:
    """Name, size and time of each of the files; nothing if one is missing."""
    try:
        found = [(path.name, path.stat()) for path in model_files(folder)]
    except OSError:
        return ()
    return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in found)
