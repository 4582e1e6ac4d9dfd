"""Files and settings made by an enemy: nothing in them runs, nothing is written elsewhere."""

import io
import json
import os
import pickle
import struct
import zipfile
from pathlib import Path

import pytest
import torch
import yaml

from recbole_lite import LiteConfig, load_data_and_model, run
from recbole_lite.cli import main
from recbole_lite.config.yaml_files import read_yaml
from recbole_lite.trainer import checkpoint
from recbole_lite.utils.errors import CheckpointError, ConfigError, DataError, RecboleLiteError


class Bomb:
    """Writes the file ``pwned`` when it is unpickled."""

    def __init__(self, place):
        self.place = str(place)

    def __reduce__(self):
        return os.mkdir, (self.place,)


@pytest.fixture
def pwned(tmp_path):
    """Place of the file that shows that code was run; checked after the test."""
    place = tmp_path / "pwned"
    pickle.loads(pickle.dumps(Bomb(place)))  # the weapon works
    place.rmdir()
    yield place
    assert not place.exists()
    assert not list(Path(".").glob("pwned*"))


@pytest.fixture
def trained(quick):
    """Folder of a run of two epochs."""
    return Path(run("SASRec", "tiny", config_dict=quick())["run_dir"])


def one_line(capsys) -> str:
    text = capsys.readouterr().err
    assert text.count("error: ") == 1
    assert "Traceback" not in text
    return text


# -- checkpoints --------------------------------------------------------------------------------


def weapons(place):
    """The same pickle in every wrapping that torch.load has ever taken."""
    plain = pickle.dumps(Bomb(place))
    new, old, nested = io.BytesIO(), io.BytesIO(), io.BytesIO()
    torch.save(Bomb(place), new)
    torch.save(Bomb(place), old, _use_new_zipfile_serialization=False)
    torch.save({"epoch": 1, "random": Bomb(place)}, nested)
    names = ("pickle", "torch zip", "torch before 1.6", "inside a state")
    return dict(zip(names, [plain, new.getvalue(), old.getvalue(), nested.getvalue()], strict=True))


@pytest.mark.parametrize("kind", ["pickle", "torch zip", "torch before 1.6", "inside a state"])
def test_a_checkpoint_that_would_run_code_is_refused(kind, trained, quick, pwned):
    weapon = weapons(pwned)[kind]
    for path in trained.glob("last-*.pt"):
        path.write_bytes(weapon)
    weights = sorted(trained.glob("last-*.safetensors"))
    tensors, facts = checkpoint.load_weights(weights[-1])
    facts["state"] = checkpoint.file_sha256(trained / f"{weights[-1].stem}.pt")  # a careful enemy
    from safetensors.torch import save_file

    save_file(tensors, weights[-1], metadata={"facts": json.dumps(facts)})
    with pytest.raises(CheckpointError, match="no checkpoint can be read"):
        run("SASRec", "tiny", config_dict=quick(resume=str(trained)))
    (trained / "best.safetensors").write_bytes(weapon)
    with pytest.raises(CheckpointError, match=r"best\.safetensors: cannot be read"):
        load_data_and_model(trained)


def test_pretrained_weights_that_would_run_code_are_refused(quick, pwned, tmp_path):
    """S3Rec's second phase reads a file with RecBole's own torch.load."""
    path = tmp_path / "pretrained.pth"
    path.write_bytes(weapons(pwned)["torch zip"])
    settings = quick(train_stage="finetune", pre_model_path=str(path))
    with pytest.raises(ConfigError, match=r"S3Rec cannot be built .*Weights only load failed"):
        run("S3Rec", "tiny", config_dict=settings)


def header(content: bytes, size: int | None = None, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(content) if size is None else size) + content + data


ENTRY = {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 4 << 40]}
LIES = {
    "longer than the file": header(b"{}", 1 << 30),
    "longer than any file": header(b"{}", (1 << 64) - 1),
    "negative, if it were signed": header(b"{}", 1 << 63),
    "shorter than the JSON": header(b'{"a": 1}', 3),
    "no header at all": b"\0\0",
    "a tensor of 4 TiB": header(json.dumps({"a": ENTRY}).encode(), data=bytes(16)),
    "offsets that go back": header(
        json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [8, 4]}}).encode(),
        data=bytes(8),
    ),
    "offsets that overlap": header(
        json.dumps(
            {n: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} for n in "ab"}
        ).encode(),
        data=bytes(4),
    ),
    "a shape that is not what the offsets say": header(
        json.dumps({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 4]}}).encode(),
        data=bytes(4),
    ),
    "deep JSON": header(b'{"a":' * 50_000 + b"1" + b"}" * 50_000),
    "facts that are no JSON": header(b'{"__metadata__": {"facts": "{"}}'),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_safetensors_header_that_lies_is_refused(lie, trained, quick):
    (trained / "best.safetensors").write_bytes(LIES[lie])
    with pytest.raises(CheckpointError, match=r"best\.safetensors: cannot be read"):
        load_data_and_model(trained)
    with pytest.raises(CheckpointError, match=r"best\.safetensors: cannot be read"):
        run("SASRec", "tiny", config_dict=quick(resume=str(trained), epochs=3))


def test_a_flipped_bit_is_noticed_and_the_pair_before_serves(trained, quick):
    """Neither torch.load nor safetensors would see it."""
    whole = run("SASRec", "tiny", config_dict=quick(epochs=3))
    tensors, state = checkpoint.load_last(trained)
    assert state["epoch"] == 1
    for suffix in (".safetensors", ".pt"):
        newest = sorted(trained.glob(f"last-*{suffix}"))[-1]
        data = newest.read_bytes()
        noticed = 0
        for place in range(3, len(data), len(data) // 60):
            newest.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
            found, state = checkpoint.load_last(trained)
            noticed += state["epoch"] == 0
            # In the header a bit can fall on what nobody reads; the weights are then the same.
            assert state["epoch"] == 0 or (
                suffix == ".safetensors"
                and all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
            )
        assert noticed > 30
        newest.write_bytes(data)
    newest.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    resumed = run("SASRec", "tiny", config_dict=quick(epochs=3, resume=str(trained)))
    assert resumed["test_result"] == whole["test_result"]


@pytest.mark.parametrize(
    "content",
    ["[]", "{}", "null", '{"model": 1, "dataset": "tiny", "settings": {}}', "[" * 100_000, "\0",
     '{"model": "SASRec", "dataset": "tiny", "settings": []}'],
)  # fmt: skip
def test_a_configuration_of_another_kind_is_refused(content, trained, quick):
    (trained / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"config\.json: "):
        load_data_and_model(trained)
    with pytest.raises(CheckpointError, match=r"config\.json: "):
        run("SASRec", "tiny", config_dict=quick(resume=str(trained)))


@pytest.mark.parametrize(
    "change",
    [
        {"model": "os.system"},
        {"model": "../../evil"},
        {"dataset": "../../evil"},
        {"settings": {"evil": 1}},
        {"settings": {"eval_args": "__import__('os').mkdir('pwned')"}},
    ],
)
def test_a_configuration_that_names_something_else_is_refused(change, trained, pwned):
    content = json.loads((trained / "config.json").read_text())
    content["settings"] |= change.pop("settings", {})
    (trained / "config.json").write_text(json.dumps({**content, **change}))
    with pytest.raises(RecboleLiteError):
        load_data_and_model(trained)


# -- settings -----------------------------------------------------------------------------------

CODE = "__import__('os').system('touch pwned')"


@pytest.mark.parametrize("key", ["learning_rate", "epochs", "metrics", "item_llm", "load_col"])
def test_settings_that_are_code_are_text(key, pwned, capsys, data_path):
    arguments = ["run", "--model=LiteLLM4Rec", "--dataset=tiny", f"--data_path={data_path}"]
    assert main.main([*arguments, "--local_files_only=True", f"--{key}={CODE}"]) == 2
    one_line(capsys)


def test_the_line_of_the_issue(capsys, pwned):
    """RecBole's Config would run it."""
    assert main.run_main(["--model=SASRec", "--dataset=ml-100k", f"--learning_rate={CODE}"]) == 2
    text = one_line(capsys)
    assert text.startswith("error: command line: learning_rate must be a positive number")
    assert text.count("\n") == 1


YAML = {
    "an object": "seed: !!python/object/apply:os.mkdir [pwned]\n",
    "a name": "seed: !!python/name:os.system\n",
    "a module": "seed: !!python/module:os\n",
    "a tuple": "seed: !!python/tuple [1]\n",
    "a tag of its own": "seed: !evil 1\n",
    "deep": "seed: " + "[" * 100_000 + "]" * 100_000 + "\n",
    "laughs": "a: &a [x, x, x, x, x, x, x, x, x]\n"
    + "".join(
        f"{n}: &{n} [{', '.join(['*' + m] * 9)}]\n"
        for m, n in zip("abcdefgh", "bcdefghi", strict=True)
    ),
    "a list that holds itself": "metrics: &a [*a]\n",
}


@pytest.mark.parametrize("name", YAML)
def test_yaml_that_would_do_something_is_refused(name, pwned, tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text(YAML[name])
    with pytest.raises(ConfigError, match=r"a\.yaml"):
        read_yaml(path)


# -- names and archives -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["../evil", "/tmp/evil", "a/../../evil", "a\\..\\evil", "..", ".hidden", "", "a\nb", "a\0b",
     "x" * 300, "C:evil"],
)  # fmt: skip
def test_a_data_set_name_that_leads_elsewhere_is_refused(name, data_path, tmp_path, capsys):
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DataError, match="is not a data set name"):
        LiteConfig("SASRec", name)
    status = main.main(["run", "--model=SASRec", f"--dataset={name}", f"--data_path={data_path}"])
    assert status == 2
    one_line(capsys)
    assert sorted(tmp_path.rglob("*")) == before  # no log, no folder


def archive(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return stream.getvalue()


ZIPS = {
    "path traversal": {"ml-1m/ratings.dat": b"1::1::5::9\n", "../../evil.dat": b"evil"},
    "absolute path": {"ml-1m/ratings.dat": b"1::1::5::9\n", "/tmp/evil.dat": b"evil"},
    "bomb": {"ml-1m/ratings.dat": bytes(64 << 20)},
}


@pytest.mark.parametrize("kind", ZIPS)
def test_an_archive_that_is_a_trap_is_refused_and_nothing_is_written(kind, tmp_path, capsys):
    """Its size and checksum would be wrong as well: they are left out to reach the archive."""
    meta = Path(__file__).resolve().parents[2] / "dataset_meta" / "ml-1m.yaml"
    own = tmp_path / "data" / "dataset_meta"
    own.mkdir(parents=True)
    content = yaml.safe_load(meta.read_text())
    content["sources"] = [{"file": "ml-1m.zip", "url": "https://example.org/ml-1m.zip"}]
    (own / "ml-1m.yaml").write_text(yaml.safe_dump(content))
    source = tmp_path / "ml-1m.zip"
    source.write_bytes(archive(ZIPS[kind]))
    before = {path for path in tmp_path.rglob("*") if path.name != ".ml-1m.lock"}
    arguments = ["data", "prepare", "ml-1m", "--from", str(source)]
    assert main.main([*arguments, "--data_path", str(tmp_path / "data")]) == 2
    message = one_line(capsys)
    assert "points outside" in message or "unpacks from" in message, message
    assert {path for path in tmp_path.rglob("*") if path.name != ".ml-1m.lock"} == before
