"""What encoding a catalogue on Ray costs: seconds and memory (recbole-lite encode --ray).

    python benchmarks/encode_catalogue.py --texts=20000 --out=FILE.json
    python benchmarks/encode_catalogue.py --texts=1000000 --out=FILE.json
    python benchmarks/encode_catalogue.py --texts=10000 --item_llm=minilm --out=FILE.json

By default the encoder is tiny and random (BERT, one layer of 32 dimensions), with the tokenizer of
minilm, so that what is measured is all but the encoder. Texts are 5 to 20 words of the tokenizer's
vocabulary. Rows of a sample are compared with those that one process gives. "cpu" is processor
time, which other work on the machine does not change as it does wall time.
"""

from __future__ import annotations

import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import torch
from shared import parser_of, peak_mib, write
from tabulate import tabulate

from recbole_lite.inference.loading import CatalogueDataset, Settings
from recbole_lite.text.item_vectors import load_item_vectors
from recbole_lite.text.llm_files import PACKAGED, resolve_llm
from recbole_lite.text.sentence_transformers_folder import Recipe
from recbole_lite.text.text_encoder import TextEncoder
from recbole_lite.utils.ray_session import RayOptions

SAMPLE = 500


class Workers(threading.Thread):
    """Peak memory and processor time of Ray's workers, looked at twice a second."""

    def __init__(self):
        super().__init__(daemon=True)
        self.peak, self.seconds, self.done = {}, {}, threading.Event()

    def run(self) -> None:
        """Look until it is done."""
        while not self.done.wait(0.5):
            for process in psutil.Process().children(recursive=True):
                try:
                    if "ray::" in process.name() or "ray::" in " ".join(process.cmdline()):
                        used = process.memory_info().rss / 2**20
                        self.peak[process.pid] = max(used, self.peak.get(process.pid, 0))
                        self.seconds[process.pid] = sum(process.cpu_times()[:2])
                except psutil.Error:  # it has ended
                    pass


def main() -> None:
    parser = parser_of(__doc__, data=False)
    parser.add_argument("--texts", type=int, default=20_000)
    parser.add_argument("--item_llm", help="default: a tiny random encoder")
    parser.add_argument("--out")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        llm = args.item_llm or tiny_encoder(Path(folder, "tiny"))
        row = measure(llm, draw_texts(args.texts), Path(folder, "cache"))
    print(tabulate([row], headers="keys", floatfmt=",.4g"))
    write(args.out, {"item_llm": args.item_llm or "tiny", **row})


def tiny_encoder(folder: Path) -> str:
    from transformers import AutoTokenizer, BertConfig, BertModel

    tokenizer = AutoTokenizer.from_pretrained(resolve_llm(PACKAGED))
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = BertModel(BertConfig(vocab_size=len(tokenizer), intermediate_size=64, **sizes))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def draw_texts(n: int) -> list[str]:
    """Distinct texts; the first is that of the padding item."""
    words = [
        line
        for line in (resolve_llm(PACKAGED) / "vocab.txt").read_text(encoding="utf-8").splitlines()
        if line.isalpha() and line.isascii()
    ]
    rng = np.random.default_rng(0)
    lengths = rng.integers(5, 21, n)
    drawn = rng.integers(0, len(words), lengths.sum())
    ends = lengths.cumsum()
    return ["", *(
        " ".join([words[i] for i in drawn[end - length : end]]) + f" {number}"
        for number, (end, length) in enumerate(zip(ends, lengths, strict=True))
    )]  # fmt: skip


def measure(llm: str, texts: list[str], cache: Path) -> dict[str, float]:
    config = Settings(
        dataset="drawn",
        item_llm=llm,
        item_llm_pooling="mean",
        item_llm_batch_size=64,
        item_llm_dtype="auto",
        item_text_template="{text}",
        item_embedding_cache_dir=str(cache),
        local_files_only=True,
        show_progress=True,
    )
    before, workers = peak_mib(), Workers()
    workers.start()
    started, cpu = time.perf_counter(), time.process_time()
    found = load_item_vectors(config, CatalogueDataset(len(texts), texts=texts), RayOptions())
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    workers.done.set()
    workers.join()
    of_workers = sum(workers.seconds.values())
    return {
        "texts": len(texts) - 1,
        "wall s": seconds,
        "cpu s, workers": of_workers,
        "cpu s, driver": cpu,
        "texts / cpu s": (len(texts) - 1) / of_workers,
        "peak MiB, driver": peak_mib(),
        "before": before,
        "peak MiB, worker": max(workers.peak.values()),
        "largest difference": difference(llm, texts, found.vectors),
    }


def difference(llm: str, texts: list[str], vectors: torch.Tensor) -> float:
    """Between rows of a sample and the vectors that one process gives their texts."""
    rows = np.random.default_rng(1).integers(1, len(texts), SAMPLE).tolist()
    encoder = TextEncoder(
        resolve_llm(llm),
        recipe=Recipe(),
        max_length=None,
        batch_size=64,
        dtype="auto",
        device="cpu",
    )
    alone = encoder.encode([texts[row] for row in rows])
    return float((vectors[rows] - alone).abs().max())


if __name__ == "__main__":
    main()
