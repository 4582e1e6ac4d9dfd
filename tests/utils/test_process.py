"""Programs as a shell steers them: signals, closed pipes and streams, colours."""

import os
import signal
import subprocess
import sys

import pytest

from recbole_lite.utils import process
from tests.faults.processes import ROOT

# A command of a few lines in place of recbole-lite's, which import torch for seconds.
PROGRAM = """
import argparse, subprocess, os, signal, sys, time
from recbole_lite.utils import process
from recbole_lite.cli.main import _run_program

def work(args):
    {}

def make_parser(_):
    parser = argparse.ArgumentParser()
    parser.set_defaults(func=work, interrupted="own words")
    return parser, []

sys.exit(_run_program(make_parser, None))
"""
WAIT = "print('ready', flush=True); time.sleep(60)"


def start(work, **options):
    streams = dict.fromkeys(("stdout", "stderr"), subprocess.PIPE) | options
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **streams.pop("env", {})}
    command = [sys.executable, "-c", PROGRAM.format(work)]
    return subprocess.Popen(command, text=True, env=environment, **streams)


def heed_signals():
    """A shell lets its background jobs ignore SIGINT, nohup SIGHUP."""
    for name in (signal.SIGINT, signal.SIGHUP):
        signal.signal(name, signal.SIG_DFL)


def ends(program):
    out, err = program.communicate(timeout=60)
    return program.returncode, out, err


@pytest.mark.parametrize(
    "work",
    [
        WAIT,
        f'exec("{WAIT}")',  # Python then ends by SIGINT, whatever the program returns
        f"\n    try: {WAIT}\n    except KeyboardInterrupt: raise RuntimeError('torn apart')",
    ],
    ids=["waiting", "exec", "torn apart"],
)
@pytest.mark.parametrize(("name", "status"), [("INT", 130), ("TERM", 143), ("HUP", 129)])
def test_a_signal_gives_the_commands_words_and_the_shells_status(name, status, work):
    program = start(work, preexec_fn=heed_signals)
    assert program.stdout.readline() == "ready\n"
    program.send_signal(getattr(signal, f"SIG{name}"))
    assert ends(program) == (status, "", "own words\n")


def test_a_signal_that_is_ignored_stays_so():
    """As by nohup."""
    program = start(WAIT, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    assert program.stdout.readline() == "ready\n"
    program.send_signal(signal.SIGHUP)
    program.send_signal(signal.SIGTERM)
    assert ends(program)[0] == 143


def test_a_forked_child_dies_of_the_signal_without_a_word():
    work = """
    read, write = os.pipe()
    child = os.fork()
    if child == 0: os.write(write, b"x"); time.sleep(60); os._exit(0)
    os.read(read, 1)
    os.kill(child, signal.SIGTERM)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))"""
    assert ends(start(work)) == (0, f"{-signal.SIGTERM}\n", "")


def test_children_started_apart_do_not_get_the_groups_signals():
    """As Ray does: a child, and a handler that would be in the way."""
    work = """
    say = "import os, signal; print(os.getpgrp(), signal.pthread_sigmask(signal.SIG_BLOCK, []))"
    with process.termination_interrupts():
        with process.children_in_own_group():
            child = subprocess.Popen(
                [sys.executable, "-c", say], stdout=subprocess.PIPE, text=True, preexec_fn=int
            )
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)
            group, mask = child.communicate()[0].split()
            print(int(group) == child.pid != os.getpgrp(), mask, flush=True)
        print("not reached")"""
    assert ends(start(work)) == (143, "True set()\n", "own words\n")


@pytest.mark.parametrize(
    ("work", "unbuffered"),
    [("print('x')", ""), ("print('x')", "1"), ("print('x' * 10**6)", ""), ("sys.exit('x')", "")],
)
def test_a_closed_pipe_ends_quietly(work, unbuffered):
    read, write = os.pipe()
    os.close(read)
    code, _, err = ends(start(work, stdout=write, env={"PYTHONUNBUFFERED": unbuffered}))
    os.close(write)
    assert (code, err) == ((1, "x\n") if "exit" in work else (141, ""))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
def test_output_that_cannot_be_written_is_an_error():
    with open("/dev/full", "w") as full:
        code, _, err = ends(start("print('x')", stdout=full, env={"PYTHONUNBUFFERED": ""}))
    assert (code, err) == (2, "error: standard output: No space left on device\n")


def test_nobody_reads_standard_error():
    read, write = os.pipe()
    os.close(read)
    work = "print('lost\\n' * 10**5, file=sys.stderr); print('done')"
    assert ends(start(work, stderr=write))[:2] == (0, "done\n")
    os.close(write)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_closed_standard_stream_is_the_null_device(number, tmp_path):
    work = f"""
    sys.stdin.read(); print("x"); print("x", file=sys.stderr)
    with open({str(tmp_path / "file")!r}, "w") as file: assert file.fileno() > 2"""
    code, out, err = ends(
        start(work, stdin=subprocess.DEVNULL, preexec_fn=lambda: os.close(number))
    )
    assert code == 0
    assert [out, err] == ["" if number == 1 else "x\n", "" if number == 2 else "x\n"]


@pytest.mark.parametrize(("no_color", "expected"), [("1", "red\n"), ("", "\x1b[31mred\x1b[0m\n")])
def test_no_color(no_color, expected):
    """RecBole's progress bars are coloured whatever they are shown on."""
    work = r"print('\x1b[31mred\x1b[0m', file=sys.stderr)"
    assert ends(start(work, env={"NO_COLOR": no_color}))[2] == expected


def test_the_log_is_coloured_on_terminals_only(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert process.uses_colours()
    monkeypatch.setenv("NO_COLOR", "1")
    assert not process.uses_colours()


def test_titles_that_the_locale_cannot_show():
    code, out, _ = ends(start("print('Amélie')", env={"PYTHONIOENCODING": "ascii"}))
    assert (code, out) == (0, "Am\\xe9lie\n")
