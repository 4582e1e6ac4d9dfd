"""``recbole-lite encode``: fill the cache of item vectors before a training."""

from __future__ import annotations

import argparse
from contextlib import nullcontext

from recbole_lite.cli.common import (
    add_command,
    add_ray,
    add_training_arguments,
    config_files,
    ray_options,
)
from recbole_lite.utils.errors import ConfigError

EPILOG = """\
Takes the settings of the training that will read the vectors, which finds them in
item_embedding_cache_dir. With --ray, machines of a cluster encode shards of the texts; a command
that was killed goes on with the shards that are missing.

examples:
  %(prog)s --model=LiteLLM4Rec --dataset=ml-1m --ray
  %(prog)s --model=ItemLM --dataset=ml-1m --item_llm=minilm --item_init=text --ray_address=auto
"""
INTERRUPTED = "interrupted; with --ray, the same command goes on with the texts that are missing"


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the subcommand."""
    text = "encode item texts for trainings, on one machine or on Ray"
    one = add_command(commands, "encode", text, run, INTERRUPTED, epilog=EPILOG)
    add_training_arguments(one)
    add_ray(one)


def run(args: argparse.Namespace) -> int:
    """Encode the item texts of a data set, unless the cache has their vectors."""
    from recbole_lite import LiteConfig
    from recbole_lite.config.configurator import translate_errors
    from recbole_lite.data import create_dataset
    from recbole_lite.experiments.tune.encode_items import reads_vectors
    from recbole_lite.text.item_vectors import load_item_vectors
    from recbole_lite.utils.ray_session import session

    with config_files(args):
        config = LiteConfig(args.model, args.dataset, args.config_files, overrides=args.overrides)
    if config["item_vectors"] or not reads_vectors(config, []):
        raise ConfigError(
            f"model: {config['model']} with these settings reads no vectors of a frozen Item LLM; "
            "there is nothing to encode"
        )
    if not config["item_embedding_cache_dir"]:
        raise ConfigError("item_embedding_cache_dir: keeps the vectors; name a folder")
    options = ray_options(args, bool(config["use_gpu"]))
    # Ray is joined first: a cluster that does not answer must not cost the reading of the data.
    joined = session(options.address, options.use_gpu, "ray") if options else nullcontext()
    with joined, translate_errors(f"{config['dataset']} cannot be read", config):
        found = load_item_vectors(config, create_dataset(config), options)
    if found.path is None:
        raise ConfigError(
            f"item_embedding_cache_dir: {config['item_embedding_cache_dir']} has not kept the "
            "vectors; see the warning"
        )
    count = f"{int(found.has_text.sum()):,} items, {found.vectors.size(1)} dimensions"
    print(f"{found.path}: {count}{' (were there already)' if found.from_cache else ''}")
    return 0
