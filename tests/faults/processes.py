"""Runs in processes of their own, cheap: forked from one that has imported everything.

A run started from scratch spends seconds on importing torch. Here a server imports once, stays
free of threads, and forks for each job. A job can be killed from outside at any time, or can be
told to die (SIGKILL) just before its n-th file operation; it can get a small or read-only disk.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import logging
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
ROOT = TESTS.parent
SETTINGS = {
    "epochs": 4,
    "stopping_step": 100,
    "train_batch_size": 64,
    "eval_batch_size": 16,
    "MAX_ITEM_LIST_LENGTH": 6,
    "learning_rate": 0.01,
    "show_progress": False,
    "topk": [3, 5],
    "valid_metric": "NDCG@5",
    "rec_llm_init": "scratch",
    "rec_llm_config": {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2},
    "item_dropout": 0.1,
    "user_dropout": 0.1,
    "item_embedding_cache_dir": "cache",
}


class Processes:
    """Client of the server; use it in a ``with`` statement."""

    def __enter__(self):
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",  # a forked child must not wait for threads that it lacks
            "TOKENIZERS_PARALLELISM": "false",
        }
        self._server = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        return self

    def __exit__(self, *_):
        self._server.stdin.close()
        self._server.wait()
        self._server.stdout.close()

    def _ask(self, **request):
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        answer = self._server.stdout.readline()
        if not answer:
            raise RuntimeError("the server of the test processes has died; see its stderr")
        return json.loads(answer)

    def world(self, folder: Path) -> dict:
        """Write a data set and a language model into `folder`; the settings that name them."""
        folder = Path(folder).resolve()
        assert self.finish(self.start(folder, "world")) == 0, (folder / "stderr").read_text()
        return {**SETTINGS, "data_path": str(folder / "data"), "item_llm": str(folder / "bert")}

    def start(self, folder: Path, call: str, *arguments, **options) -> Job:
        """Fork a process that works in `folder`.

        Parameters
        ----------
        call : {"run", "cli", "world"}
            ``run`` takes the keyword arguments of ``recbole_lite.run`` as a dict and writes its
            result to ``result.json``; ``cli`` takes the arguments of ``recbole-lite``. The
            process's ``stdout``, ``stderr`` and ``events`` are files in the folder.
        options
            ``die_at``: number of the file operation (from 0) before which the process kills
            itself; ``file_limit``: bytes of the largest file that it may write; ``tmpfs``:
            ``{"at": folder, "size": "1m", "read_only": bool, "enter": bool}``, a disk that
            only the process sees. It begins with a copy of ``<at>.before``, where that exists,
            becomes the working directory (unless ``enter`` is false), and is copied to
            ``<at>.after`` when the process ends.
        """
        folder = Path(folder).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        job = {"folder": str(folder), "call": call, "arguments": arguments, **options}
        return Job(self._ask(fork=job), folder)

    def finish(self, job: Job) -> int:
        """Wait for the end; exit status, minus the signal if one has killed it."""
        return os.waitstatus_to_exitcode(self._ask(wait=job.pid))


class Job:
    """A process that was started."""

    def __init__(self, pid: int, folder: Path):
        self.pid, self.folder = pid, folder

    def kill(self):
        """``kill -9``; the server has not reaped it yet, so the number is still its own."""
        os.kill(self.pid, signal.SIGKILL)

    @property
    def result(self) -> dict:
        """What ``run`` has returned, without figures of time."""
        result = json.loads((self.folder / "result.json").read_text())
        del result["seconds"], result["log_file"]
        for epoch in result["history"]:
            del epoch["seconds"]
        return result

    @property
    def events(self) -> list[str]:
        """File operations (``open``, ``rename`` ...) and log lines, in order."""
        path = self.folder / "events"
        return path.read_text().splitlines() if path.exists() else []  # killed before it began

    def operations(self) -> list[str]:
        """File operations alone; `die_at` counts in them."""
        return [event for event in self.events if event.startswith("file ")]


# -- the server -------------------------------------------------------------------------------


def serve():
    """Import, then fork for each line of the standard input."""
    sys.path.insert(0, str(TESTS))
    import conftest  # noqa: F401
    import pyarrow.pandas_compat  # noqa: F401
    import recbole.trainer  # noqa: F401
    import torch
    from tensorboard.plugins.hparams import api_pb2  # noqa: F401

    import recbole_lite.cli.main
    import recbole_lite.data.dataset
    import recbole_lite.quick_start
    import recbole_lite.text.text_encoder
    import recbole_lite.trainer.trainer  # noqa: F401
    from recbole_lite.config.known_keys import known_keys
    from recbole_lite.config.registry import get_model

    torch.set_num_threads(1)
    get_model("LiteLLM4Rec")
    get_model("SASRec")
    known_keys(get_model("SASRec"))  # parses every property file, once
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            answer = os.waitpid(request["wait"], 0)[1]
        else:
            answer = os.fork()
            if answer == 0:
                _work(**request["fork"])
        print(json.dumps(answer), file=answers, flush=True)


def _work(folder, call, arguments, die_at=None, file_limit=None, tmpfs=None):
    """Do a job in the forked process and leave."""
    status = 70
    try:
        os.chdir(folder)
        for name, descriptor in (("/dev/null", 0), ("stdout", 1), ("stderr", 2)):
            mode = os.O_RDONLY if descriptor == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC
            os.dup2(os.open(name, mode, 0o644), descriptor)
        _watch(folder, die_at)
        if file_limit is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # an error, as on a full disk
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
        with _disk(**tmpfs) if tmpfs else contextlib.nullcontext():
            status = _CALLS[call](*arguments)
    except SystemExit as ending:
        status = ending.code
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status or 0)


def _world():
    from tiny_data import write_tiny
    from tiny_llms import BUILDERS

    write_tiny(Path("data"))
    import torch

    torch.manual_seed(7)
    model, tokenizer = BUILDERS["bert"]()
    model.save_pretrained("bert")
    tokenizer.save_pretrained("bert")


def _run(kwargs):
    from recbole_lite import run

    text = json.dumps(run(**kwargs))
    Path("result.json").write_text(text)


def _cli(*arguments):
    from recbole_lite.cli.main import main

    return main(arguments)


_CALLS = {"run": _run, "cli": _cli, "world": _world}


def _watch(folder, die_at):
    """Note file operations under `folder` and log lines; die before operation `die_at`."""
    events = os.open("events", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o644)
    count = 0

    def note(text):
        os.write(events, (text.replace("\n", " ") + "\n").encode())

    def hook(event, arguments):
        nonlocal count
        if event == "open":
            path, _mode, flags = arguments
            if not flags & (os.O_WRONLY | os.O_RDWR):
                return
        elif event in ("os.rename", "os.remove", "os.mkdir"):
            path = arguments[0]
        else:
            return
        if not isinstance(path, (str, os.PathLike)):
            return
        path = os.path.abspath(path)
        if not path.startswith(folder):
            return
        note(f"file {count} {event} {os.path.relpath(path, folder)}")
        if count == die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        count += 1

    class Handler(logging.Handler):
        def emit(self, record):
            note(f"log {record.getMessage()}")

    logging.getLogger().addHandler(Handler())
    sys.addaudithook(hook)


@contextlib.contextmanager
def _disk(at, size="1m", read_only=False, enter=True):
    """Mount a disk that only this process sees; exit status 77 where that is not allowed."""
    new_namespace, new_user, private, ro = 0x00020000, 0x10000000, 0x44000, 1 | 32
    libc = ctypes.CDLL(None, use_errno=True)
    flags = new_namespace | (0 if os.geteuid() == 0 else new_user)
    Path(at).mkdir(parents=True, exist_ok=True)
    before = Path(f"{at}.before")
    failed = libc.unshare(flags) or libc.mount(b"none", b"/", None, private, None)
    target, options = os.fsencode(os.path.abspath(at)), f"size={size}".encode()
    if failed or libc.mount(b"tmpfs", target, b"tmpfs", 0, options):
        sys.exit(77)
    if before.exists():
        shutil.copytree(before, at, dirs_exist_ok=True)
    if read_only and libc.mount(b"tmpfs", target, b"tmpfs", ro, options):
        sys.exit(77)
    here = os.getcwd()
    os.chdir(at if enter else here)
    try:
        yield
    finally:
        os.chdir(here)
        shutil.copytree(at, f"{at}.after")


if __name__ == "__main__":
    serve()
    os._exit(0)  # nothing to tidy up, and Python's own way takes a second
