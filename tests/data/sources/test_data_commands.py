import argparse
import importlib.util
from pathlib import Path

import pytest

from recbole_lite.cli import data
from recbole_lite.utils.errors import DataError


def run(*words):
    parser = argparse.ArgumentParser()
    data.add_parser(parser.add_subparsers(dest="command"))
    args = parser.parse_args(["data", *map(str, words)])
    return args.func(args)


def test_prepare_check_list(write_meta, ml_1m_zip, data_path, tmp_path, capsys):
    write_meta(body=ml_1m_zip)
    (tmp_path / "ml-1m.zip").write_bytes(ml_1m_zip)
    options = ("--data_path", data_path)
    assert run("prepare", "tiny", "--from", tmp_path / "ml-1m.zip", *options) == 0
    assert "Tiny movies is ready in" in capsys.readouterr().out
    assert run("check", "tiny", *options) == 0
    assert capsys.readouterr().out.endswith("result: sound and as expected\n")
    (data_path / "tiny" / "tiny.user").unlink()
    assert run("check", "tiny", *options) == 2
    assert "problem: tiny.user was prepared but is missing" in capsys.readouterr().out
    assert run("list", *options) == 0
    table = capsys.readouterr().out.splitlines()
    row = next(line.split() for line in table if line.startswith("tiny "))
    assert row == ["tiny", "Tiny", "movies", "2", "2", "4", "yes"]
    row = next(line.split() for line in table if line.startswith("amazon-toys-2018 "))
    assert row[-4:] == ["?", "?", "?", "no"]


def test_errors_are_raised_for_the_top_level(data_path):
    with pytest.raises(DataError, match="is not a data set name"):
        run("prepare", "../x", "--data_path", data_path)


@pytest.mark.integration
def test_recboles_ml_100k(capsys):
    package = Path(importlib.util.find_spec("recbole").origin).parent
    assert run("check", "ml-100k", "--data_path", package / "dataset_example") == 0
    text = capsys.readouterr().out
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "density 0.063047 interactions / (users x items)" in lines
    assert "sparsity 93.6953% 1 - density" in lines
    assert lines[-1] == "result: sound and as expected"
