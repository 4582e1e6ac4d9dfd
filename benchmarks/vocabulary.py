"""What the raw ids of a checkpoint cost: bytes, and milliseconds to write, read and compare.

python benchmarks/vocabulary.py --ids=1000000
"""

from __future__ import annotations

import argparse
import random
import tempfile
from pathlib import Path
from time import perf_counter

import pandas as pd

from recbole_lite.data.vocabulary import Numbering, Vocabulary
from recbole_lite.trainer import checkpoint


def main() -> None:
    """Print a table for ids of ten letters and digits, such as those of Amazon's products."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--ids", type=int, default=1_000_000)
    count = parser.parse_args().ids
    ids = [f"B{number:09X}" for number in range(count)]
    permuted = pd.Index(random.Random(0).sample(ids, count), dtype=object)
    vocabulary = Vocabulary()
    vocabulary.add(["item_id"], ids)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        steps = {
            "write": lambda: checkpoint.save_vocabulary(folder, vocabulary),
            "read": lambda: checkpoint.load_vocabulary(folder),
            "compare and reorder": lambda: Numbering(vocabulary).arrange(["item_id"], permuted),
        }
        print(f"{count:,} ids")
        for step, do in steps.items():
            begun = perf_counter()
            do()
            print(f"{step:20} {1000 * (perf_counter() - begun):7.0f} ms")
        size = (folder / checkpoint.VOCABULARY_FILE).stat().st_size
        print(f"{'file':20} {size:,} bytes, {size / count:.1f} per id")


if __name__ == "__main__":
    main()
