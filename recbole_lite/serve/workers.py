"""Several processes that serve one model: uvicorn's supervisor, with this service's signals."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

from prometheus_client.multiprocess import mark_process_dead
from uvicorn import Config
from uvicorn.supervisors.multiprocess import Multiprocess, Process

from recbole_lite.serve.live_model import model_state


class Workers(Multiprocess):
    """Worker processes that accept connections of one socket; one that has died is replaced.

    Parameters
    ----------
    config : uvicorn.Config
        Its application is a function that a worker calls; `workers` is their number.
    listener : socket.socket
    folder : Path
        Of the model.
    metrics : Path
        Folder in which the workers keep their figures.
    on_ready : callable
        Called when the first worker serves; the others start after it.

    Attributes
    ----------
    failed : bool
        The first worker has ended before it could serve.
    """

    def __init__(
        self,
        config: Config,
        listener: socket.socket,
        folder: Path,
        metrics: Path,
        on_ready: Callable[[], None],
    ):
        super().__init__(config, [listener])
        self._folder, self._metrics, self._on_ready = folder, metrics, on_ready
        self._files = model_state(folder)
        self.failed = False

    def init_processes(self) -> None:
        """Start one worker and, when it serves, the others: they find what it has written."""
        first = self._start()
        while not first.is_ready(1):
            self.handle_signals()
            self.failed = not first.process.is_alive()
            if self.failed or self.should_exit.is_set():
                self.should_exit.set()
                return
        self._on_ready()
        while len(self.processes) < self.processes_num:
            self._start()

    def _start(self) -> Process:
        process = Process(self.config, self.sockets)
        process.start()
        self.processes.append(process)
        return process

    def keep_subprocess_alive(self) -> None:
        """Replace dead workers; if the replacement finds another model, the others load it too."""
        before = {process.pid for process in self.processes}
        super().keep_subprocess_alive()
        dead = before - {process.pid for process in self.processes}
        for pid in dead:
            mark_process_dead(pid, str(self._metrics))
        if dead and model_state(self._folder) != self._files:
            self._reload(before)

    def handle_hup(self) -> None:
        """Let all workers load the model again."""
        self._reload({process.pid for process in self.processes})

    def _reload(self, pids: set[int | None]) -> None:
        self._files = model_state(self._folder)
        for process in self.processes:
            if process.pid in pids and process.process.is_alive():
                os.kill(process.process.pid, signal.SIGHUP)  # type: ignore[arg-type]

    def terminate_all(self) -> None:
        """Stop the workers; a socket left open here would accept connections nobody answers."""
        for listener in self.sockets:
            listener.close()
        super().terminate_all()
