"""Data sets that are split already: histories, targets, lengths and masks by hand; whole runs."""

import json
import re
from pathlib import Path

import pytest
import torch
from recbole.data.utils import get_dataloader as get_recboles
from recbole.utils import init_seed
from tiny_data import QUICK

from recbole_lite import (
    LiteConfig,
    Recommender,
    create_dataset,
    data_preparation,
    get_dataloader,
    get_model,
    get_trainer,
    run,
)
from recbole_lite.data.prefix_windows import TARGETS
from recbole_lite.data.windows import SEEN
from recbole_lite.inference.saved_run import load_data_and_model
from recbole_lite.utils.errors import ConfigError, DataError, OtherIdsError

THREE, TWO = ["train", "valid", "test"], ["train", "test"]
HEAD = "user_id:token\titem_id:token\ttimestamp:float\n"
ROWS = {
    "train": "u b 200000002\nu a 200000001\nu c 200000003\nv a 9\nv b 5\nw a 1\nw f 2\n",
    "valid": "u d 200000004\nv c 4\n",
    "test": "u e 200000005\nv d 7\nv a 8\nx a 1\n",
}
LIST_HEAD = "user_id:token\titem_id_list:token_seq\titem_id:token\n"
LIST_ROWS = {
    # One session in three rows, the longest first; another of the same user; one without history.
    "train": "s,a b c,d\ns,a,b\ns,a b,c\ns,b,a\nt,c a,b\nt,,d\n",
    "test": "y,a b f,e\n",
}


def write_parts(folder, name, parts, head=HEAD, items=""):
    target = folder / name
    target.mkdir(parents=True)
    for part, rows in parts.items():
        text = head + rows.replace("," if head != HEAD else " ", "\t")
        (target / f"{name}.{part}.inter").write_text(text)
    if items:
        text = "item_id:token\ttitle:token_seq\n" + "".join(f"{i}\ttoy {i}\n" for i in items)
        (target / f"{name}.item").write_text(text)
    return target


@pytest.fixture
def configured(tmp_path):
    """``configured(model, parts, key=value, ...)`` -> LiteConfig for data in parts."""

    def build(model="GRU4Rec", parts=ROWS, head=HEAD, items="", names=THREE, **changes):
        folder = tmp_path / "parts"
        if not folder.exists():
            write_parts(folder, "shop", parts, head, items)
        own = {"data_path": str(folder), "benchmark_filename": names, "load_col": None}
        return LiteConfig(model, "shop", config_dict={**QUICK, **own, **changes})

    return build


@pytest.fixture
def listed(configured):
    def build(model="GRU4Rec", parts=LIST_ROWS, **changes):
        return configured(model, parts, head=LIST_HEAD, names=list(parts), **changes)

    return build


def shown(part, index=None):
    """``(user, history, target)`` of the windows of a part, as raw ids in one string."""
    windows = part.inter_feat
    batch = windows.collate(list(range(len(windows))) if index is None else index)
    rows = zip(
        part.id2token("user_id", batch["user_id"].numpy()),
        batch["item_id_list"].numpy(),
        batch["item_length"].tolist(),
        part.id2token("item_id", batch["item_id"].numpy()),
        strict=True,
    )
    return [
        f"{user}: {' '.join(part.id2token('item_id', items[:n]))} -> {target}"
        for user, items, n, target in rows
    ]


def masked(loader):
    """Items that the loader masks, of each row of its only batch."""
    [(_, (rows, items), _, _)] = list(loader)
    part = loader._dataset
    names = part.id2token("item_id", items.numpy())
    return [
        sorted({n for n, r in zip(names, rows.tolist(), strict=True) if r == row})
        for row in range(len(part))
    ]


# -- one interaction per row ------------------------------------------------------------------


def test_histories_follow_parts_then_exact_times(configured, caplog):
    train, valid, test = create_dataset(configured()).build()
    # v's validation item (4) is earlier than its training items; 200000001 and 2 are one float32.
    # Users in the order of their first window in time, as RecBole has them.
    assert shown(train) == ["w: a -> f", "v: b -> a", "u: a -> b", "u: a b -> c"]
    assert shown(valid) == ["v: b a -> c", "u: a b c -> d"]
    assert shown(test) == ["v: b a c -> d", "v: b a c d -> a", "u: a b c d -> e"]
    assert test.inter_feat["item_length"].tolist() == [3, 4, 4]
    text = caplog.text
    assert "1 rows of shop.test.inter have no earlier row of their user: left out" in text
    assert "2 rows are later than a row of the same user in a later part" in text
    assert "2 items of shop.valid.inter and shop.test.inter do not occur in shop.train" in text


def test_longest_history(configured):
    _, _, test = create_dataset(configured(MAX_ITEM_LIST_LENGTH=2)).build()
    assert shown(test) == ["v: a c -> d", "v: c d -> a", "u: c d -> e"]


def test_masks(configured):
    """The whole history, not only the window."""
    settings = {"MAX_ITEM_LIST_LENGTH": 2}
    for model in ("GRU4Rec", "BPR"):
        config = configured(model, **settings)
        _, valid, test = data_preparation(config, create_dataset(config))
        assert masked(valid) == [["a", "b"], ["a", "b", "c"]]
        assert masked(test)[0] == ["a", "b", "c"]
        assert masked(test)[2] == ["a", "b", "c", "d"]
        config = configured(model, eval_exclude_history=False, **settings)
        [(_, nothing, _, _)] = data_preparation(config, create_dataset(config))[2]
        assert nothing is None


def test_general_models_train_on_plain_rows(configured):
    train, valid, test = create_dataset(configured("BPR")).build()
    users = train.id2token("user_id", train.inter_feat["user_id"].numpy())
    items = train.id2token("item_id", train.inter_feat["item_id"].numpy())
    pairs = [*map("".join, zip(users, items, strict=True))]
    assert pairs == ["ua", "ub", "uc", "vb", "va", "wa", "wf"]
    assert shown(valid) == ["v: b a -> c", "u: a b c -> d"]
    assert shown(test)[0] == "v: b a c -> d"


def test_general_models_need_no_times(configured):
    """The order is that of the file."""
    parts = {part: re.sub(r" \d+$", "", rows, flags=re.M) for part, rows in ROWS.items()}
    head = HEAD.replace("\ttimestamp:float", "")
    parts = {part: rows.replace(" ", ",") for part, rows in parts.items()}
    _, _, test = create_dataset(configured("BPR", parts, head)).build()
    assert shown(test) == ["u: b a c d -> e", "v: a b c -> d", "v: a b c d -> a"]
    with pytest.raises(DataError, match=r"shop.train.inter: no column 'timestamp' was read"):
        create_dataset(configured()).build()


def test_strategies_and_seen_items(configured):
    config = configured("LiteLLM4Rec", train_strategy="prefix", rec_llm_causal=True, items="abcde")
    train, *_ = data_preparation(config, create_dataset(config))
    targets = torch.cat([batch[TARGETS].flatten() for batch in train])
    asked = train._dataset.id2token("item_id", targets[targets > 0].numpy())
    assert sorted(asked) == ["a", "b", "c", "f"]  # every training target once, nothing held out
    settings = {"loss_exclude_history": True, "train_strategy": "all", "MAX_ITEM_LIST_LENGTH": 1}
    config = configured("LiteLLM4Rec", **settings)
    train, *_ = data_preparation(config, create_dataset(config))
    [batch] = list(train)
    seen = train._dataset.id2token("item_id", batch[SEEN].max(1).values.numpy())
    assert sorted(seen) == ["[PAD]", "[PAD]", "[PAD]", "a"]  # of u: a b -> c, whose window is b


def test_candidates_are_unseen_in_all_parts(configured):
    settings = {"task": "topn", "topn_negatives": 1, "topk": [1], "valid_metric": "NDCG@1"}
    config = configured(**settings)
    _, valid, test = data_preparation(config, create_dataset(config))
    for loader in (valid, test):
        [(batch, others, _, _)] = list(loader)
        candidates = (~others[-1]).nonzero().flatten().numpy()
        names = set(test._dataset.id2token("item_id", candidates))
        assert names == {"f", *test._dataset.id2token("item_id", batch["item_id"][-1:].numpy())}


def test_filters_apply_to_all_parts(configured):
    config = configured(user_inter_num_interval="[4,inf)")
    dataset = create_dataset(config)
    assert dataset.part_files == {
        "shop.train.inter": 5, "shop.valid.inter": 2, "shop.test.inter": 3,
    }  # fmt: skip
    train, _, test = dataset.build()
    assert shown(train) == ["v: b -> a", "u: a -> b", "u: a b -> c"]
    assert shown(test)[2] == "u: a b c d -> e"


# -- a history and its target per row ---------------------------------------------------------


def test_rows_are_windows_as_given(listed, caplog):
    dataset = create_dataset(listed())
    assert (dataset.inter_num, dataset.item_num) == (7, 7)  # f occurs in a history alone
    train, test = dataset.build()
    assert shown(train) == ["s: a b c -> d", "s: a -> b", "s: a b -> c", "s: b -> a", "t: c a -> b"]
    assert shown(test) == ["y: a b f -> e"]
    assert train.inter_feat["item_length"].tolist() == [3, 1, 2, 1, 2]
    assert "1 rows of shop.train.inter have an empty history and are left out" in caplog.text
    assert "1 items of shop.test.inter do not occur in shop.train.inter" in caplog.text


def test_rows_keep_their_end(listed):
    train, test = create_dataset(listed(MAX_ITEM_LIST_LENGTH=2)).build()
    assert shown(train)[0] == "s: b c -> d"
    assert shown(test) == ["y: b f -> e"]


def test_two_parts_have_no_validation(listed):
    config = listed(MAX_ITEM_LIST_LENGTH=2)
    train, valid, test = data_preparation(config, create_dataset(config))
    assert [len(loader._dataset) for loader in (train, valid, test)] == [5, 0, 1]
    assert masked(test) == [["a", "b", "f"]]


def test_no_target_is_trained_twice(listed):
    """Rows that begin another one of the same user are left out, where prefixes are trained."""
    config = listed("LiteLLM4Rec", train_strategy="prefix", rec_llm_causal=True, items="abcdef")
    train, *_ = data_preparation(config, create_dataset(config))
    found = set()
    for _ in range(20):
        batches = list(train)
        asked = torch.cat([batch[TARGETS].flatten() for batch in batches])
        names = train._dataset.id2token("item_id", asked[asked > 0].numpy())
        # s: a (b c d), s: b (a), t: c (a b)
        assert sorted(names) == ["a", "a", "b", "b", "c", "d"]
        found.update(shown(train._dataset))
    assert found >= {"s: a b c -> d", "s: b -> a", "t: c a -> b"}
    config = listed("LiteLLM4Rec", train_strategy="sampling", items="abcdef")
    train, *_ = data_preparation(config, create_dataset(config))
    assert len(train._dataset) == 3
    # No segment leaves its row.
    possible = "s: a -> b,s: a b -> c,s: a b c -> d,s: b -> c,s: b c -> d,s: c -> d,s: b -> a,"
    possible = set((possible + "t: c -> a,t: c a -> b,t: a -> b").split(","))
    found = set()
    for _ in range(60):
        list(train)
        found.update(shown(train._dataset))
    assert found == possible


def test_general_models_train_on_each_interaction_once(listed, caplog):
    train, test = create_dataset(listed("BPR")).build()
    assert "1 users of shop.test.inter do not occur in shop.train.inter" in caplog.text
    users = train.id2token("user_id", train.inter_feat["user_id"].numpy())
    items = train.id2token("item_id", train.inter_feat["item_id"].numpy())
    pairs = [*map("".join, zip(users, items, strict=True))]
    assert sorted(pairs) == ["sa", "sa", "sb", "sb", "sc", "sd", "ta", "tb", "tc"]
    assert shown(test) == ["y: a b f -> e"]


def test_other_columns_of_histories(tmp_path):
    """A column with a history has one; another is known of the target alone."""
    head = "user_id:token\titem_id_list:token_seq\titem_id:token\tprice_list:float_seq"
    head += "\tprice:float\tday:float\tkind:token\tkind_list:token_seq\n"
    parts = {"train": "s,a b,c,1 2,3,7,k,l k\ns,c,a,3,1,8,l,k\n", "test": "t,c,b,5,6,9,l,l\n"}
    write_parts(tmp_path, "more", parts, head)
    settings = {"data_path": str(tmp_path), "benchmark_filename": TWO, "load_col": None}
    settings |= {"MAX_ITEM_LIST_LENGTH": 3, "topk": [2], "valid_metric": "NDCG@2"}
    config = LiteConfig("GRU4Rec", "more", config_dict=settings)
    train, _ = create_dataset(config).build()
    batch = train.inter_feat.collate([0, 1])
    assert shown(train) == ["s: a b -> c", "s: c -> a"]
    assert batch["price_list"].tolist() == [[1, 2, 0], [3, 0, 0]]
    assert batch["price"].tolist() == [3, 1]
    assert batch["day"].tolist() == [7, 8]
    assert "day_list" not in batch
    kinds = train.field2id_token["kind"]
    assert [*kinds[batch["kind"].numpy()]] == ["k", "l"]
    assert [*kinds[batch["kind_list"][0, :2].numpy()]] == ["l", "k"]  # the ids of kind


def test_histories_are_read_without_being_named(listed):
    """Of load_col, item_id is enough; alias_of_item_id says what is known already."""
    named = listed(load_col={"inter": ["user_id", "item_id"]})
    assert shown(create_dataset(named).build()[1]) == ["y: a b f -> e"]
    aliased = listed(alias_of_item_id=["item_id_list"])
    assert shown(create_dataset(aliased).build()[1]) == ["y: a b f -> e"]


# -- what cannot be used ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["train"], "must name the parts, .* found \\['train'\\]"),
        ("train", "must name the parts, .* found 'train'"),
        ([*THREE, "more"], "must name the parts"),
        (["train", "test", "test"], "each part must have a name of its own"),
        ([1, 2], "must name the parts, .* found \\[1, 2\\]"),
    ],
)
def test_names_that_are_no_parts(configured, names, message):
    with pytest.raises(ConfigError, match=message):
        configured(names=names)


def test_files_that_are_no_parts(configured, tmp_path, caplog):
    config = configured()
    folder = tmp_path / "parts" / "shop"
    folder.rename(folder.with_name("moved"))
    with pytest.raises(DataError, match=r"there is no such folder"):
        create_dataset(config)
    folder.with_name("moved").rename(folder)
    with pytest.raises(DataError, match=r"shop\.dev\.inter: .*has the parts train, valid, test"):
        create_dataset(configured(names=["train", "dev"]))
    with pytest.raises(DataError, match=r"set benchmark_filename: \[train, valid, test\]"):
        create_dataset(configured(names=None))
    text = (folder / "shop.valid.inter").read_text()
    (folder / "shop.valid.inter").write_text(text.replace("timestamp:float", "when:float"))
    with pytest.raises(DataError, match=r"shop\.valid\.inter, line 1: has the columns .*, sh"):
        create_dataset(config)
    (folder / "shop.valid.inter").write_text(text)
    (folder / "shop.inter").write_text(HEAD + "q\ta\t1\n")
    assert create_dataset(config).user_num == 5  # u, v, w, x
    assert "shop.inter is not read: benchmark_filename names" in caplog.text


def test_parts_that_leave_nothing(configured):
    """A user's first row has no history."""
    parts = {"train": "u a 1\nv b 1\n", "test": "u c 2\nv c 2\n"}
    config = configured(parts=parts, names=TWO, topk=[2], valid_metric="NDCG@2")
    dataset = create_dataset(config)
    with pytest.raises(DataError, match=r"leave nothing for training: it needs a row with an earl"):
        data_preparation(config, dataset)


def test_rows_of_histories_that_do_not_fit(listed, tmp_path):
    with pytest.raises(ConfigError, match=r"item_inter_num_interval: \[2,inf\) counts interaction"):
        create_dataset(listed(item_inter_num_interval="[2,inf)"))
    with pytest.raises(ConfigError, match="benchmark_filename: DIEN lays its samples"):
        create_dataset(listed("DIEN"))
    path = tmp_path / "parts" / "shop" / "shop.test.inter"
    path.write_text(LIST_HEAD.replace("list:token_seq", "list:token") + "y\ta\tb\n")
    with pytest.raises(DataError, match=r"has the columns .*list:token, .*must have the same col"):
        create_dataset(listed())
    (path.parent / "shop.train.inter").write_text(path.read_text())
    with pytest.raises(DataError, match=r"'item_id_list' has type token; .* must have type token_"):
        create_dataset(listed())
    head = LIST_HEAD.replace("\n", "\tprice:float\tprice_list:float_seq\n")
    parts = {"train": "y,a b,c,1,1 2\ny,a b,c,1,1\n", "test": "y,a,c,1,1\n"}
    write_parts(tmp_path, "uneven", parts, head)
    settings = {"data_path": str(tmp_path), "benchmark_filename": TWO, "load_col": None}
    with pytest.raises(DataError, match=r"train.inter, line 3: price_list has 1 values and item_i"):
        create_dataset(LiteConfig("GRU4Rec", "uneven", config_dict=settings))


# -- whole runs -------------------------------------------------------------------------------


@pytest.fixture
def split_by_hand(data_path):
    """``tiny`` as one file, as parts and as parts of histories; lines in the order of the parts."""
    head, *lines = (data_path / "tiny" / "tiny.inter").read_text().splitlines(keepends=True)
    rows = [line.rstrip().split("\t") for line in lines]
    users = {}
    for row in sorted(rows, key=lambda row: float(row[3])):
        users.setdefault(row[0], []).append(row)
    cuts = {"train": slice(None, -2), "valid": slice(-2, -1), "test": slice(-1, None)}
    parts = {part: [r for own in users.values() for r in own[cut]] for part, cut in cuts.items()}
    text = {part: "".join("\t".join(row) + "\n" for row in own) for part, own in parts.items()}
    item = (data_path / "tiny" / "tiny.item").read_text()
    histories = dict.fromkeys(cuts, "")
    for user, own in users.items():
        items = [row[1] for row in own]
        for end in range(1, len(items)):
            part = {len(items) - 2: "valid", len(items) - 1: "test"}.get(end, "train")
            histories[part] += f"{user}\t{' '.join(items[:end])}\t{items[end]}\n"
    for name in ("one", "plain", "lists"):
        folder = data_path / name
        folder.mkdir()
        (folder / f"{name}.item").write_text(item)
        if name == "one":
            (folder / "one.inter").write_text(head + "".join(text.values()))
            continue
        first, content = (head, text) if name == "plain" else (LIST_HEAD, histories)
        for part in cuts:
            (folder / f"{name}.{part}.inter").write_text(first + content[part])
    return data_path


@pytest.mark.parametrize("model", ["SASRec", "BPR"])
def test_the_same_split_by_files_gives_the_same_figures(model, split_by_hand, quick):
    """By leave-one-out, and by parts."""
    found, batches = [], []
    for name, parts in (("one", None), ("plain", THREE)):
        changes = {"benchmark_filename": parts, "data_path": str(split_by_hand), "epochs": 1}
        config = LiteConfig(model, name, config_dict=quick(**changes))
        dataset = create_dataset(config)
        loaders = data_preparation(config, dataset)
        batches.append([part._dataset[torch.arange(len(part._dataset))] for part in loaders])
        run_of = run(model, name, config_dict=quick(**changes), saved=False)
        found.append((run_of["best_valid_result"], run_of["test_result"]))
    for one, parts in zip(*batches, strict=True):
        assert set(one.interaction) == set(parts.interaction)
        for field, values in one.interaction.items():
            assert torch.equal(values, parts[field]), field
    assert found[0] == found[1]


def test_histories_give_the_same_questions(split_by_hand, quick):
    questions = []
    for name in ("plain", "lists"):
        changes = {"benchmark_filename": THREE, "data_path": str(split_by_hand)}
        config = LiteConfig("SASRec", name, config_dict=quick(**changes))
        questions.append([sorted(shown(part)) for part in create_dataset(config).build()])
    assert questions[0] == questions[1]


@pytest.mark.parametrize("name", ["plain", "lists"])
@pytest.mark.parametrize("model", ["LiteLLM4Rec", "SASRec", "BPR"])
def test_whole_run(model, name, split_by_hand, quick):
    changes = {"benchmark_filename": THREE, "data_path": str(split_by_hand), "epochs": 1}
    result = run(model, name, config_dict=quick(**changes))
    assert 0 < result["test_result"]["recall@5"] < 1
    folder = Path(result["run_dir"])
    metrics = json.loads((folder / "metrics.json").read_text())
    assert list(metrics["part_files"]) == [f"{name}.{part}.inter" for part in THREE]
    assert metrics["part_files"][f"{name}.test.inter"] == 30
    page = (folder / "report.html").read_text().lower()
    assert f"split by the files {name}.train.inter" in page
    assert "leave-one-out" not in page
    assert len((folder / "users.csv").read_text().splitlines()) == 31
    if model == "LiteLLM4Rec":
        recommender = Recommender.load(folder)
        assert recommender.recommend([["i1", "i2"]], k=3)
        recommender.save_pretrained("packed")
        card = Path("packed", "README.md").read_text()
        assert f"Split: `files {name}.train.inter, {name}.valid.inter, {name}.test.inter`" in card
        assert "eave-one-out" not in card


@pytest.mark.parametrize("model", ["BERT4Rec", "ItemKNN", "ItemLM", "LightLM", "P5", "Pop"])
def test_other_models(model, split_by_hand, quick, llm_folders):
    changes = {"benchmark_filename": TWO, "data_path": str(split_by_hand), "epochs": 1}
    if model == "P5":
        changes |= {"llm": str(llm_folders["writer"]), "llm_init": "pretrained", "llm_config": {}}
        changes["tokenizer"] = changes["llm"]
    result = run(model, "lists", config_dict=quick(**changes), saved=False)
    assert result["best_valid_result"] is None
    assert 0 <= result["test_result"]["recall@5"] <= 1
    assert result["parts"]["valid"] == 0


def test_changed_parts_are_refused(split_by_hand, quick):
    """A training interaction could be tested."""
    changes = {"benchmark_filename": THREE, "data_path": str(split_by_hand), "epochs": 1}
    folder = run("GRU4Rec", "plain", config_dict=quick(**changes))["run_dir"]
    load_data_and_model(folder)
    files = [split_by_hand / "plain" / f"plain.{part}.inter" for part in ("train", "valid")]
    train, valid = (path.read_text().splitlines(keepends=True) for path in files)
    files[0].write_text("".join([train[0], *reversed(train[1:])]))  # another order is the same
    load_data_and_model(folder)
    files[0].write_text("".join([*train, valid.pop(1)]))
    files[1].write_text("".join(valid))
    with pytest.raises(OtherIdsError, match="the parts of plain have other rows than in training"):
        run("GRU4Rec", "plain", config_dict=quick(**{**changes, "epochs": 2, "resume": folder}))


@pytest.mark.parametrize(
    ("loader_of", "exclude"),
    [(get_dataloader, True), (get_dataloader, False), (get_recboles, True)],
)
def test_as_recboles_session_example(loader_of, exclude, tmp_path):
    """Two parts, loaders made by hand; only the imports differ."""
    head = LIST_HEAD.replace("user_id", "session_id")
    rows = [f"s{n},{'abcd'[n % 4]} {'bcda'[n % 4]},{'cdab'[n % 4]}\n" for n in range(40)]
    write_parts(tmp_path, "bs", {"train": "".join(rows), "test": "".join(rows[:20])}, head)
    settings = {
        "data_path": str(tmp_path), "USER_ID_FIELD": "session_id", "load_col": None,
        "benchmark_filename": TWO, "alias_of_item_id": ["item_id_list"], "topk": [2],
        "metrics": ["Recall", "MRR"], "valid_metric": "MRR@2", "epochs": 1, "state": "WARNING",
        "eval_exclude_history": exclude,
    }  # fmt: skip
    config = LiteConfig("GRU4Rec", "bs", config_dict=settings)
    init_seed(config["seed"], config["reproducibility"])
    train, test = create_dataset(config).build()
    train_data = loader_of(config, "train")(config, train, None, shuffle=True)
    test_data = loader_of(config, "test")(config, test, None, shuffle=False)
    model = get_model(config["model"])(config, train_data.dataset).to(config["device"])
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    _, found = trainer.fit(train_data, test_data, saved=True, show_progress=False)
    # Two of four items are in the history: without them the target is among the first two.
    masks = exclude and loader_of is get_dataloader
    assert found["recall@2"] == 1 if masks else found["recall@2"] < 1
