"""Every shell block of README and docs/ is executed, unless it stands in `NOT_RUN` with a reason.

In a folder of its own, which has small data sets under the names ml-1m and ml-100k. Commands of
this project run in this process, as ``python -m recbole_lite`` and the scripts would; a command
that stands on several pages runs once. Trainings get `SHORT`, and single commands what `ALSO` has
for them, in place of such flags on the page.
"""

from __future__ import annotations

import random
import re
import runpy
import shlex
import shutil
import sys
from pathlib import Path

import pytest
from shell_blocks import blocks, commands

from recbole_lite.cli import main

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]

INSTALLS = "installs from PyPI"
HUB = "fetches T5-small's weights from the hub"
FETCHES = "fetches a data set, or reads the publisher's archive, which may not be passed on"
HOURS = "minutes to hours at T5-small's size, and no flag for a smaller one; tests/reproduce"
SERVER = "a server, or asks one; tests/serve does both"
CLUSTER = "needs several machines; `make test-cluster` has two Ray nodes on one"
PEERS = "needs another library in an environment of its own"
PROCESSES = "starts processes; tests/trainer/test_data_parallel.py"
SWEEP = "starts Ray; tests/experiments/tune/test_sweep.py"
RAY = "starts Ray; tests/text/test_ray_encoding.py, tests/inference/test_recommend_folder.py"
MEASURES = "minutes of timing on data that no wheel brings"
PARQUET = "a Parquet file of the reader's; tests/data/test_stored_sequences.py makes one"
LARGE = "language models of billions of parameters; tests/model/test_related_work.py has tiny ones"
NOT_RUN = {
    "make demo": "sets up an environment from PyPI; tests/test_integration.py runs the same",
    "make test": "these tests",
    "make faults": "half an hour; tests/faults is its short form",
    "pip install '.[offline,onnx]'": INSTALLS,
    "pip install --no-deps recbole==1.2.1": INSTALLS,
    "pip install '.[onnx]'": INSTALLS,
    "pip install '.[serve]'": INSTALLS,
    "pip install '.[mcp]'": INSTALLS,
    "pip install 'ray[tune]'": INSTALLS,
    "recbole-lite reproduce table4 --dataset=ml-1m --budget=30m": HOURS,
    "recbole-lite reproduce table4 --dataset=ml-100k --budget=20m --with=tiger,e4srec,hllm": HOURS,
    "recbole-lite reproduce table4 --dataset=ml-100k --budget=20m '--models=SASRec, tuned;prefix' "
    "--with=e4srec,hllm": HOURS,
    "recbole-lite reproduce table5 --dataset=ml-1m --tokenizer=FOLDER": HOURS,
    "recbole-lite reproduce table7 --dataset=ml-1m --budget=30m --weights=scratch": HOURS,
    "recbole-lite reproduce figure4 --dataset=ml-1m --budget=30m --weights=scratch": HOURS,
    "recbole-lite reproduce figure5 --dataset=ml-100k --budget=60s --weights=scratch": HOURS,
    "recbole-lite reproduce figure5 --dataset=ml-100k --budget=5m --weights=scratch "
    "'--models=Pop;demo'": HOURS,
    "recbole-lite reproduce benchmark --datasets=ml-1m,amazon-beauty-2014 --budget=30m "
    "--weights=scratch": HOURS,
    "python benchmarks/large_data.py --interactions 1M 10M --folder=DIR --steps=20 "
    "--out=results/data": MEASURES,
    "python benchmarks/large_data.py --interactions 100M --folder=DIR --steps=10 "
    "--out=results/data": MEASURES,
    "python benchmarks/large_data.py --interactions=3M --items=1M --workers=2 --steps=12 "
    "--folder=DIR --out=results/scaling": MEASURES,
    "python benchmarks/large_data.py --interactions=3M --items=1M --workers=2 --steps=12 "
    "--losses 'SCE, sparse_item_updates' 'SCE, sparse_item_updates, bfloat16' --folder=DIR "
    "--out=results/scaling": MEASURES,
    "python benchmarks/large_data.py --interactions=12M --items=10M --users=2000 --hidden_size=128 "
    "--workers=2 --steps=12 --losses 'SCE, sparse_item_updates' --evaluate --folder=DIR "
    "--out=results/scaling": MEASURES,
    "python benchmarks/large_data.py --interactions=12M --items=10M --users=2000 --hidden_size=128 "
    "--workers=2 --steps=12 --losses 'SCE, sparse_item_updates' "
    "'SCE, sparse_item_updates, bfloat16' --folder=DIR --out=results/scaling": MEASURES,
    "python benchmarks/large_ranking.py --items 1M 10M --out=results/recommend": MEASURES,
    "recbole-lite run --model=ItemLM --dataset=clicks --train_strategy=prefix --loss_type=SCE "
    "--loss_exclude_history=False --sparse_item_updates=True --eval_users=10000": PARQUET,
    "recbole-lite serve --model=saved/LiteLLM4Rec-ml-1m-...": SERVER,
    "recbole-lite mcp --model=saved/LiteLLM4Rec-ml-1m-...": SERVER,
    "recbole-lite mcp --model=saved/LiteLLM4Rec-ml-1m-... --transport=http --port=8001": SERVER,
    "ray start --head --port=6379 --num-cpus=1": CLUSTER,
    "ray start --address=127.0.0.1:6379 --num-cpus=1": CLUSTER,
    "python run_recbole_lite.py --model=SASRec --dataset=ml-100k --num_workers=2 "
    "--ray_address=127.0.0.1:6379 --use_gpu=False": CLUSTER,
    "ray stop": CLUSTER,
    "python run_recbole_lite.py --model=LiteLLM4Rec --dataset=ml-1m --num_workers=8 "
    "--ray_address=auto": CLUSTER,
    "curl -s localhost:8000/recommend -H 'content-type: application/json' "
    """-d '{"history": ["1", "6"], "k": 3}'""": SERVER,
    "python benchmarks/serving.py --model=saved/RUN --clients=20 --seconds=300 "
    "--out=results/serving": SERVER,
    "python benchmarks/serving.py --model=packed --starts=5 --name=start "
    "--out=results/serving": SERVER,
    "schemathesis run http://127.0.0.1:8000/openapi.json --max-examples=50 "
    "--exclude-checks=positive_data_acceptance": SERVER,
    "python benchmarks/answers.py --model=saved/RUN --out=results/answers/ml-100k": MEASURES,
    "recbole-lite data prepare ml-1m": FETCHES,
    "recbole-lite data prepare ml-1m --from '~/Downloads/ml-1m.zip'": FETCHES,
    "recbole-lite data prepare amazon-toys-2018 --from '~/Downloads'": FETCHES,
    "python run_recbole_lite.py --model=LiteLLM4Rec --dataset=amazon-toys-2018 "
    "--config_files=properties/related_work/e4srec.yaml "
    "--item_vectors=saved/SASRec-amazon-toys-2018-... --rec_llm=meta-llama/Llama-2-13b-hf "
    "'--rec_llm_lora={r: 16, alpha: 16, dropout: 0.05, target_modules: [gate_proj, "
    "up_proj, down_proj]}' --checkpoint_adapters_only=True": LARGE,
    "python run_recbole_lite.py --model=LiteLLM4Rec --dataset=amazon-toys-2018 "
    "--config_files=properties/related_work/hllm.yaml --nproc=8 "
    "--item_llm=TinyLlama/TinyLlama-1.1B-intermediate-step-1431k-3T "
    "--rec_llm=TinyLlama/TinyLlama-1.1B-intermediate-step-1431k-3T": LARGE,
    "ray start --head --port=6379": CLUSTER,
    "ray start --address=FIRST:6379": CLUSTER,
    "python run_recbole_lite.py --model=LiteLLM4Rec --dataset=ml-1m --tune=space.yaml "
    "--num_samples=64 --ray_address=auto": CLUSTER,
    "python benchmarks/inference.py --dataset=ml-1m --data_path=DIR --lengths_from=amazon-games "
    "--threads=1 --effort=0.4 --no_memory --out=results/inference": MEASURES,
    "python benchmarks/time_to_accuracy.py --side=rectools --minutes=60 --data_path=DIR "
    "--rectools_python=PATH": PEERS,
    "python benchmarks/time_to_accuracy.py --side=replay --minutes=60 --data_path=DIR "
    "--replay_python=PATH": PEERS,
    "python benchmarks/gpu.py --data_path=DIR --tokenizer=FOLDER "
    "--item_embeddings=.cache/item_embeddings --out=results/gpu": "needs a GPU; "
    "tests/test_gpu_benchmark.py runs its parts small",
    "recbole-lite adapt-llm --llm=Qwen/Qwen2-0.5B --dataset=amazon-toys-2018 --out=adapted/qwen "
    "--title_sequence_tokens=1024 --rows_at_once=16 --gradient_checkpointing=True": "fetches "
    "weights from the hub, and needs a GPU",
    "python benchmarks/recommend_file.py --model=RUN_FOLDER --users=20000,200000,1000000 "
    "--out=results/recommend/prefix-ml-1m.json": MEASURES,
    "python run_recbole_lite.py --model=LiteLLM4Rec --dataset=ml-1m --nproc=4": PROCESSES,
    "python run_recbole_lite.py --model=LiteLLM4Rec --dataset=ml-100k "
    "--config_files=properties/demo.yaml --tune=properties/hyper/LiteLLM4Rec.yaml "
    "--num_samples=20": SWEEP,
    "recbole-lite encode --model=LiteLLM4Rec --dataset=ml-1m --item_llm=minilm --ray": RAY,
    "recbole-lite encode --model=LiteLLM4Rec --dataset=ml-1m --item_llm=minilm "
    "--ray_address=auto": RAY,
    "recbole-lite recommend --model=saved/LiteLLM4Rec-ml-1m-... --input=histories.parquet "
    "--output=recs/ --ray": RAY,
    "recbole-lite recommend --model=/shared/model '--input=s3://bucket/histories/*.parquet' "
    "--output=s3://bucket/recs/ --ray_address=auto": RAY,
    "python benchmarks/encode_catalogue.py --texts=1000000 "
    "--out=results/scaling/encode-1m.json": MEASURES,
    "python benchmarks/encode_catalogue.py --texts=10000 --item_llm=minilm "
    "--out=results/scaling/encode-minilm.json": MEASURES,
}

SHORT = ["--epochs=1", "--max_steps=2", "--train_batch_size=16", "--show_progress=False"]
THIN = {"num_layers": 1, "d_model": 32, "d_kv": 16, "d_ff": 32, "num_heads": 2}
SMALL = [f"--rec_llm_config={THIN}"]  # in place of T5-small's size
OFFLINE = ["--item_llm=minilm", "--rec_llm_init=scratch"]
# Beginning of a command -> flags that it gets.
ALSO = {
    "recbole-lite adapt-llm --llm=minilm": ["--next_item_steps=1", "--next_item_batch_size=4"],
    "recbole-lite ablate --dataset": [*OFFLINE, *SMALL],
    "recbole-lite ablate --rec_llm=minilm": ["--rows=scratch", "--seeds=2020"],
    "recbole-lite reproduce benchmark --datasets=amazon-beauty-2014 '--rows": [
        "--datasets=ml-100k",
        "--budget=1s",
    ],
    "python run_recbole_lite.py --model=LiteLLM4Rec --dataset=ml-1m --item_llm=minilm": SMALL,
    "python run_recbole_lite.py --model=LiteLLM4Rec --dataset=ml-1m --item_vectors=": SMALL,
    "python run_recbole_lite.py --model=LiteLLM4Rec --dataset=ml-100k --task=topn": SMALL,
    "python run_recbole_lite.py --model=LiteLLM4Rec --dataset=ml-100k --item_llm=my-": SMALL,
    "python run_recbole_lite.py --model=POD --dataset=ml-100k --llm_init=scratch": [
        f"--llm_config={THIN | {'num_decoder_layers': 1}}",
        "--num_beams=5",
    ],
    "python run_recbole_lite.py --model=TIGER": [
        f"--llm_config={THIN | {'num_decoder_layers': 1}}",
        "--item_llm=minilm",
        "--codebook_size=8",
        "--rqvae_epochs=2",
        "--num_beams=5",
    ],
    "python benchmarks/time_to_accuracy.py --side": ["--minutes=0.001"],
    "recbole-lite update": ["--epochs=1"],
    "python benchmarks/update.py": ["--steps=1", "--epochs=1", "--without_anew"],
    "python benchmarks/new_items.py": ["--max_steps=2", "--new_share=0.3", "--user_share=0.5"],
}
# Exit status, where it is not 0.
ENDS = {  # the stand-ins have other counts
    "recbole-lite data check ml-1m --data_path data": 2,
    "recbole-lite data check ml-100k --model=SASRec --title_field=movie_title": 2,
}
# What a page says -> what is in the sandbox.
STANDS_FOR = {"FOLDER": "tokenizer", "DIR": "dataset"}


def key(words: list[str]) -> str:
    """A command as `NOT_RUN` and `ALSO` spell it."""
    return shlex.join(words)


def to_run() -> dict[str, list[list[str]]]:
    """Where a block is -> its commands that run, and that no earlier block has."""
    seen, found = set(NOT_RUN), {}
    for page in PAGES:
        for number, block in enumerate(blocks(page), 1):
            new = [words for words in block if key(words) not in seen]
            seen |= set(map(key, new))
            if new:
                found[f"{page.name}-{number}"] = new
    return found


BLOCKS = to_run()


# -- the sandbox ------------------------------------------------------------------------------


def write_films(folder: Path, name: str, genre: str) -> None:
    """140 films and 40 users under the name and with the columns of a MovieLens data set."""
    titles = {1: "Toy Story", 6: "Heat", 260: "Star Wars", 2571: "Matrix, The"}
    films = [*range(1, 139), 260, 2571]
    draw, target = random.Random(1), folder / name
    target.mkdir(parents=True)
    lines = ["user_id:token\titem_id:token\trating:float\ttimestamp:float"]
    for user in range(1, 41):
        begin = draw.randrange(len(films))
        for step in range(draw.randrange(8, 16)):
            film = films[(begin + 3 * step) % len(films)]
            lines.append(f"{user}\t{film}\t{draw.randrange(1, 6)}\t{978300000 + 60 * step}")
    (target / f"{name}.inter").write_text("\n".join(lines) + "\n")
    lines = [f"item_id:token\tmovie_title:token_seq\trelease_year:token\t{genre}:token_seq"]
    for film in films:
        title = titles.get(film, f"Film number {film}")
        lines.append(f"{film}\t{title}\t{1970 + film % 30}\tDrama Comedy")
    (target / f"{name}.item").write_text("\n".join(lines) + "\n")


def write_parts(folder: Path) -> None:
    """The interactions of ml-1m as parts that are split already."""
    head, *rows = (folder / "dataset" / "ml-1m" / "ml-1m.inter").read_text().splitlines()
    target = folder / "dataset" / "visits"
    target.mkdir()
    for part, chosen in (("train", rows[::2]), ("valid", rows[1::4]), ("test", rows[3::4])):
        (target / f"visits.{part}.inter").write_text("\n".join([head, *chosen]) + "\n")


def write_csv(folder: Path) -> None:
    """The films as ratings.csv and movies.csv, in the layout of MovieLens."""
    for table, ending, header in (
        ("ratings", "inter", "userId,movieId,rating,timestamp"),
        ("movies", "item", "movieId,title,year,genres"),
    ):
        rows = (folder / "dataset" / "ml-1m" / f"ml-1m.{ending}").read_text().splitlines()[1:]
        cells = (row.replace(", ", " ").replace("\t", ",") for row in rows)
        (folder / f"{table}.csv").write_text("\n".join([header, *cells]) + "\n")
    later = ["user_id,item_id,timestamp", "1,260,988300000", "1,6,988300001", "ann,1,988300002"]
    (folder / "today.csv").write_text("\n".join([*later, "ann,new,988300003"]) + "\n")
    (folder / "new_movies.csv").write_text("item_id,movie_title\nnew,A film of today\n")


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory, llm_folders):
    """A checkout's folders beside small data and runs of a moment, as the pages presume them."""
    folder = tmp_path_factory.mktemp("sandbox")
    for name in ("properties", "examples", "benchmarks", "run_recbole_lite.py"):
        (folder / name).symlink_to(ROOT / name)
    write_films(folder / "dataset", "ml-1m", "genre")
    write_films(folder / "dataset", "ml-100k", "class")
    (folder / "data").symlink_to("dataset")
    shutil.copytree(llm_folders["writer"], folder / "tokenizer")
    shutil.copytree(llm_folders["bert"], folder / "my-item-llm")
    (folder / "histories.csv").write_text("user_id,history\nann,1;6\nbob,260\n")
    write_csv(folder)
    write_parts(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        page = (ROOT / "docs" / "model.md").read_text(encoding="utf-8")
        for code in re.findall(r"^```python\n(.*?)^```", page, re.M | re.S):
            exec(code, {})  # writes the item vectors that its commands read
        for model, dataset in (
            ("LiteLLM4Rec", "ml-1m"), ("LiteLLM4Rec", "ml-100k"),
            ("SASRec", "ml-1m"), ("SASRec", "ml-100k"),
        ):  # fmt: skip
            words = [f"--model={model}", f"--dataset={dataset}"]
            assert main.run_main([*words, *OFFLINE, *SMALL, *SHORT]) == 0
    return folder


def execute(words: list[str], monkeypatch) -> int:
    """Run a command line of a page in the sandbox; its exit status."""
    also = [flag for start, flags in ALSO.items() if key(words).startswith(start) for flag in flags]
    program, *words = (here(word) for word in words)
    if program == "recbole-lite":
        trains = words[0] in ("run", "ablate")
        return main.main(changed(words, [*(SHORT if trains else []), *also]))
    assert program == "python", f"only this project's commands run here, not {program}"
    if words[0] == "run_recbole_lite.py":
        return main.run_main(changed(words[1:], [*SHORT, *also]))
    monkeypatch.setattr(sys, "argv", changed(words, also))
    monkeypatch.syspath_prepend(str(Path(words[0]).resolve().parent))  # as `python FILE` does
    try:
        runpy.run_path(words[0], run_name="__main__")
    except SystemExit as ended:
        return ended.code or 0
    return 0


def changed(words: list[str], flags: list[str]) -> list[str]:
    """Words with some flags, in place of those of the same names."""
    names = {flag.partition("=")[0] for flag in flags}
    return [*(word for word in words if word.partition("=")[0] not in names), *flags]


def here(word: str) -> str:
    """A word with the sandbox's folders in place of what stands for them on a page."""
    flag, equals, value = word.rpartition("=")
    if value in STANDS_FOR:
        return f"{flag}{equals}{STANDS_FOR[value]}"
    dated = r"(saved/\w+-(?:ml-\w+|shop))-(?:\.\.\.|[A-Z][a-z]{2}-\d\d-\d{4}_\d\d-\d\d-\d\d)"
    return re.sub(dated, lambda found: str(first_run(found[1])), word)


def first_run(stem: str) -> Path:
    """The sandbox's own run: later blocks may leave others of the name."""
    return min(Path().glob(f"{stem}-*"), key=lambda path: path.stat().st_ctime_ns)


@pytest.mark.integration
@pytest.mark.parametrize("block", BLOCKS)
def test_the_commands_of_a_block_run(block, sandbox, monkeypatch):
    monkeypatch.chdir(sandbox)
    for words in BLOCKS[block]:
        assert execute(words, monkeypatch) == ENDS.get(key(words), 0), key(words)


# -- the list ---------------------------------------------------------------------------------


def test_what_does_not_run_stands_on_a_page():
    written = {key(words) for page in PAGES for words in commands(page)}
    assert set(NOT_RUN) <= written, "take it out of NOT_RUN"
    running = {key(words) for block in BLOCKS.values() for words in block}
    assert [start for start in ALSO if not any(c.startswith(start) for c in running)] == []
    assert set(ENDS) <= running


def test_most_commands_run():
    assert sum(len(block) for block in BLOCKS.values()) >= 20
    assert all(NOT_RUN.values())


@pytest.mark.integration
@pytest.mark.parametrize(
    "line",
    [
        "recbole-lite recommend --model=saved/LiteLLM4Rec-ml-1m-... --history=nothing-like-it",
        "recbole-lite compare saved/SASRec-ml-100k-... saved/LiteLLM4Rec-ml-1m-...",
        "python run_recbole_lite.py --model=SASRec --dataset=none",
        "git status",
    ],
)
def test_a_command_that_fails_is_found(line, sandbox, monkeypatch):
    monkeypatch.chdir(sandbox)
    with pytest.raises((AssertionError, SystemExit)):
        assert execute(shlex.split(line), monkeypatch) == 0
