"""Item vectors by Ray's workers: those of one process, in shards that are kept."""

from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from recbole_lite.cli.main import main
from recbole_lite.data import create_dataset
from recbole_lite.text import ray_encoding
from recbole_lite.text.item_vectors import load_item_vectors
from recbole_lite.utils.errors import ConfigError
from recbole_lite.utils.ray_session import RayOptions

pytest.importorskip("ray")
from local_ray import local_ray


@pytest.fixture(scope="module")
def ray_here():
    with local_ray(2):
        yield


@pytest.fixture
def small_shards(ray_here, monkeypatch):
    """Shards of four texts; the names of those that are encoded."""
    monkeypatch.setattr(ray_encoding, "_SHARD_BATCHES", 2)
    run_tasks, encoded = ray_encoding.run_tasks, []

    def watched(ray, function, *arguments):
        for name, result in run_tasks(ray, function, *arguments):
            yield name, result
            if function is ray_encoding._encode:  # after it is stored
                encoded.append(name)
                if len(encoded) == watched.stop_after:
                    raise KeyboardInterrupt

    watched.stop_after = None
    monkeypatch.setattr(ray_encoding, "run_tasks", watched)
    watched.encoded = encoded
    return watched


@pytest.fixture
def texts(items):
    words = ["toy", "story", "golden", "eye", "four", "rooms", "get", "shorty", "copycat", "action"]
    titles = [" ".join(words[: 1 + n * 7 % 10]) + f" {words[n % 9]}" for n in range(19)]
    return items(title=["", *titles, titles[3]])  # one without text, and maybe equal ones


def test_vectors_are_those_of_one_process_and_a_stopped_command_goes_on(
    settings, texts, small_shards, tmp_path, caplog
):
    expected = load_item_vectors(
        settings(item_embedding_cache_dir=str(tmp_path / "alone"), item_llm_max_length=9), texts
    )
    (warning,) = (r.message for r in caplog.records if "the rest of each is not read" in r.message)
    caplog.clear()

    config = settings(item_llm_max_length=9)
    small_shards.stop_after = 2
    with pytest.raises(KeyboardInterrupt):
        load_item_vectors(config, texts, RayOptions())
    (folder,) = (tmp_path / "cache").glob("*.shards")
    kept = {int(path.stem) for path in folder.glob("*.safetensors")}
    assert kept == set(small_shards.encoded)
    assert len(kept) == 2
    first = min(kept)
    (folder / f"{first}.safetensors").write_bytes(b"damaged")

    small_shards.stop_after = None
    small_shards.encoded.clear()
    found = load_item_vectors(config, texts, RayOptions())
    n_distinct = len({text for text in texts.columns["title"] if text})
    assert set(small_shards.encoded) == set(range(0, n_distinct, 4)) - kept | {first}
    assert not found.from_cache
    torch.testing.assert_close(found.vectors, expected.vectors, rtol=0, atol=1e-6)
    assert expected.vectors.std(dim=0).min() > 1e-3  # another order would be seen
    assert warning in [record.message for record in caplog.records]
    assert not folder.exists()
    assert load_item_vectors(config, texts).from_cache


def test_errors_of_workers_and_settings(settings, items, ray_here):
    with pytest.raises(ConfigError, match="item_llm_max_length: 1; must be more than 2"):
        load_item_vectors(settings(item_llm_max_length=1), items(), RayOptions())
    with pytest.raises(ConfigError, match="item_embedding_cache_dir: Ray's results are kept ther"):
        load_item_vectors(settings(item_embedding_cache_dir=None), items(), RayOptions())


def test_on_the_command_line(quick, ray_here, capsys, config_for):
    Path("set.yaml").write_text(yaml.safe_dump(quick(item_embedding_cache_dir="vectors")))
    command = ["encode", "--model=LiteLLM4Rec", "--dataset=tiny", "--config_files=set.yaml"]
    assert main([*command, "--ray"]) == 0
    path, rest = capsys.readouterr().out.strip().split(": ")
    assert rest == "24 items, 16 dimensions"
    config = config_for("LiteLLM4Rec", item_embedding_cache_dir=None)
    alone = load_item_vectors(config, create_dataset(config)).vectors
    torch.testing.assert_close(load_file(path)["vectors"], alone, rtol=0, atol=1e-6)
    assert main(command) == 0
    assert "(were there already)" in capsys.readouterr().out


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--model=SASRec"], "model: SASRec with these settings reads no vectors of a frozen"),
        (["--model=LiteLLM4Rec", "--item_llm_training=full"], "reads no vectors of a frozen Item"),
        (["--model=LiteLLM4Rec", "--item_embedding_cache_dir=~"], "keeps the vectors; name a fol"),
        (["--model=LiteLLM4Rec", "--ray", "--cpus_per_worker=0"], "--cpus_per_worker must be at"),
        (["--model=LiteLLM4Rec", "--ray", "--cpus-per-worker=0"], "--cpus_per_worker must be at"),
    ],
)
def test_mistakes_on_the_command_line(flags, message, data_path, capsys):
    assert main(["encode", "--dataset=tiny", f"--data_path={data_path}", *flags]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
