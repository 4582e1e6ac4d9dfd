"""Fields of items that recommendations are filtered by."""

from recbole_lite.data import create_dataset
from recbole_lite.data import item_fields as module
from recbole_lite.data.item_fields import item_fields


def test_fields_by_internal_id(config_for, data_path, monkeypatch):
    monkeypatch.setattr(module, "MOST_WORDS", 30)
    path = data_path / "tiny" / "tiny.item"
    header, *rows = path.read_text().splitlines()
    lines = [f"{header}\tprice:float\tprose:token_seq\tv:float_seq"]
    for n, row in enumerate(rows):
        price = ["", "3", "2.5"][n % 3]
        lines.append(f"{row}\t{price}\tone{n} two{n}\t0.5 1")
    path.write_text("\n".join(lines) + "\n")
    dataset = create_dataset(config_for("SASRec"))
    found = item_fields(dataset, "title", " ")
    fields = dict(zip(dataset.field2id_token["item_id"], found, strict=True))
    assert fields["[PAD]"] == {}
    assert fields["i0"] == {"year": "1990", "genre": ["animation", "comedy"]}
    assert fields["i1"] == {"year": "1991", "genre": ["comedy", "action"], "price": 3}
    assert fields["i2"] == {"year": "1992", "genre": ["action", "animation"], "price": 2.5}
    (data_path / "tiny" / "tiny.item").unlink()
    assert item_fields(dataset, None, " ") == [{}] * len(found)
