"""The process of a command: its standard streams, closed pipes, signals.

The command line alone changes them; a program that imports the package keeps its own.
"""

from __future__ import annotations

import io
import os
import re
import select
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

COLOURS = re.compile(r"\x1B\[[0-9;]*m")
_STANDARD = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))
_TERMINATION = {getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)}
_SIGNALS = (signal.SIGINT, *_TERMINATION)
_received: list[int] = []  # those of _SIGNALS that have come
_owner = 0  # process that catches them
_apart = False  # whether children are to leave the process group


class Interrupted(KeyboardInterrupt):
    """A signal. Python itself ends by SIGINT if the plain one passed through an ``exec``."""


def prepare() -> None:
    """Make this process one that a shell can steer.

    Closed standard streams become the null device. What cannot be written to standard error is
    lost without an error. SIGTERM and SIGHUP interrupt as Ctrl-C does.
    """
    _open_closed_streams()
    sys.stdout.reconfigure(errors="backslashreplace")  # titles are not always in the locale's code
    sys.stderr = _Console(
        sys.stderr.buffer, sys.stderr.encoding, "backslashreplace", line_buffering=True
    )
    _catch()


def finish() -> None:
    """Flush the standard streams, and let signals end the process at once.

    At the interpreter's end, what fails or is raised would be shown.
    """
    for number in _SIGNALS:
        if signal.getsignal(number) is _stop:
            signal.signal(number, signal.SIG_DFL)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            _silence(stream)


def forget_signals() -> None:
    """Begin anew: a signal that an earlier sweep of this process got is not this command's."""
    _received.clear()


def uses_colours() -> bool:
    """Whether standard error shows colours: a terminal, and no ``NO_COLOR`` (no-color.org)."""
    return sys.stderr.isatty() and not os.environ.get("NO_COLOR")


def flush_output() -> None:
    """Flush standard output; an error names it."""
    try:
        sys.stdout.flush()
    except OSError as error:
        error.filename = "standard output"
        raise


def is_output_closed() -> bool:
    """Whether standard output is a pipe that nobody reads any more."""
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        return bool(poll.poll(0))
    except (AttributeError, OSError, ValueError):  # Windows; no file
        return False


def was_interrupted() -> bool:
    """Whether a signal has asked this process to end."""
    return bool(_received)


def interrupted_status() -> int:
    """Exit status after a signal, as shells count: 130 for Ctrl-C, 143 for SIGTERM."""
    return 128 + (_received[-1] if _received else signal.SIGINT)


@contextmanager
def termination_interrupts() -> Iterator[None]:
    """Let SIGTERM and SIGHUP do in the block what Ctrl-C does, whatever handles that."""
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    _catch()
    try:
        yield
    finally:
        if _in_main_thread():
            for number, handler in before.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)


@contextmanager
def children_apart() -> Iterator[None]:
    """Start in the block what has child processes and signal handlers of its own, as Ray does.

    The children get a process group of their own: a signal to this one's (``timeout``, a batch
    system) does not reach them, so that this process can end what they do. SIGTERM and SIGHUP wait
    for the end of the block and then interrupt. Use it within :func:`termination_interrupts`.
    """
    global _apart
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _TERMINATION)
    _apart = True
    try:
        yield
    finally:
        _apart = False
        _catch()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _leave_group() -> None:
    if _apart:
        os.setpgid(0, 0)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _TERMINATION)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_group)


def _catch() -> None:
    global _owner
    if not _in_main_thread():
        return
    _owner = os.getpid()
    for number in _SIGNALS:
        # Ignored signals stay so (nohup, jobs in the background); a library has its own Ctrl-C.
        handler = signal.getsignal(number)
        ours = number != signal.SIGINT or handler is signal.default_int_handler
        if ours and handler is not signal.SIG_IGN:
            signal.signal(number, _stop)


def _stop(number: int, frame) -> None:
    if number != signal.SIGINT and os.getpid() != _owner:  # a forked child has nothing to say
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        return
    _received.append(number)
    handler = signal.getsignal(signal.SIGINT)
    if callable(handler) and handler is not _stop:
        handler(signal.SIGINT, frame)
    else:
        raise Interrupted


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


class _Console(io.TextIOWrapper):
    """Standard error: a lost message must not end the work; no colours with ``NO_COLOR``."""

    def write(self, text: str) -> int:
        try:
            super().write(COLOURS.sub("", text) if os.environ.get("NO_COLOR") else text)
        except OSError:
            _silence(self)
        return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError:
            _silence(self)


def _open_closed_streams() -> None:
    for number, (name, mode) in enumerate(_STANDARD):
        if getattr(sys, name) is None:
            try:
                os.fstat(number)
            except OSError:  # free: the next file that is opened would be taken for the stream
                os.open(os.devnull, os.O_RDWR)
            stream = open(os.devnull, mode, encoding="utf-8")  # noqa: SIM115
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)  # also keeps it open when another takes its place


def _silence(stream) -> None:
    """Send what a stream still holds, and all that follows, to the null device."""
    with suppress(OSError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
