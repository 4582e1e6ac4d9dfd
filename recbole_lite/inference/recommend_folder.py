"""Recommendations for many users: a folder of parts, made here or by Ray's workers.

A part holds the recommendations of a fixed range of rows, a multiple of what the one-process path
sorts together, so that its rows are those of :func:`.batch_recommend.recommend_file`. This process
alone reads the input and writes the parts, each under its name when it is complete: a worker that
is lost loses nothing, a task that runs twice writes nothing twice, and the same command goes on
with the parts that are missing. Workers need nothing but the model's folder.
"""

from __future__ import annotations

import hashlib
import io
import json
import marshal
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from tqdm import tqdm

from recbole_lite.config.saved_config import CONFIG_FILE
from recbole_lite.inference.batch_recommend import (
    READ_AHEAD,
    BatchOptions,
    BatchSummary,
    Row,
    check_options,
    resolved,
    write_batches,
)
from recbole_lite.inference.history_files import PARQUET, file_system, history_files, is_url
from recbole_lite.inference.model_folder import ITEMS_FILE
from recbole_lite.inference.recommender import Recommender
from recbole_lite.utils.errors import CheckpointError, DataError, one_line
from recbole_lite.utils.files import file_sha256, is_stream, leftovers, to_json, write_atomically
from recbole_lite.utils.ray_session import RayOptions, check_workers, run_tasks, session

MANIFEST = "_recommendations.json"  # what the parts were made from; readers of folders skip "_"
_PART_CHUNKS = 4  # what is sorted together, 4,096 rows by default
_DIGESTS = {"model": "its model was another", "histories": "its input was another"}
_AFFECTING = (  # options that other rows come from
    "k", "exclude_seen", "candidates", "where", "exclude", "diversity", "probabilities",
    "batch_size",
)  # fmt: skip


def recommend_folder(
    recommender: Recommender,
    source: str | Path,
    target: str | Path,
    options: BatchOptions | None = None,
    ray: RayOptions | None = None,
    device: str = "cpu",
    runtime: str = "auto",
) -> BatchSummary:
    """Recommend for every row of files of histories, into a folder of parts.

    Parameters
    ----------
    recommender : Recommender
        As it was loaded from its folder.
    source : str or Path
        See :func:`~recbole_lite.inference.batch_recommend.recommend_file`.
    target : str or Path
        Folder or fsspec URL for ``part-00000.csv`` and so on, of the columns that
        `recommend_file` writes; Parquet if the (first) input is. Parts that an earlier call with
        the same model, input and options has left are kept.
    options : BatchOptions, optional
    ray : RayOptions, optional
        Ray's workers compute; default: this process.
    device, runtime : str
        With `ray`: as of :meth:`Recommender.load`, of the workers.

    Returns
    -------
    BatchSummary
        ``rows`` and ``unserved`` count what this call wrote, the others the whole input.

    Raises
    ------
    DataError
        As `recommend_file`; also a folder that holds something else.
    RequestError, ConfigError, MissingDependencyError
        An option is invalid; Ray is missing, nobody answers, or a machine does not see the model.
    """
    options = options or BatchOptions()
    choice = check_options(recommender, options)
    folder = recommender.folder.absolute()
    model = _model_digest(recommender)
    with ExitStack() as stack:
        quiet = replace(options, show_progress=False)
        tasks: Callable[[Iterator], Iterator] = partial(_ranked_here, recommender, quiet, choice)
        if ray is not None:
            joined = stack.enter_context(session(ray.address, ray.use_gpu, "ray"))
            check_workers(joined, ray, {"--model": folder})
            worker = (str(folder), model, device, runtime)
            common = (worker, quiet, choice)
            tasks = partial(run_tasks, joined, _rank_part, common, options=ray)
        files, shown = stack.enter_context(history_files(source))
        parts = _Parts(target, ".parquet" if files[0].lower().endswith(PARQUET) else ".csv")
        size = options.batch_size * READ_AHEAD * _PART_CHUNKS
        made_from = {"model": model, **{name: getattr(options, name) for name in _AFFECTING}}
        made_from["rows_per_part"] = size
        parts.compare(made_from)
        read = resolved(recommender, files, options, shown)
        spool = stack.enter_context(tempfile.TemporaryFile())
        summary, histories, places = _check_input(read, size, spool)
        parts.claim({**made_from, "users": summary.users, "histories": histories})
        done = parts.numbers() & set(range(len(places)))
        todo = ((n, _part_at(spool, *at)) for n, at in enumerate(places) if n not in done)
        hidden = None if options.show_progress is None else not options.show_progress
        with tqdm(total=len(places), initial=len(done), unit="part", disable=hidden) as bar:
            for number, (text, part) in tasks(todo):
                parts.write(number, text)
                summary.add_ranked(part)
                bar.update()
        parts.finish()
    summary.kept = len(done)
    return summary


def _check_input(
    rows: Iterator[Row], size: int, spool: BinaryIO
) -> tuple[BatchSummary, str, list[tuple[int, int]]]:
    """Read all rows; their counts, a digest of them, and place and size of each part in `spool`.

    They are kept there because reading them again would take longer than ranking on many workers.
    """
    summary, digest = BatchSummary(), hashlib.sha256()
    places: list[tuple[int, int]] = []
    while (part := list(islice(rows, size))) or not places:
        summary.users += len(part)
        for _, _, unknown in part:
            if unknown:
                summary.add_unknown(unknown)
        content = marshal.dumps(part, 2)  # of this version, equal rows are equal bytes
        places.append((spool.tell(), len(content)))
        digest.update(content)
        spool.write(content)
    return summary, digest.hexdigest(), places


def _part_at(spool: BinaryIO, place: int, size: int) -> list[Row]:
    spool.seek(place)
    return marshal.loads(spool.read(size))


def _model_digest(recommender: Recommender) -> str:
    names = (CONFIG_FILE, ITEMS_FILE, recommender.about["weights"])
    digests = [file_sha256(recommender.folder / name) for name in names]
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def _ranked_here(
    recommender: Recommender,
    options: BatchOptions,
    choice: Mapping[str, Any],
    parts: Iterator[tuple[int, list[Row]]],
) -> Iterator[tuple[int, tuple[str, BatchSummary]]]:
    for number, rows in parts:
        yield number, _rank(recommender, options, choice, rows)


# -- in a worker ------------------------------------------------------------------------------


def _rank_part(common: tuple, number: int, rows: list[Row]) -> tuple[str, BatchSummary]:
    """Ray's task: the lines of a part, with their header, and what they count."""
    worker, options, choice = common
    return _rank(_loaded(*worker), options, choice, rows)


@lru_cache(maxsize=1)
def _loaded(folder: str, model: str, device: str, runtime: str) -> Recommender:
    """Load it once for the many tasks of a process."""
    recommender = Recommender.load(folder, device, runtime)
    if _model_digest(recommender) != model:
        raise CheckpointError(
            f"{folder}: a machine sees another model there than the one that runs the command; "
            "put it on storage that all machines share"
        )
    return recommender


def _rank(
    recommender: Recommender, options: BatchOptions, choice: Mapping[str, Any], rows: list[Row]
) -> tuple[str, BatchSummary]:
    out, summary = io.StringIO(newline=""), BatchSummary(users=len(rows))
    write_batches(out, iter(rows), recommender, options, choice, summary)
    return out.getvalue(), summary


# -- the folder -------------------------------------------------------------------------------


class _Parts:
    """Folder of parts, on a local disk or any storage that fsspec knows."""

    def __init__(self, target: str | Path, ending: str):
        self.target, self.ending, self.local = target, ending, not is_url(target)
        if (self.local and is_stream(target)) or str(target).lower().endswith((".csv", *PARQUET)):
            raise DataError("is no name of a folder; the parts need one", target)
        self.system, path = file_system(target)
        self.path = path.rstrip("/")

    def compare(self, made_from: Mapping[str, Any]) -> bool:
        """Refuse a folder with parts of something else; whether it says what its parts are of."""
        names = self._names()
        if MANIFEST not in names:
            if names:
                raise DataError(
                    f"is not empty ({names[0]}) and holds no recommendations; name another folder",
                    self.target,
                )
            return False
        wanted = json.loads(to_json({**made_from, "format": self.ending}))
        try:
            found = json.loads(self.system.cat_file(f"{self.path}/{MANIFEST}"))
            changed = next((name for name in wanted if found[name] != wanted[name]), None)
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{MANIFEST} is damaged ({one_line(error)}); remove the folder, or name another",
                self.target,
            ) from None
        if changed is not None:
            what = _DIGESTS.get(
                changed, f"{changed} was {found[changed]!r}, is {wanted[changed]!r}"
            )
            raise DataError(
                f"holds the parts of another run ({what}); name another folder, or remove this one",
                self.target,
            )
        return True

    def claim(self, made_from: Mapping[str, Any]) -> None:
        """Compare, or write what the parts are made from."""
        if not self.compare(made_from):
            content = to_json({**made_from, "format": self.ending}, 1)
            self._write_bytes(MANIFEST, content.encode())

    def numbers(self) -> set[int]:
        """Numbers of the parts that are complete."""
        matches = (re.fullmatch(rf"part-(\d+){self.ending}", name) for name in self._names())
        return {int(match[1]) for match in matches if match}

    def write(self, number: int, text: str) -> None:
        """Write a part, whole or not at all."""
        content = text.encode("utf-8")
        name = f"part-{number:05}{self.ending}"
        self._write_bytes(name, _as_parquet(content) if self.ending in PARQUET else content)

    def finish(self) -> None:
        """Remove what a killed process has left."""
        for stale in leftovers(self.path) if self.local else []:
            stale.unlink(missing_ok=True)

    def _names(self) -> list[str]:
        with self._storage():
            if self.system.isfile(self.path):
                raise DataError("is a file; name a folder for the parts", self.target)
            if not self.system.exists(self.path):
                return []
            paths = self.system.ls(self.path, detail=False, refresh=True)
        return sorted(name for path in paths if (name := Path(path).name)[:1] not in ("", "."))

    def _write_bytes(self, name: str, content: bytes) -> None:
        path, temporary = f"{self.path}/{name}", f"{self.path}/.{name}.tmp"
        if self.local:
            write_atomically(path, lambda place: place.write_bytes(content))
            return
        with self._storage():
            self.system.makedirs(self.path, exist_ok=True)
            self.system.pipe_file(temporary, content)
            self.system.mv(temporary, path)

    @contextmanager
    def _storage(self) -> Iterator[None]:
        """Let errors of remote storage, which are of many classes, be one line."""
        try:
            yield
        except DataError:
            raise
        except Exception as error:
            if self.local:
                raise
            raise DataError(f"cannot be read or written: {one_line(error)}", self.target) from None


def _as_parquet(content: bytes) -> bytes:
    """A part as Parquet; its scores have the digits of the CSV."""
    import pyarrow as pa
    import pyarrow.csv as pacsv
    import pyarrow.parquet as pq

    text, whole, number = pa.string(), pa.int64(), pa.float64()
    types = {"user_id": text, "rank": whole, "item_id": text, "title": text, "score": number}
    table = pacsv.read_csv(
        io.BytesIO(content),
        parse_options=pacsv.ParseOptions(newlines_in_values=True),
        convert_options=pacsv.ConvertOptions(column_types=types),
    )
    out = io.BytesIO()
    pq.write_table(table, out)
    return out.getvalue()
