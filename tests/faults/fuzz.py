"""Random settings and random files: each either works or is refused with one clear line.

    python tests/faults/fuzz.py --settings 3000 --runs 200 --files 5000

The suite tries a few of each (test_fuzz.py); this script many, and says how many.
"""

from __future__ import annotations

import argparse
import csv
import math
import os
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS.parent), str(TESTS)]

import numpy as np  # noqa: E402
import recbole  # noqa: E402
import torch  # noqa: E402
import yaml  # noqa: E402
from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from tiny_data import QUICK, write_tiny  # noqa: E402

from recbole_lite import LiteConfig, run  # noqa: E402
from recbole_lite.config.command_line import parse_overrides  # noqa: E402
from recbole_lite.config.yaml_files import Loader  # noqa: E402
from recbole_lite.data.atomic_reader import read_atomic  # noqa: E402
from recbole_lite.utils.errors import RecboleLiteError  # noqa: E402

MODELS = ["LiteLLM4Rec", "ItemLM", "SASRec", "Pop", "P5"]
# Settings that start processes, join networks, ask for packages, or only say where things are.
ELSEWHERE = {
    "worker", "gpu_id", "local_rank", "nproc", "world_size", "ip", "port", "offset", "log_wandb",
    "num_workers", "ray_address",
    "data_path", "checkpoint_dir", "dataset", "model", "resume", "encoding",
}  # fmt: skip


def keys_and_defaults() -> dict[str, object]:
    """Every key of this project's property files and of RecBole's general ones."""
    ours, theirs = TESTS.parent / "properties", Path(recbole.__file__).parent / "properties"
    files = [theirs / "overall.yaml", theirs / "dataset" / "sample.yaml", ours / "overall.yaml"]
    files += [*sorted((ours / "model").glob("*.yaml")), ours / "dataset" / "ml-100k.yaml"]
    values = {}
    for path in files:
        values.update(yaml.load(path.read_text(encoding="utf-8"), Loader=Loader) or {})
    return {key: value for key, value in values.items() if key not in ELSEWHERE}


DEFAULTS = keys_and_defaults()
CODE = "__import__('os').system('touch pwned')"
SIMPLE = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([-1, 0, 1, 2, 3, 5, 0.0, 0.5, 0.99, 1.5, -0.1, 1e-9, math.nan, math.inf]),
    st.sampled_from(["", " ", "None", "true", "abc", "[1, 2", "{a: 1}", "item_id", "0,1", CODE]),
    st.text(max_size=8),
)
VALUES = st.one_of(
    SIMPLE,
    SIMPLE,
    st.lists(SIMPLE, max_size=3),
    st.dictionaries(st.sampled_from(["a", "LS", "valid", "inter", "item_id", "mode"]), SIMPLE),
    st.lists(
        st.dictionaries(st.sampled_from(["epochs", "learning_rate", "x"]), SIMPLE), max_size=2
    ),
)


@st.composite
def changes(draw):
    """One to three keys; near their defaults, or anything."""
    keys = draw(st.lists(st.sampled_from(sorted(DEFAULTS)), min_size=1, max_size=3, unique=True))
    return {key: draw(st.one_of(st.just(DEFAULTS[key]), VALUES, VALUES, VALUES)) for key in keys}


class Count:
    """What became of the inputs."""

    def __init__(self):
        self.counts: Counter[str] = Counter()

    def __call__(self, action) -> None:
        """Do it; a refusal must be an error of ours, with a message fit for a terminal."""
        try:
            action()
        except RecboleLiteError as error:
            self.counts["refused, explained" if error.__cause__ else "refused by a check"] += 1
            message = str(error)
            assert 10 < len(message) < 3000, message
            assert "Traceback" not in message
        else:
            self.counts["accepted"] += 1
        assert not os.path.exists("pwned")

    def __str__(self):
        return f"{self.counts.total()} inputs, {dict(self.counts)}"


def options(n):
    return settings(
        max_examples=n,
        deadline=None,
        database=None,
        derandomize=n <= 200,
        suppress_health_check=list(HealthCheck),
    )


def fuzz_settings(n: int, count: Count) -> None:
    """Configurations alone: from a dict, and the same values as text on a command line."""

    @options(n)
    @given(st.sampled_from(MODELS), changes(), st.booleans())
    def attempt(model, values, as_text):
        if as_text:
            overrides = [f"--{key}={value}" for key, value in values.items()]
            parse_overrides(overrides)
            count(lambda: LiteConfig(model, "ml-100k", overrides=overrides))
        else:
            count(lambda: LiteConfig(model, "ml-100k", config_dict=values))

    attempt()


def fuzz_runs(n: int, folder: Path, count: Count) -> None:
    """Whole runs of one epoch: what the configuration accepts must train, or be refused."""
    write_tiny(folder / "data")
    item_llm, writer = folder / "bert", folder / "writer"
    for kind in ("bert", "writer"):
        _language_model(kind, folder / kind)
    base = {**QUICK, "data_path": str(folder / "data"), "epochs": 1, "state": "ERROR"}
    base |= {"item_llm": str(item_llm), "item_embedding_cache_dir": str(folder / "cache")}
    base |= {"llm": str(writer), "tokenizer": str(writer), "eval_step": 1, "num_beams": 3}
    base |= {"llm_init": "pretrained", "local_files_only": True}

    @options(n)
    @given(st.sampled_from(MODELS), changes())
    def attempt(model, values):
        given_values = {**base, **values}
        count(lambda: run(model, "tiny", config_dict=given_values, saved=False))

    attempt()


def _language_model(kind: str, folder: Path) -> None:
    from tiny_llms import BUILDERS

    torch.manual_seed(7)
    model, tokenizer = BUILDERS[kind]()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


NUMBERS = ["1", "-1.5", "881250949", "1e3", "0.1", "", "9" * 25]
GOOD = {
    "token": st.one_of(st.sampled_from(["u1", "i 1", "", "nan", '"', "0", "00"]), st.text("aé名 ")),
    "token_seq": st.one_of(st.sampled_from(["a b", "", '"x', " "]), st.text("aé名 ")),
    "float": st.one_of(
        st.sampled_from(NUMBERS), st.floats(allow_nan=False, allow_infinity=False).map(repr)
    ),
    "float_seq": st.lists(st.sampled_from(NUMBERS[:5]), max_size=3).map(" ".join),
}
BAD = st.one_of(
    st.sampled_from(["1e400", "nan", "inf", "0x1", " 1", "1_0", "\0", "\r", "a\tb"]), st.text()
)
HEADERS = ["a", "a:b", ":token", "user_id:token ", "", "f0:token"]


@st.composite
def atomic_bytes(draw):
    """A file that is right, or one with a wrong cell, header, line, ending, encoding or byte."""
    kinds = draw(st.lists(st.sampled_from(sorted(GOOD)), min_size=1, max_size=4))
    header = [f"f{n}:{kind}" for n, kind in enumerate(kinds)]
    rows = draw(st.lists(st.tuples(*(GOOD[kind] for kind in kinds)).map(list), max_size=6))
    end, encoding, damage = "\n", "utf-8", draw(st.integers(0, 9))
    if damage == 1 and rows:
        row = rows[draw(st.integers(0, len(rows) - 1))]
        row[draw(st.integers(0, len(row) - 1))] = draw(BAD)
    elif damage == 2:
        header[draw(st.integers(0, len(header) - 1))] = draw(st.sampled_from(HEADERS))
    elif damage == 3 and rows:
        rows[draw(st.integers(0, len(rows) - 1))].append("x")
    elif damage == 4:
        end = draw(st.sampled_from(["\r\n", "\r"]))
    elif damage == 5:
        encoding = draw(st.sampled_from(["utf-16", "utf-8-sig", "utf-32"]))
    text = end.join("\t".join(cells) for cells in [header, *rows])
    data = bytearray((text + draw(st.sampled_from([end, ""]))).encode(encoding, "surrogatepass"))
    if damage == 6:
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data[: draw(st.integers(0, len(data)))] if damage == 7 else data)


def fuzz_files(n: int, folder: Path, count: Count) -> None:
    """Atomic files: what is accepted holds exactly the cells that a split of the text holds."""
    path = folder / "x.inter"

    def read(data):
        table = read_atomic(path)
        lines = data.decode("utf-8").removesuffix("\n").split("\n")
        cells = [line.split("\t") for line in lines]
        names = [cell.partition(":")[0] for cell in cells[0]]
        assert list(table.types) == names
        assert len(table.frame) == len(cells) - 1
        for place, (name, kind) in enumerate(table.types.items()):
            raw = [row[place] for row in cells[1:]]
            read_back = table.frame[name].tolist()
            if kind == "token":
                assert read_back == [np.nan if cell == "" else cell for cell in raw] or [
                    None if value != value else value for value in read_back
                ] == [cell or None for cell in raw]
            elif kind == "token_seq":
                assert read_back == raw
            elif kind == "float":
                assert all(
                    math.isnan(value) if cell == "" else value == float(cell)
                    for cell, value in zip(raw, read_back, strict=True)
                )

    @options(n)
    @given(atomic_bytes())
    def attempt(data):
        path.write_bytes(data)
        count(lambda: read(data))

    attempt()


# -- what a trained model is asked ---------------------------------------------------------------

IDS = st.one_of(
    st.sampled_from([f"i{n}" for n in range(24)]),
    st.sampled_from([f"i{n}" for n in range(24)]),
    st.sampled_from(["i99", "", " i1", "I1", "[PAD]", "0"]),
    st.text('i0é;,"\n ', max_size=4),
)
ODD = st.one_of(IDS, st.none(), st.integers(-2, 30), st.floats(), st.lists(IDS, max_size=2))
HISTORIES = st.lists(st.one_of(st.lists(IDS, max_size=12), st.lists(ODD, max_size=4)), max_size=4)


def _recommender(folder: Path):
    from recbole_lite import Recommender

    write_tiny(folder / "data")
    _language_model("bert", folder / "bert")
    base = {**QUICK, "data_path": str(folder / "data"), "epochs": 1, "state": "ERROR"}
    base |= {"item_llm": str(folder / "bert"), "item_embedding_cache_dir": None}
    return Recommender.load(run("LiteLLM4Rec", "tiny", config_dict=base)["run_dir"])


def fuzz_requests(n: int, folder: Path, count: Count) -> None:
    """Histories, k and candidates of all kinds: what is answered keeps its promises."""
    recommender = _recommender(folder)

    def ask(histories, k, exclude, candidates, unknown):
        answers = recommender.recommend(histories, k, exclude, candidates, unknown)
        assert len(answers) == len(histories)
        for history, answer in zip(histories, answers, strict=True):
            ids = [item.id for item in answer]
            scores = [item.score for item in answer]
            assert len(ids) <= k
            assert len(set(ids)) == len(ids)
            assert scores == sorted(scores, reverse=True)
            assert all(map(math.isfinite, scores))
            assert not (exclude and set(ids) & set(map(str, history)))
            assert candidates is None or set(ids) <= set(map(str, candidates))

    @options(n)
    @given(
        HISTORIES,
        st.sampled_from([1, 3, 10, 24, 25, 0, -1, 2.5, None, "3"]),
        st.booleans(),
        st.one_of(st.none(), st.none(), st.lists(IDS, max_size=5)),
        st.sampled_from(["warn", "warn", "error", "ignore"]),
    )
    def attempt(histories, k, exclude, candidates, unknown):
        asked = histories, k, exclude, candidates, unknown
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            count(lambda: ask(*asked))

    attempt()


@st.composite
def csv_bytes(draw):
    """A file of histories: right, or with wrong columns, quotes, encoding or bytes."""
    known = st.lists(st.sampled_from([f"i{n}" for n in range(26)]), min_size=1, max_size=5)
    rows = draw(st.lists(st.tuples(st.sampled_from(["u1", "u2", "v é"]), known), max_size=6))
    head, good = "user_id,history", draw(st.booleans())
    if not good:
        head = draw(st.sampled_from([head, head, "history,user_id", "user", "", "a,b,c"]))
        rows += draw(st.lists(st.tuples(st.text("uv1", max_size=3), st.lists(IDS, max_size=5))))
    lines = [f'{user},"{";".join(ids)}"' for user, ids in rows]
    if good:
        return "\n".join([head, *lines, ""]).encode()
    data = bytearray("\n".join([head, *lines]).encode(draw(st.sampled_from(["utf-8", "utf-16"]))))
    if data and draw(st.booleans()):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data)


def fuzz_histories(n: int, folder: Path, count: Count) -> None:
    """Files of histories: every line is answered, or the file is refused and nothing written."""
    from recbole_lite.inference.batch_recommend import BatchOptions, recommend_file

    recommender = _recommender(folder)
    source, target = folder / "histories.csv", folder / "out.csv"

    def answer():
        summary = recommend_file(
            recommender, source, target, BatchOptions(k=3, show_progress=False)
        )
        with target.open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))
        assert rows[0] == ["user_id", "rank", "item_id", "title", "score"]
        assert len(rows) - 1 == summary.rows <= 3 * summary.users

    @options(n)
    @given(csv_bytes())
    def attempt(data):
        source.write_bytes(data)
        target.unlink(missing_ok=True)
        before = count.counts["accepted"]
        count(answer)
        assert target.exists() == (count.counts["accepted"] > before)

    attempt()


def main() -> int:
    """Try as many inputs as asked, and say how long it took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--settings", type=int, default=3000, help="configurations")
    parser.add_argument("--runs", type=int, default=300, help="whole runs of one epoch")
    parser.add_argument("--files", type=int, default=5000, help="atomic files")
    parser.add_argument("--requests", type=int, default=5000, help="calls of recommend()")
    parser.add_argument("--histories", type=int, default=3000, help="files of histories")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.chdir(folder)

        def made() -> Path:
            return Path(tempfile.mkdtemp(dir=folder))

        for title, n, fuzz in (
            ("settings", arguments.settings, lambda n, count: fuzz_settings(n, count)),
            ("files", arguments.files, lambda n, count: fuzz_files(n, folder, count)),
            ("requests", arguments.requests, lambda n, count: fuzz_requests(n, made(), count)),
            ("histories", arguments.histories, lambda n, count: fuzz_histories(n, made(), count)),
            ("runs", arguments.runs, lambda n, count: fuzz_runs(n, folder, count)),
        ):
            if n == 0:
                continue
            count, started = Count(), time.perf_counter()
            fuzz(n, count)
            print(f"{title}: {count}, {time.perf_counter() - started:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
