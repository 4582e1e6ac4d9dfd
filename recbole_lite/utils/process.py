"""The process of a command: its standard streams, closed pipes, signals.

Only the command line changes them, not a program that imports the package.
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
_children_in_own_group = False


class Interrupted(KeyboardInterrupt):
    """A signal; with a plain KeyboardInterrupt out of ``exec`` Python ends itself by SIGINT."""


def prepare() -> None:
    """Set up the standard streams and signals of a command.

    Closed standard streams become the null device. Failed writes to standard error are ignored.
    SIGTERM and SIGHUP interrupt as Ctrl-C does.
    """
    _open_closed_streams()
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    sys.stderr = _Console(
        sys.stderr.buffer, sys.stderr.encoding, "backslashreplace", line_buffering=True
    )
    _catch()


def finish() -> None:
    """Flush the standard streams, and let signals end the process at once.

    The interpreter would print errors and interrupts that come while it shuts down.
    """
    for number in _SIGNALS:
        if signal.getsignal(number) is _stop:
            signal.signal(number, signal.SIG_DFL)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            _silence(stream)


def clear_signals() -> None:
    """Forget the signals that earlier commands of this process received."""
    _received.clear()


def uses_colours() -> bool:
    """Whether standard error shows colours: a terminal, and no ``NO_COLOR`` (no-color.org)."""
    return sys.stderr.isatty() and not os.environ.get("NO_COLOR")


def flush_output() -> None:
    """Flush standard output; an error has it as its file name."""
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
    """Let SIGTERM and SIGHUP call the handler of Ctrl-C in the block."""
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    _catch()
    try:
        yield
    finally:
        if _in_main_thread():
            for number, handler in before.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)


@contextmanager
def children_in_own_group() -> Iterator[None]:
    """Give children that are started in the block a process group of their own.

    A signal to the group of this process (``timeout``, a batch system) does not reach them, so
    that this process can stop their work. Meant for libraries with child processes and signal
    handlers of their own, such as Ray. SIGTERM and SIGHUP wait for the end of the block and then
    interrupt. Use it within :func:`termination_interrupts`.
    """
    global _children_in_own_group
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _TERMINATION)
    _children_in_own_group = True
    try:
        yield
    finally:
        _children_in_own_group = False
        _catch()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _set_child_group() -> None:
    if _children_in_own_group:
        os.setpgid(0, 0)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _TERMINATION)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_set_child_group)


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
    """Standard error that ignores failed writes, and removes colours with ``NO_COLOR``."""

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
    """Send the buffer of a stream, and all later writes, to the null device."""
    with suppress(OSError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
