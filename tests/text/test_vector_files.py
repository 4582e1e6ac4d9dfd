"""Files of precomputed item vectors: every format, and bad input."""

import json
import logging

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch

from recbole_lite.text import vector_files
from recbole_lite.utils.errors import ConfigError, RecboleLiteError

# Three items of the data in an order of their own, and one that is not in the data.
IDS = ["007", "x", "b", "a"]
ROWS = np.array([[1, 2], [9, 9], [0.25, -4], [-0.5, 3]])
# By internal id: padding, a, b, 007.
EXPECTED = [[0, 0], [-0.5, 3], [0.25, -4], [1, 2]]


def message(read_vectors, path, kind=RecboleLiteError, **settings) -> str:
    with pytest.raises(kind) as error:
        read_vectors(path, **settings)
    assert "\n" not in str(error.value)
    return str(error.value)


# -- formats ----------------------------------------------------------------------------------


def npy(folder, dtype=np.float32):
    np.save(folder / "v.npy", ROWS.astype(dtype))
    (folder / "v.ids.txt").write_text("\n".join(IDS) + "\n")
    return folder / "v.npy"


def npy_with_npy_ids(folder):
    np.save(folder / "v.npy", ROWS)
    np.save(folder / "v.ids.npy", np.array([text.encode() for text in IDS]))
    return folder / "v.npy"


def npy_structured(folder):
    rows = np.array(
        list(zip(IDS, ROWS, strict=True)), dtype=[("item_id", "U8"), ("vector", "f8", 2)]
    )
    np.save(folder / "v.npy", rows)
    return folder / "v.npy"


def npz(folder):
    np.savez_compressed(folder / "v.npz", ids=np.array(IDS), vectors=ROWS)
    return folder / "v.npz"


def safetensors_metadata(folder):
    rows = torch.from_numpy(ROWS).bfloat16()  # these numbers are exact in it
    save_torch({"emb": rows}, folder / "v.safetensors", {"ids": json.dumps(IDS)})
    return folder / "v.safetensors"


def safetensors_beside(folder):
    save_file({"vectors": ROWS, "scale": np.ones(1)}, folder / "v.safetensors")
    (folder / "v.ids.txt").write_text("\n".join(IDS))
    return folder / "v.safetensors"


def parquet_lists(folder, kind=None):
    kind = kind or pa.list_(pa.float16())
    rows = pa.array([row.astype(np.float16) for row in ROWS], pa.list_(pa.float16())).cast(kind)
    table = pa.table({"title": ["t"] * 4, "item_id": IDS, "emb": rows})
    pq.write_table(table, folder / "v.parquet")
    return folder / "v.parquet"


def parquet_fixed_lists(folder):
    return parquet_lists(folder, pa.list_(pa.float32(), 2))


def parquet_of_pandas(folder):
    frame = pd.DataFrame({"id": pd.Categorical(IDS), "embedding": list(ROWS)})
    frame.to_parquet(folder / "v.parquet")
    return folder / "v.parquet"


def parquet_columns(folder):
    frame = pd.DataFrame({"d0": ROWS[:, 0], "item_id": IDS, "d1": ROWS[:, 1]})
    frame.to_parquet(folder / "v.parquet", index=False)
    return folder / "v.parquet"


def csv_of_json(folder):
    cells = [json.dumps(row.tolist()) for row in ROWS]
    frame = pd.DataFrame({"item_id": IDS, "title": 'a "b",\nc', "embedding": cells})
    frame.to_csv(folder / "v.csv", index=False)
    return folder / "v.csv"


def csv_columns(folder):
    (folder / "v.csv").write_text("item_id,x,y\n007,1,2\nx,9,9\nb,0.25,-4e0\na,-.5,3\n")
    return folder / "v.csv"


def column(folder):
    """Of .item, read although load_col does not name it."""
    lines = [f"{i}\t{row[0]} {row[1]}" for i, row in zip(IDS, ROWS, strict=True)]
    text = "\n".join(["item_id:token\temb:float_seq", *lines, "c\t", ""])
    (folder / "tiny.item").write_text(text)
    return "emb"


FORMATS = [npy, npy_with_npy_ids, npy_structured, npz, safetensors_metadata, safetensors_beside,
           parquet_lists, parquet_fixed_lists, parquet_of_pandas, parquet_columns, csv_of_json,
           csv_columns, column]  # fmt: skip


@pytest.mark.parametrize("block", [8192, 1])
@pytest.mark.parametrize("write", FORMATS, ids=lambda write: write.__name__)
def test_formats_are_matched_by_raw_ids(write, block, read_vectors, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(vector_files, "BLOCK_ROWS", block)
    found = read_vectors(write(tmp_path))
    assert found.vectors.dtype == torch.float32
    assert found.vectors.tolist() == EXPECTED
    assert found.has_text.tolist() == [False, True, True, True]
    (line,) = [record.getMessage() for record in caplog.records if record.name == "root"]
    assert "3 of 3 items, 2 dimensions" in line
    assert line.endswith("; 1 vectors are of no item of the data")


@pytest.mark.parametrize("dtype", ["float16", "float64", ">f4"])
def test_numbers_of_other_types(dtype, read_vectors, tmp_path):
    assert read_vectors(npy(tmp_path, dtype)).vectors.tolist() == EXPECTED


def test_whole_numbers_as_ids_and_as_vectors(read_vectors, tmp_path):
    np.savez(tmp_path / "v.npz", ids=np.array([12, 3]), embeddings=np.array([[1, 2], [3, 4]]))
    found = read_vectors(tmp_path / "v.npz", ids=["3", "12"])
    assert found.vectors.tolist() == [[0, 0], [3, 4], [1, 2]]


def test_ids_in_a_file_of_a_name_of_its_own_come_first(read_vectors, tmp_path):
    npz(tmp_path)
    (tmp_path / "order.txt").write_text("b\n007\na\nx")
    found = read_vectors(tmp_path / "v.npz", item_vector_ids=str(tmp_path / "order.txt"))
    assert found.vectors.tolist() == [[0, 0], [0.25, -4], [1, 2], [9, 9]]


def test_types_of_a_later_block_of_csv(read_vectors, tmp_path, monkeypatch):
    """Whole numbers first, then others; ids that are numbers first."""
    monkeypatch.setattr(vector_files, "BLOCK_BYTES", 32)
    lines = [f"{i},{i},1" for i in range(40)]
    (tmp_path / "v.csv").write_text("\n".join(["item_id,x,y", *lines, "a,.5,-1.5"]))
    found = read_vectors(tmp_path / "v.csv", ids=["7", "a"])
    assert found.vectors.tolist() == [[0, 0], [7, 1], [0.5, -1.5]]
    (tmp_path / "v.csv").write_text("\n".join(["item_id,x,y", *lines, "a,red,1"]))
    assert "conversion error to double: invalid value 'red'" in message(
        read_vectors, tmp_path / "v.csv"
    )


def test_a_column_of_a_side_file_with_its_own_id_column(read_vectors, tmp_path):
    (tmp_path / "tiny.item").write_text("item_id:token\ttitle:token\na\tx\n")
    (tmp_path / "tiny.clip").write_text("iid:token\tpic:float_seq\nb\t1 2\na\t3 4\n007\t5 6\n")
    found = read_vectors("pic", additional_feat_suffix=["clip"], alias_of_item_id=["iid"])
    assert found.vectors.tolist() == [[0, 0], [3, 4], [1, 2], [5, 6]]


# -- what is wrong ----------------------------------------------------------------------------


def test_items_without_a_vector_and_vectors_of_zeros_are_counted(read_vectors, tmp_path, caplog):
    path = tmp_path / "v.csv"
    path.write_text('item_id,embedding\na,"[0, 0]"\nb,\nc,"[1, 2]"\n')
    found = read_vectors(path, ids=["a", "b", "c", "d"])
    assert found.has_text.tolist() == [False, True, False, True, False]
    assert found.vectors[2].tolist() == [0, 0]
    missing, zeros = [one.getMessage() for one in caplog.records if one.levelname == "WARNING"]
    assert missing == (
        f"{path}: 2 of 4 items (50.0%) have no vector (item ids: b, d); each gets a learned vector "
        "instead"
    )
    assert zeros.startswith(f"{path}: the vectors of 1 items are zeros (item ids: a)")


def test_ids_of_another_kind(read_vectors, tmp_path):
    np.savez(tmp_path / "v.npz", ids=np.arange(1, 6), vectors=np.ones((5, 2)))
    found = message(read_vectors, tmp_path / "v.npz", ConfigError)
    assert "none of the 5 ids" in found
    assert "(in it: 1, 2, 3; items: a, b, 007)" in found


def arrays(**values):
    return lambda path: np.savez(path.with_suffix(".npz"), **values)


def text(content, suffix=".csv"):
    return lambda path: path.with_suffix(suffix).write_text(content)


def parquet(**columns):
    return lambda path: pq.write_table(pa.table(columns), path.with_suffix(".parquet"))


AB = np.array(["a", "b"])
BAD = {
    "no ids": (lambda path: np.save(path.with_suffix(".npy"), ROWS), "order of rows is no key"),
    "fewer ids": (arrays(ids=AB, vectors=ROWS), "there are 4 vectors and 2 item ids"),
    "no matrix": (arrays(ids=AB, vectors=ROWS[0]), "must be a matrix of numbers"),
    "texts": (arrays(ids=AB, vectors=np.array([["1"], ["2"]])), "must be a matrix of numbers"),
    "no columns": (arrays(ids=AB, vectors=np.ones((2, 0))), "must be a matrix of numbers"),
    "float ids": (arrays(ids=np.ones(4), vectors=ROWS), "texts or whole numbers, found float64"),
    "which": (arrays(ids=AB, x=ROWS, y=ROWS), "the file holds ids, x, y; name the array"),
    "objects": (arrays(ids=AB.astype(object), vectors=ROWS[:2]), "ids.astype(str)"),
    "pickle": (
        lambda path: np.save(path.with_suffix(".npy"), np.array([{}], object), allow_pickle=True),
        "Pickled objects are never loaded",
    ),
    "twice": (arrays(ids=np.array(["a", "b", "a"]), vectors=ROWS[:3]), "item 'a' has 2 vectors"),
    "NaN": (arrays(ids=AB, vectors=np.array([[1.0], [np.nan]])), "item 'b' has an empty cell, NaN"),
    "too large": (arrays(ids=AB, vectors=np.array([[1e300], [1]])), "the vector of item 'a'"),
    "garbage": (text("no zip", ".npz"), "cannot be read"),
    "cut": (text("\x93NUMPY", ".npy"), "cannot be read"),
    "no tensors": (text("{}", ".safetensors"), "cannot be read"),
    "no parquet": (text("PAR1", ".parquet"), "cannot be read"),
    "empty": (text(""), "cannot be read"),
    "ragged CSV": (text("item_id,x\na,1,2\n"), "cannot be read"),
    "no id column": (text("name,x\na,1\n"), "no column of item ids among 'name', 'x'; name one"),
    "same columns": (text("item_id,x,x\na,1,2\n"), "several columns of one name"),
    "words": (text("item_id,x,y\na,1,red\n"), "'y': not numbers"),
    "a word": (text("item_id,x\na,1\nb,red\n"), "'x': not numbers"),
    "empty cell": (text("item_id,x,y\nb,1,2\na,1,\n"), "item 'a' has an empty cell"),
    "no id": (text("item_id,x,y\n,1,2\n"), "none of the 1 ids"),
    "lengths": (
        text('item_id,embedding\na,"[1, 2]"\nb,"[1]"\n'),
        "item 'a' has 2 numbers, item 'b' has 1",
    ),
    "lengths of blocks": (
        parquet(item_id=["x"] * 8192 + ["a"], v=[[1.0]] * 8192 + [[1.0, 2.0]]),
        "item 'x' has 1 numbers, item 'a' has 2",
    ),
    "NumPy's text": (
        text('item_id,embedding\na,"[0.1 0.2]"\n'),
        "item 'a': '[0.1 0.2]' is no list of numbers in JSON",
    ),
    "words in JSON": (text('item_id,embedding\na,"[""x""]"\n'), "item 'a': '[\"x\"]' is no list"),
    "empty list": (text('item_id,embedding\na,"[]"\n'), "no lists of numbers"),
    "lists of texts": (parquet(item_id=["a"], v=[["x"]]), "no lists of numbers"),
    "two lists": (parquet(item_id=["a"], v=[[1.0]], w=[[1.0]]), "'v', 'w': not numbers"),
    "null id": (parquet(item_id=["a", None], v=[[1.0], [2.0]]), "1 rows have no item id"),
    "float id": (parquet(item_id=[1.0], v=[[1.0]]), "texts or whole numbers, found double"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_one_line(case, read_vectors, tmp_path):
    write, expected = BAD[case]
    write(tmp_path / "v")
    (path,) = tmp_path.glob("v.*")
    found = message(read_vectors, path)
    assert expected in found
    assert str(path) in found


def test_names_that_are_nothing(read_vectors, tmp_path):
    assert "there is no such file" in message(read_vectors, tmp_path / "none.parquet")
    column(tmp_path)
    found = message(read_vectors, "embb", ConfigError)
    assert found.endswith("(emb); did you mean emb?")
    assert "no file of vectors (.npy, .npz, " in message(
        read_vectors, tmp_path / "v.pt", ConfigError
    )
    path = parquet_columns(tmp_path)
    assert "leave item_vector_ids out" in message(read_vectors, path, item_vector_ids="ids.txt")
    assert "no such file" in message(
        read_vectors, npy(tmp_path), item_vector_ids=str(tmp_path / "no.npy")
    )
    assert "needs item_vectors" in message(read_vectors, "", ConfigError, item_vector_ids="ids.txt")
