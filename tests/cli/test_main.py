"""The command line itself: configuration files, empty values, each command's words, versions."""

import html
import io
import os
import re
import shlex
import sys
from pathlib import Path

import pytest

from recbole_lite import __version__
from recbole_lite.cli import run as run_command
from recbole_lite.cli.main import main, run_main


@pytest.fixture
def files(monkeypatch, workdir):
    """Contents of the configuration files that a command line names."""

    def given(*arguments):
        found = []

        def train(args):
            for path in args.config_files:  # each is read again for a baseline
                assert Path(path).read_text() == Path(path).read_text()
                found.append(Path(path).read_text())

        monkeypatch.setattr(run_command, "train", train)
        return run_main(list(arguments)), found

    for name in ("a.yaml", "b.yaml", "my c.yaml"):
        Path(name).write_text(name)
    return given


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--config_files=a.yaml b.yaml"], ["a.yaml", "b.yaml"]),  # RecBole's form
        (["--config_files=my c.yaml"], ["my c.yaml"]),
        (["--config_files", "my c.yaml", "--config_files=b.yaml  a.yaml"],
         ["my c.yaml", "b.yaml", "a.yaml"]),
        (["--config_files=-", "--config_files=a.yaml"], ["typed", "a.yaml"]),
        ([], []),
    ],
)  # fmt: skip
def test_configuration_files(arguments, expected, files, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"typed")))
    assert files(*arguments) == (0, expected)


def test_a_configuration_file_from_a_pipe_is_read_once(files):
    read, write = os.pipe()
    os.write(write, b"piped")
    os.close(write)
    assert files(f"--config_files=/dev/fd/{read}") == (0, ["piped"])
    os.close(read)


def test_a_path_that_could_be_several_files(files, capsys):
    assert files("--config_files=my a.yaml") == (2, [])
    assert capsys.readouterr().err == (
        "error: --config_files: there is no file 'my a.yaml'; read as several paths, 'my' is "
        "missing; repeat --config_files for each file whose path has a space\n"
    )


@pytest.mark.parametrize(
    "words",
    [
        "run --config_files=", "run --model=", "recommend --model= --history=x",
        "recommend --model=x --input= --output=y", "recommend --model=x --history=i --candidates=",
        "recommend --model=x --history=i --where=", "similar --model=x --item=",
        "calibrate --model=",
        "pack --model=x --out=", "export --model=x --out=", "serve --model=", "report a ''",
        "data check x --data_path=", "ablate --out=", "reproduce table4 --out=",
        "run --model=Pop --dataset=tiny --resume=", "run --model=Pop --dataset=tiny --init_from=",
    ],
)  # fmt: skip
def test_an_empty_value_is_refused(words, capsys):
    assert main(shlex.split(words)) == 2
    assert re.fullmatch(r"error: .* must not be empty.*\n", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("words", "does", "said"),
    [
        ("run", "cli.run.train", "--resume=FOLDER continues a run that has saved"),
        ("run --tune=x", "cli.tune.run_sweep", "continues a sweep that has started"),
        ("ablate", "cli.ablate.run", "the same command continues after the last result"),
        ("reproduce table4", "cli.reproduce.run", "continues after the last row"),
        ("recommend --model=x --history=i", "cli.recommend.run", "only when it is complete"),
        ("pack --model=x", "cli.pack.run", "run the command again"),
        ("export --model=x --out=y", "cli.export.run", "run the command again"),
        ("serve --model=x", "cli.serve.run", "before the service had started"),
        ("data prepare x", "cli.data.run", "continues the download"),
        ("data list", "cli.data.run", ""),
        ("compare a b", "cli.compare.run", "no run was changed"),
        ("report a", "cli.report.run", "writes all reports again"),
    ],
)
def test_each_command_has_words_of_its_own_for_an_interruption(
    words, does, said, monkeypatch, capsys
):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(f"recbole_lite.{does}", interrupted)
    assert main(words.split()) == 130
    error = capsys.readouterr().err
    assert error.startswith("interrupted")
    assert error.endswith(f"{said}\n")
    assert ("--resume" in error) == words.startswith("run")


@pytest.mark.parametrize("program", [main, run_main])
def test_version(program, capsys):
    with pytest.raises(SystemExit, match="0"):
        program(["--version"])
    assert capsys.readouterr().out == f"recbole-lite {__version__}\n"


def test_the_command_in_a_report_runs_for_a_folder_with_spaces(quick, capsys):
    from recbole_lite import run

    result = run("Pop", "tiny", config_dict=quick(checkpoint_dir="my runs & é"))
    page = Path(result["report"]).read_text(encoding="utf-8")
    command = html.unescape(re.search(r"<code>(python run_recbole_lite\.py .*)</code>", page)[1])
    assert run_main(shlex.split(command)[2:]) == 0
    assert f"{result['test_result']['ndcg@5']:.4f}" in capsys.readouterr().out
