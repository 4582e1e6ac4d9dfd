"""The known layouts of source files, by the name that ``dataset_meta`` uses."""

from __future__ import annotations

from recbole_lite.data.sources.amazon import Amazon
from recbole_lite.data.sources.atomic_copy import Atomic
from recbole_lite.data.sources.movielens import MovieLens100K, MovieLensCsv, MovieLensDat

CONVERTERS = {
    "amazon": Amazon,
    "atomic": Atomic,
    "movielens-100k": MovieLens100K,
    "movielens-csv": MovieLensCsv,
    "movielens-dat": MovieLensDat,
}
