"""``recbole-lite recommend`` and ``pack``: one history, files of them, mistakes in both."""

import csv
import io
import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from recbole_lite import Recommender
from recbole_lite.cli.main import main
from recbole_lite.inference import batch_recommend
from recbole_lite.inference.batch_recommend import BatchOptions, recommend_file
from recbole_lite.utils.errors import DataError, RequestError


@pytest.fixture
def model(trained):
    return trained("SASRec")


@pytest.fixture
def recommender(model):
    return Recommender.load(model)


def written(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_file_gets_what_its_histories_get(recommender, workdir, monkeypatch):
    monkeypatch.setattr(batch_recommend, "READ_AHEAD", 2)
    draw = random.Random(1)
    histories = [[f"i{draw.randrange(24)}" for _ in range(draw.randrange(1, 12))] for _ in "x" * 23]
    lines = [f'{n},"x, y",{"; ".join(row)}' for n, row in enumerate(histories)]
    Path("in.csv").write_text("user_id,note,history\n" + "\n\n".join(lines) + "\n")
    summary = recommend_file(recommender, "in.csv", "out.csv", BatchOptions(k=4, batch_size=5))
    rows = written("out.csv")
    assert list(rows[0]) == ["user_id", "rank", "item_id", "title", "score"]
    assert (summary.users, summary.rows, summary.unknown) == (23, 92, 0)
    expected = recommender.recommend(histories, k=4)
    for n, wanted in enumerate(expected):
        found = rows[4 * n : 4 * n + 4]
        assert [r["user_id"] for r in found] == [str(n)] * 4
        assert [int(r["rank"]) for r in found] == [1, 2, 3, 4]
        assert [(r["item_id"], r["title"]) for r in found] == [(w.id, w.title) for w in wanted]
        assert [float(r["score"]) for r in found] == pytest.approx([w.score for w in wanted], 1e-4)


def test_unknown_ids_are_counted_or_refused_with_their_line(recommender, workdir):
    text = "user_id,history\r\na,i1;zz;i2\r\nb,zz\r\nc,i1;i2\r\n"
    Path("in.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())  # as spreadsheets write it
    summary = recommend_file(recommender, "in.csv", "out.csv", BatchOptions(k=2))
    assert [r["user_id"] for r in written("out.csv")] == ["a", "a", "c", "c"]
    assert str(summary) == (
        "3 histories, 4 recommendations; left out: 2 ids not in the catalogue ('zz'); nothing for "
        "1 users with unknown items alone (b)"
    )
    with pytest.raises(DataError, match=r"in\.csv, line 2: 1 id not in the catalogue \('zz'\) \(u"):
        recommend_file(recommender, "in.csv", "other.csv", BatchOptions(unknown="error"))
    assert not Path("other.csv").exists()


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", r"in\.csv, line 1: no column 'user_id'; .* it has nothing"),
        (b"user,history\n", r"line 1: no column 'user_id'; .* it has user, history"),
        (b"user_id,history\na,i1\nb,\n", r"line 3: the history of user 'b' is empty"),
        (b"user_id,history\na,i1\nb, ; \n", r"line 3: the history of user 'b' is empty"),
        (b"user_id,history\na,i1\nb\n", r"line 3: 1 cells, the header has 2"),
        (b"user_id,history\na,i1,i2\n", r"line 2: 3 cells, the header has 2"),
        (b'user_id,history\na,"i1\n', r"not valid CSV: unexpected end of data"),
        (b"user_id,history\na,i1\nb,\xe9\n", r"not UTF-8 text \(byte 0xe9 in line 1 or after\); c"),
    ],
)
def test_malformed_files(content, message, recommender, workdir):
    Path("in.csv").write_bytes(content)
    with pytest.raises(DataError, match=message):
        recommend_file(recommender, "in.csv", "out.csv")
    assert [path.name for path in workdir.glob("*.csv")] == ["in.csv"]


def test_files_that_cannot_be(recommender, workdir):
    with pytest.raises(DataError, match=r"absent\.csv: cannot be read: No such file"):
        recommend_file(recommender, "absent.csv", "out.csv")
    Path("in.csv").write_text("user_id,history\na,i1\n")
    with pytest.raises(DataError, match="the output would replace the input"):
        recommend_file(recommender, "in.csv", "./in.csv")
    with pytest.raises(RequestError, match="k must be a whole number from 1 to 24"):
        recommend_file(recommender, "in.csv", "out.csv", BatchOptions(k=100))
    with pytest.raises(RequestError, match="batch_size must be a whole number from 1 on, found 0"):
        recommend_file(recommender, "in.csv", "out.csv", BatchOptions(batch_size=0))
    with pytest.raises(RequestError, match="unknown must be one of warn, error, found 'ignore'"):
        BatchOptions(unknown="ignore")


MEASURE = """
import resource, sys
from recbole_lite import Recommender
from recbole_lite.inference.batch_recommend import BatchOptions, recommend_file
import torch
torch.set_num_threads(1)
recommender = Recommender.load(sys.argv[1])
recommend_file(recommender, sys.argv[2], "warm.csv", BatchOptions(k=3))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
recommend_file(recommender, sys.argv[3], "out.csv", BatchOptions(k=3))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_does_not_grow_with_the_file(model, workdir):
    """12,000 histories in 13 MB after 4,096: what is held at once is the same."""
    draw = random.Random(2)
    for name, n in (("few.csv", 4096), ("many.csv", 12_000)):
        with open(name, "w") as file:
            file.write("user_id,history\n")
            for user in range(n):
                history = ";".join(f"i{draw.randrange(20)}" for _ in range(30))
                file.write(f"user number {user} {'x' * 1000},{history}\n")
    assert Path("many.csv").stat().st_size > 13_000_000
    command = [sys.executable, "-c", MEASURE, str(model), "few.csv", "many.csv"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) * 1024 < 5_000_000  # ru_maxrss is in KiB
    with open("out.csv") as file:
        assert sum(1 for _ in file) == 3 * 12_000 + 1


# -- command line -----------------------------------------------------------------------------


def test_titles_and_ids_on_the_command_line(model, capsys):
    assert main(["recommend", f"--model={model}", "--history=toy toy 0; i5", "--k=3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "History  toy toy 0 | rooms rooms 5"
    assert len(lines) == 4
    (expected,) = Recommender.load(model).recommend([["i0", "i5"]], k=3)
    assert [line.split()[-1] for line in lines[1:]] == [r.id for r in expected]
    assert expected[0].title in lines[1]


def test_candidates_on_the_command_line(model, capsys):
    command = ["recommend", f"--model={model}", "--history=i5", "--candidates=toy toy 0;i5;i7"]
    assert main([*command, "--include_seen"]) == 0
    assert {line.split()[-1] for line in capsys.readouterr().out.splitlines()[1:]} == {
        "i0",
        "i5",
        "i7",
    }
    assert main([*command[:3], "--candidates=i5"]) == 0
    assert "nothing is left to recommend" in capsys.readouterr().out


def test_seen_items_on_the_command_line(trained, capsys):
    folder = trained("SASRec", repeatable=True)
    command = ["recommend", f"--model={folder}", "--history=i5", "--k=24"]
    for flags, count in (([], 24), (["--include_seen"], 24), (["--exclude_seen"], 23)):
        assert main([*command, *flags]) == 0
        assert len(capsys.readouterr().out.splitlines()) == 1 + count


def test_a_file_on_the_command_line(model, capsys, workdir):
    Path("in.csv").write_text("user_id,history\na,i1 i2\nb,zz\n")
    command = ["recommend", f"--model={model}", "--input=in.csv", "--output=out.csv"]
    assert main([*command, "--separator= ", "--k=2"]) == 0
    assert "out.csv: 2 histories, 2 recommendations; left out: 1 ids" in capsys.readouterr().out
    assert len(written("out.csv")) == 2


CHOICE = {"where": {"year": {"gte": 1991}}, "exclude": ["i9"], "diversity": 0.5}
FLAGS = ["--where={year: {gte: 1991}}", "--exclude=i9", "--diversity=0.5", "--k=4"]


def test_filters_exclusion_diversity_and_reasons_on_the_command_line(model, capsys):
    recommender = Recommender.load(model)
    (expected,) = recommender.recommend([["i3", "i5"]], 4, explain=True, **CHOICE)
    assert main(["recommend", f"--model={model}", "--history=i3;i5", "--explain", *FLAGS]) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    assert [line.split()[-1] for line in lines[::2]] == [one.id for one in expected]
    reasons = expected[0].because
    named = " | ".join(f"{one.title} ({one.effect:+.2f})" for one in reasons)
    assert lines[1].strip() == f"because of {named}"


def test_filters_exclusion_and_diversity_of_a_file(model, workdir, capsys):
    Path("in.csv").write_text("user_id,history\na,i3;i5\nb,i7\n")
    files = ["--input=in.csv", "--output=out.csv"]
    assert main(["recommend", f"--model={model}", *files, *FLAGS]) == 0
    rows = Recommender.load(model).recommend([["i3", "i5"], ["i7"]], 4, **CHOICE)
    wanted = [one.id for row in rows for one in row]
    assert [row["item_id"] for row in written("out.csv")] == wanted


def test_similar_items_on_the_command_line(model, capsys):
    command = ["similar", f"--model={model}", "--item=toy toy 0"]
    assert main([*command, "--k=3"]) == 0
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == "Similar to toy toy 0 (id i0)"
    expected = Recommender.load(model).similar("i0", 3)
    assert [line.split()[-1] for line in lines] == [one.id for one in expected]
    assert f"{expected[0].title}  " in lines[0]
    assert f"{expected[0].score:.4f}" in lines[0]
    assert main([*command, "--by=text"]) == 2
    assert "the model has no vectors of texts" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--history=toy toy 99"], "no item has the id or title 'toy toy 99'; did you mean toy"),
        (["--history=;"], "history 0 is empty"),
        (["--history=i1", "--k=99"], "k must be a whole number from 1 to 24"),
        (["--history=i1", "--candidates=Nil"], "no item has the id or title 'Nil'"),
        (["--history=i1", "--exclude=Nil"], "no item has the id or title 'Nil'"),
        (["--history=i1", "--where=year"], "where maps fields to values, as in"),
        (["--history=i1", "--where={yaer: 1990}"], "no item has the field 'yaer'; did you mean ye"),
        (["--history=i1", "--diversity=2"], "diversity must be a number from 0 to 1, found 2.0"),
        (["--input=in.csv"], "--input and --output go together"),
        (["--input=a", "--output=b", "--explain"], "--explain goes with --history"),
        (["--history=i1", "--device=gpu9"], "--device=gpu9: "),
        (["--history=i1", "--separator="], "--separator must not be empty"),
    ],
)
def test_mistakes_are_one_message_and_exit_status_2(arguments, message, model, capsys):
    assert main(["recommend", f"--model={model}", *arguments]) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert "Traceback" not in printed


def test_a_folder_that_is_no_model_on_the_command_line(capsys):
    assert main(["recommend", "--model=saved/none", "--history=x"]) == 2
    assert capsys.readouterr().err.startswith("error: saved/none: no such folder; give the folder")


def test_pack(model, capsys, tmp_path):
    assert main(["pack", f"--model={model}", f"--out={tmp_path / 'packed'}"]) == 0
    assert "SASRec-tiny, 24 items" in capsys.readouterr().out
    histories = [["i1", "i2"]]
    packed = Recommender.load(tmp_path / "packed")
    assert packed.recommend(histories) == Recommender.load(model).recommend(histories)
    assert main(["pack", f"--model={tmp_path / 'packed'}"]) == 2
    assert "already a packed model" in capsys.readouterr().err


@pytest.mark.parametrize("how", ["frozen", "full"])
def test_pack_completes_the_folder_of_an_interrupted_run(how, trained, tmp_path, capsys):
    whole = trained("LiteLLM4Rec", item_llm_training=how)
    folder = shutil.copytree(whole, tmp_path / "run")
    content = json.loads((folder / "config.json").read_text())
    about = content.pop("recommender")
    (folder / "config.json").write_text(json.dumps(content))
    (folder / "items.jsonl").unlink()
    (folder / "model.safetensors").unlink(missing_ok=True)
    assert main(["pack", f"--model={folder}"]) == 0
    assert f"{folder}: complete" in capsys.readouterr().out
    histories = [["i1", "i2"]]
    expected = Recommender.load(whole).recommend(histories)
    assert Recommender.load(folder).recommend(histories) == expected
    again = json.loads((folder / "config.json").read_text())["recommender"]
    assert {k: v for k, v in again.items() if k != "results"} == {
        k: v for k, v in about.items() if k != "results"
    }
    (valid,) = again["results"]["valid"].values()
    assert valid == pytest.approx(about["results"]["valid"]["ndcg@5"])


def test_pack_refuses_models_that_cannot(trained, capsys):
    assert main(["pack", f"--model={trained('Pop')}"]) == 2
    assert "Pop cannot recommend from a list of items alone" in capsys.readouterr().err


# -- streams ----------------------------------------------------------------------------------


def test_standard_input_to_standard_output(recommender, model, monkeypatch, capfd, workdir):
    text = b"user_id,history\na,i1;i2\nb,i3\n"
    Path("in.csv").write_bytes(text)
    recommend_file(recommender, "in.csv", "out.csv", BatchOptions(k=2))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))
    command = ["recommend", f"--model={model}", "--input=-", "--output=-", "--k=2"]
    assert main(command) == 0
    out, err = capfd.readouterr()
    assert out == Path("out.csv").read_text()
    assert "standard output: 2 histories, 4 recommendations" in err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "standard input, line 1: no column 'user_id'"),
        (b"user_id,history\na\n", "standard input, line 2: 1 cells"),
        (b"user_id,history\na,zz\n", "standard input, line 2: 1 id not in the catalogue"),
    ],
)
def test_mistakes_in_a_stream_are_of_the_stream(text, message, recommender, monkeypatch, workdir):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))
    with pytest.raises(DataError, match=message):
        recommend_file(recommender, "-", "out.csv", BatchOptions(unknown="error"))
    assert not Path("out.csv").exists()


def test_a_folder_is_no_output(recommender, workdir):
    Path("in.csv").write_text("user_id,history\na,i1\n")
    with pytest.raises(DataError, match="is a folder; name a file for the output"):
        recommend_file(recommender, "in.csv", workdir)


def test_nobody_reads_the_recommendations_any_more(model, workdir):
    """Through real pipes: no traceback, not at the interpreter's end either."""
    rows = "".join(f"u{n},i{n % 20}\n" for n in range(20_000))
    Path("in.csv").write_text(f"user_id,history\n{rows}")
    words = ["recommend", f"--model={model}", "--input=in.csv", "--output=-"]
    command = [sys.executable, "-m", "recbole_lite", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as program:
        assert program.stdout.readline() == b"user_id,rank,item_id,title,score\n"
        program.stdout.close()
        assert program.stderr.read() == b""
        assert program.wait(60) == 141
