"""adapt-llm: losses against NumPy, held-out items, resume, the folder that comes out, refusals."""

import json

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense
from tiny_llms import save_recipe
from transformers import MambaConfig, MambaForCausalLM

from recbole_lite import LiteConfig
from recbole_lite.cli.main import main
from recbole_lite.data import create_dataset
from recbole_lite.experiments.adapt_llm import adapt, objectives
from recbole_lite.experiments.adapt_llm.neighbours import nearest, share_of_next
from recbole_lite.text.item_vectors import ItemVectors, item_texts, load_item_vectors
from recbole_lite.text.sentence_transformers_folder import Recipe
from recbole_lite.utils.errors import ConfigError, DataError, ModelFilesError, TrainingError

STEPS = {"next_title": 3, "mntp": 2, "simcse": 3, "mlm": 3, "next_item": 3}
QUICK = {f"{stage}_steps": n for stage, n in STEPS.items()}
QUICK |= {f"{stage}_batch_size": 5 for stage in STEPS}
QUICK |= {"save_steps": 2, "show_progress": False, "state": "WARNING", "MAX_ITEM_LIST_LENGTH": 3}


@pytest.fixture
def flags(data_path):
    """Settings on the command line."""

    def build(**changes):
        settings = {"data_path": data_path, **QUICK, **changes}
        return [f"--{key}={value}" for key, value in settings.items()]

    return build


@pytest.fixture
def run(flags, llm_folders):
    """Adapt a tiny language model on the data set ``tiny``."""

    def adapted(llm, out, dataset="tiny", **changes):
        return adapt.adapt_llm(
            str(llm_folders.get(llm, llm)), out, dataset, overrides=flags(**changes)
        )

    return adapted


@pytest.fixture
def build(flags, llm_folders):
    """Objectives without dropout, and the texts of all items."""

    def made(llm, dataset="tiny", **changes):
        folder = llm_folders[llm]
        overrides = flags(item_llm=folder, **changes)
        config = LiteConfig(adapt.AdaptLLM, dataset, overrides=overrides)
        data = create_dataset(config)
        texts = item_texts(adapt.TextSettings.from_config(config), data)
        titles = [text.partition(",")[0].removeprefix("title: ") for text in texts]
        train = data.build()[0].inter_feat
        return objectives.Objectives(config, folder, Recipe(), train, titles, texts), data

    return made


def losses(model, stage, dropout=False):
    """Sum of the losses of one batch; the same random numbers every time."""
    model.begin(stage)
    model.lm.train(dropout)
    torch.manual_seed(3)
    return sum(float(loss.detach()) for loss in model.losses(stage))


def negative_log_softmax(scores, right):
    scores = scores.detach().double().numpy()
    return np.log(np.exp(scores).sum(-1)) - scores[np.arange(len(right)), right]


# -- losses -----------------------------------------------------------------------------------


def test_next_title_counts_the_tokens_of_the_target(build):
    model, _ = build("gpt2")
    found = losses(model, "next_title")
    torch.manual_seed(3)
    expected = []
    for *history, target in model._histories(5):
        before = model.tokenizer(", ".join(model.titles[i] for i in history) + ",")["input_ids"]
        after = [*model.tokenizer(model.titles[target])["input_ids"], model.tokenizer.eos_token_id]
        ids = torch.tensor([[*before, *after]])[:, -32:]  # positions of the model
        logits = model.lm(input_ids=ids).logits[0, -len(after) - 1 : -1]
        expected.append(negative_log_softmax(logits, after))
    assert found == pytest.approx(np.concatenate(expected).mean(), rel=1e-5)
    model.config["rows_at_once"] = 2  # in parts: the same
    assert losses(model, "next_title") == pytest.approx(found, rel=1e-5)


@pytest.mark.parametrize(("llm", "stage", "shift"), [("gpt2", "mntp", 1), ("bert", "mlm", 0)])
def test_masked_tokens(build, monkeypatch, llm, stage, shift):
    """Logits of the position before (mntp) or of the position itself, which see both sides."""
    model, _ = build(llm)
    rows = []

    def mask(self, ids, special_tokens_mask):
        labels = torch.full_like(ids, -100)
        for row, special in enumerate(special_tokens_mask):
            place = int((~special).nonzero()[-1])
            labels[row, place], ids[row, place] = ids[row, place], 1
            last = int((ids[row] != model.source.pad_id).nonzero()[-1]) + 1
            rows.append((ids[row, :last].clone(), place, int(labels[row, place])))
        return ids, labels

    monkeypatch.setattr(objectives.DataCollatorForLanguageModeling, "torch_mask_tokens", mask)
    model.tokens = [ids[: 3 + i % 4] for i, ids in enumerate(model.tokens)]
    found = losses(model, stage)
    assert len({len(ids) for ids, _, _ in rows}) > 1  # the batch has padding
    expected = []
    for ids, place, right in rows:
        logits = model.lm(input_ids=ids[None]).logits[0, place - shift]
        expected.append(negative_log_softmax(logits[None], [right]))
        changed = ids.clone()
        changed[-1] = 7
        assert not torch.equal(model.lm(input_ids=changed[None]).logits[0, 0], logits)
    assert found == pytest.approx(np.mean(expected), rel=1e-5)


@pytest.mark.parametrize(("llm", "stage"), [("gpt2", "simcse"), ("bert", "next_item")])
def test_contrastive_losses(build, llm, stage):
    model, _ = build(llm, simcse_batch_size=7)
    found = losses(model, stage)
    vectors = {i: encoded(model, model.tokens[i]) for i in range(len(model.tokens))}
    torch.manual_seed(3)
    if stage == "simcse":
        pairs = [(i, i) for i in torch.randperm(len(vectors))[:7].tolist()]
        assert losses(model, stage, dropout=True) != pytest.approx(found, rel=1e-3)
    else:
        pairs = [[int(model.text_of[i]) for i in row[-2:]] for row in model._histories(5)]
    expected = []
    for query, key in pairs:
        others = [k for _, k in pairs if k not in (query, key)]
        cosines = torch.stack([vectors[query] @ vectors[k] for k in (key, *others)])
        expected.append(negative_log_softmax(cosines[None] / TEMPERATURES[stage], [0]))
    assert found == pytest.approx(np.mean(expected), rel=1e-4)


TEMPERATURES = {"simcse": 0.1, "next_item": 0.05}


def encoded(model, ids):
    """Unit vector of one text: the mean of its tokens' states."""
    states = model.lm.base_model(input_ids=ids[None]).last_hidden_state[0]
    return torch.nn.functional.normalize(states.mean(0), dim=0)


# -- data -------------------------------------------------------------------------------------


def test_held_out_items_are_never_read(build, data_path):
    """The last two items of every user are of their own, and appear in no batch."""
    folder = data_path / "split"
    folder.mkdir()
    rows, items = ["user_id:token\titem_id:token\ttimestamp:float"], []
    for user in range(8):
        for step in range(5):
            held = "h" * (step > 2)
            items.append(f"{held}{user + step}")
            rows.append(f"{user}\t{items[-1]}\t{step}")
    (folder / "split.inter").write_text("\n".join(rows))
    lines = [f"{item}\ttoy {item}" for item in dict.fromkeys(items)]
    (folder / "split.item").write_text("\n".join(["item_id:token\ttitle:token_seq", *lines]))
    model, data = build("bert", "split")
    drawn = {i for _ in range(20) for row in model._histories(10) for i in row}
    names = set(data.id2token(data.iid_field, sorted(drawn)))
    assert names == {item for item in items if item[0] != "h"}


# -- resume -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("llm", "stops"), [("gpt2", (3, 5)), ("bert", (3, 4))])
def test_an_interrupted_adaptation_ends_with_the_same_weights(run, monkeypatch, llm, stops):
    """Interrupted after a checkpoint within a stage and in a later one."""
    report = run(llm, "whole")
    step = adapt._step
    for stop in stops:
        count = iter(range(100))

        def interrupted(*args, last=stop, count=count):
            if next(count) == last - 1:
                raise KeyboardInterrupt
            return step(*args)

        monkeypatch.setattr(adapt, "_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(llm, "parts")
    monkeypatch.setattr(adapt, "_step", step)
    assert run(llm, "parts") == report
    weights = [adapt.Path(out, "model.safetensors").read_bytes() for out in ("whole", "parts")]
    assert weights[0] == weights[1]
    monkeypatch.setattr(adapt, "_train", None)
    assert run(llm, "parts", max_minutes=1) == report  # finished: nothing is trained
    assert not list(adapt.Path("parts").glob("last-*"))


def test_a_time_limit_ends_each_stage(run):
    assert "| mlm | 0 |" in run("bert", "out", max_minutes=1e-9)


# -- the folder -------------------------------------------------------------------------------


@pytest.mark.parametrize("llm", ["gpt2", "bert", "recipe"])
def test_the_folder_is_an_item_llm_and_a_sentence_transformer(run, llm_folders, config_for, llm):
    recipe = llm == "recipe"
    if recipe:
        llm = save_recipe(
            adapt.Path("st"), llm_folders["bert"], [lambda n: (Dense(n, 8), 8)],
            prompts={"item": "get "}, default="item",
        )  # fmt: skip
    run(llm, "out")
    config = config_for("LiteLLM4Rec", item_llm="out", item_embedding_cache_dir=None)
    data = create_dataset(config)
    vectors = load_item_vectors(config, data).vectors[1:]
    kept = load_item_vectors(config_for("LiteLLM4Rec", item_llm="out"), data)
    assert kept.from_cache  # as the report made them
    torch.testing.assert_close(kept.vectors[1:], vectors)
    texts = item_texts(adapt.TextSettings.from_config(config), data)[1:]
    library = torch.tensor(SentenceTransformer("out", device="cpu").encode(texts))
    assert vectors.shape == (24, 8 if recipe else 16)
    torch.testing.assert_close(vectors, library, atol=1e-5, rtol=1e-4)
    before = load_item_vectors(
        {**config.final_config_dict, "item_llm": str(llm_folders.get(llm, llm))}, data
    )
    assert not torch.allclose(vectors, before.vectors[1:], atol=1e-3)
    assert json.loads(adapt.Path("out/config.json").read_text()).get("is_causal", True) is (
        llm != "gpt2"
    )


def test_neighbours_and_share_against_numpy(build):
    model, _ = build("bert")
    torch.manual_seed(0)
    n = len(model.titles)
    has_text = torch.ones(n, dtype=torch.bool)
    has_text[[0, 4]] = False
    vectors = ItemVectors(torch.randn(n, 5), has_text, False, None)
    unit = vectors.vectors / vectors.vectors.norm(dim=1, keepdim=True)
    cosines = (unit @ unit.T).numpy()
    cosines[:, [0, 4]] = -2
    np.fill_diagonal(cosines, -2)
    order = np.argsort(-cosines, axis=1)
    assert nearest(vectors, torch.arange(n), 3).tolist() == order[:, :3].tolist()
    items = model.windows.store.columns["item_id"].numpy()
    hits = [items[row] in order[items[row - 1], :10] for row in model.windows.rows]
    assert share_of_next(vectors, model.windows) == pytest.approx(np.mean(hits))


def test_the_report(flags, llm_folders, capsys):
    command = ["adapt-llm", f"--llm={llm_folders['bert']}", "--dataset=tiny", "--out=out", *flags()]
    assert main(command) == 0
    printed = capsys.readouterr().out
    text = adapt.Path("out/report.md").read_text()
    assert text in printed
    assert "Use it: --item_llm=out" in printed
    assert "nearest items (cosine) of their last training item: before 0." in text
    lines = text.splitlines()
    assert [line[:9] for line in lines if line.startswith("| m") or line.startswith("| n")] == [
        "| mlm | 3",
        "| next_it",
    ]
    assert len(lines[lines.index("| item | before | after |") + 2 :]) == 10


# -- refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("llm", "changes", "error", "words"),
    [
        ("./nothing", {}, ModelFilesError, "no such directory"),
        ("t5", {}, ModelFilesError, "a t5 model is neither a causal language model nor"),
        ("bart", {}, ModelFilesError, "a bart model is neither"),
        ("bert", {"epochs": 3}, ConfigError, "epochs is no setting of adapt-llm"),
        ("bert", {"item_llm_pooling": "pooler"}, ConfigError, "pooler is not adapted"),
        ("bert", {"mlm_probability": 1.5}, ConfigError, "mlm_probability must be a number in"),
        ("bert", {"item_text_fields": "[plot]"}, DataError, "plot"),
        ("bert", {"lr_scheduler": "never"}, ConfigError, "cannot be adapted"),
        ("bert", {"mlm_learning_rate": 1e30, "mlm_steps": 9}, TrainingError, "the loss is nan"),
    ],
)
def test_refusals(run, llm, changes, error, words):
    with pytest.raises(error, match=words) as caught:
        run(llm, "out", **changes)
    assert "\n" not in str(caught.value)


def test_a_model_that_stays_causal():
    config = MambaConfig(vocab_size=9, hidden_size=8, state_size=4, num_hidden_layers=1)
    with pytest.raises(ModelFilesError, match="a mamba model cannot be made bidirectional"):
        objectives.make_bidirectional(MambaForCausalLM(config))


def test_a_data_set_without_sequences(run, data_path):
    rows = [f"u{user}\ti{user + step}\t{step}" for user in range(9) for step in range(1)]
    head = "user_id:token\titem_id:token\ttimestamp:float"
    (data_path / "tiny" / "tiny.inter").write_text("\n".join([head, *rows]))
    with pytest.raises(ConfigError, match="tiny: no user has two training items"):
        run("bert", "out")


def test_a_data_set_without_text(run, data_path):
    (data_path / "tiny" / "tiny.item").write_text("item_id:token\ni1\n")
    with pytest.raises((ConfigError, DataError), match="text"):
        run("bert", "out")


def test_equal_texts_are_refused(run, data_path):
    lines = ["item_id:token\ttitle:token_seq", "i1\ttoy", "i2\ttoy"]
    (data_path / "tiny" / "tiny.item").write_text("\n".join(lines))
    with pytest.raises(ConfigError, match="all items have the same text"):
        run("bert", "out")
    assert not adapt.Path("out").exists()  # not claimed


def test_histories_without_text_are_refused(build, monkeypatch):
    model, _ = build("bert")
    model.text_of[:] = -1
    monkeypatch.setattr(objectives, "DRAWS", 3)
    with pytest.raises(ConfigError, match="hardly any user has two items with text"):
        model._histories(4)


def test_a_folder_that_holds_something_else(run, workdir):
    run("bert", "out", next_item_steps=0, mlm_steps=1)
    with pytest.raises(
        ConfigError, match="--out: out holds an adaptation with mlm_steps: 1, not 2"
    ):
        run("bert", "out", next_item_steps=0, mlm_steps=2)
    (workdir / "out" / "adapt_llm.json").write_text("{")
    with pytest.raises(ConfigError, match="is damaged; name a new folder"):
        run("bert", "out")
    (workdir / "other").mkdir()
    (workdir / "other" / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="other holds other files"):
        run("bert", "other")
