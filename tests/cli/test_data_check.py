"""``recbole-lite data check`` with the settings of a run."""

import pytest

from recbole_lite.cli.main import main

NAMES = {"user_id": "uid", "item_id": "sku", "timestamp": "when", "\t": ";"}
FLAGS = ["--USER_ID_FIELD=uid", "--ITEM_ID_FIELD=sku", "--TIME_FIELD=when", "--field_separator=;"]
LOAD = "--load_col={inter: [uid, sku, when]}"


@pytest.fixture
def shop(data_path):
    """The data set ``tiny`` with other names and separators."""
    folder = data_path / "shop"
    folder.mkdir()
    for ending in ("inter", "item"):
        text = (data_path / f"tiny/tiny.{ending}").read_text()
        for old, new in NAMES.items():
            text = text.replace(old, new)
        (folder / f"shop.{ending}").write_text(text)
    return folder


def checked(data_path, capsys, *flags, name="shop"):
    status = main(["data", "check", name, f"--data_path={data_path}", *flags])
    return status, capsys.readouterr()


def test_the_settings_of_a_run(shop, data_path, capsys):
    status, printed = checked(data_path, capsys, *FLAGS, LOAD)
    assert (status, printed.err) == (0, "")
    assert "result: sound" in printed.out
    lines = [" ".join(line.split()) for line in printed.out.splitlines()]
    assert "users 30" in lines
    assert (
        "warning: shop: 2 of 30 targets of the validation part (6.7%) are items that the user has "
        "had before; eval_exclude_history: True excludes the history from the ranking, so each of "
        "them is a miss. If users come back to items, set repeatable: True, which ranks all items"
    ) in lines
    status, printed = checked(data_path, capsys)  # RecBole's names
    assert status == 2
    assert "shop.inter, line 1: there is no field 'user_id'" in printed.out or (
        "looks semicolon-separated" in printed.out
    )


def test_a_file_of_settings(shop, data_path, capsys, workdir):
    flags = {flag.removeprefix("--").replace("=", ": ", 1) for flag in (*FLAGS, LOAD)}
    flags = {flag.replace(": ;", ": ';'") for flag in flags}
    (workdir / "shop.yaml").write_text("\n".join(["model: BPR", *sorted(flags)]))
    assert checked(data_path, capsys, "--config_files=shop.yaml")[0] == 0
    many = ["--topk=[25]", "--valid_metric=Recall@25"]
    status, printed = checked(data_path, capsys, "--config_files=shop.yaml", *many)
    assert status == 2
    assert "problem: topk: 25 is more than the 24 items of shop" in printed.out


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--title_field=titel"], "title_field: no field 'titel'"),
        (["--item_text_fields=[titel]"], "has no text field titel"),
        (["--item_text_template={titel}"], "item_text_template: {titel} is not a text field"),
        (["--user_inter_num_interval=[99,inf)"], "user_inter_num_interval [99,inf) and"),
        (["--model=SASRec", "--additional_feat_suffix=[emb]"], "no tiny.emb; additional_feat"),
        (["--load_col={inter: [user_id, item_id]}"], "no column 'timestamp' was read"),
    ],
)
def test_what_a_run_would_refuse(flags, problem, data_path, capsys):
    status, printed = checked(data_path, capsys, *flags, name="tiny")
    assert status == 2
    (line,) = [line for line in printed.out.splitlines() if line.startswith("problem")]
    assert problem in line


def test_an_empty_title_column(data_path, capsys):
    path = data_path / "tiny/tiny.item"
    head, *rows = path.read_text().splitlines()
    rows = [f"{row}\t" for row in rows]
    path.write_text("\n".join([f"{head}\tname:token", *rows]) + "\n")
    status, printed = checked(data_path, capsys, "--title_field=name", name="tiny")
    assert status == 2
    assert "warning: tiny.item: every cell is empty in name" in printed.out
    assert "problem: title_field: no item of tiny has a name: the column is empty" in printed.out


def test_unknown_settings(data_path, capsys):
    status, printed = checked(data_path, capsys, "--USER_ID=uid", name="tiny")
    assert status == 2
    assert "unknown key 'USER_ID'" in printed.err
