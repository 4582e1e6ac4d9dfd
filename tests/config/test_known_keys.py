"""Settings that a model brings along: declared by its class, or read by its code."""

import sys
from pathlib import Path
from textwrap import dedent

import pytest
from recbole.model.sequential_recommender import SASRec

from recbole_lite import LiteConfig, run
from recbole_lite.config import configurator
from recbole_lite.config.known_keys import known_keys
from recbole_lite.utils.errors import ConfigError

# As in a notebook's cell: no file holds this text.
CELL = """
    from torch import nn
    from recbole.model.abstract_recommender import SequentialRecommender

    def gru(config):
        return nn.GRU(config["my_size"], config["my_size"], batch_first=True)

    class MyGRU(SequentialRecommender):
        def __init__(self, config, dataset):
            super().__init__(config, dataset)
            self.config = config
            self.emb = nn.Embedding(self.n_items, self.size, padding_idx=0)
            self.gru = gru(config)
            self.drop = nn.Dropout(config.get("my_dropout", 0.1) if "my_rate" in config else 0.1)
            if config["loss_type"] == config.my_loss:
                self.loss = (lambda: nn.CrossEntropyLoss(reduction=self.config["my_reduction"]))()

        @property
        def size(self):
            return self.config["my_size"]

        def forward(self, seq, length):
            return self.gather_indexes(self.gru(self.drop(self.emb(seq)))[0], length - 1)

        def calculate_loss(self, inter):
            h = self.forward(inter[self.ITEM_SEQ], inter[self.ITEM_SEQ_LEN])
            return self.loss(h @ self.emb.weight.T, inter[self.POS_ITEM_ID])

        def full_sort_predict(self, inter):
            h = self.forward(inter[self.ITEM_SEQ], inter[self.ITEM_SEQ_LEN])
            return h @ self.emb.weight.T
"""
MINE = {"my_size": 8, "my_loss": "CE", "my_reduction": "mean"}


def cell(**names):
    exec(compile(dedent(CELL), "<cell>", "exec"), names)
    return names["MyGRU"]


@pytest.mark.parametrize("names", [{"__name__": "__main__"}, {}])
def test_a_class_without_a_source_file(names, quick):
    model = cell(**names)
    assert {*MINE, "my_dropout", "my_rate"} <= known_keys(model)
    result = run(model, "tiny", config_dict=quick(**MINE, loss_type="CE", epochs=1))
    assert set(result["test_result"]) == {"recall@3", "recall@5", "ndcg@3", "ndcg@5"}


def test_a_misspelt_key_of_it_is_refused_and_the_right_one_named(quick):
    with pytest.raises(ConfigError, match="unknown key 'my_sise'; did you mean my_size"):
        LiteConfig(cell(), "tiny", config_dict=quick(**MINE, my_sise=8))


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package in which the base class and its helpers stand in modules of their own."""
    for name, text in {
        "__init__": "",
        "helpers": """
            class Size:
                def of(self, config):
                    return config["deep_size"]
            def build(config):
                return Size().of(config), config["helper_key"]
        """,
        "base": """
            from recbole.model.abstract_recommender import SequentialRecommender
            from . import helpers
            class Base(SequentialRecommender):
                def __init__(self, config, dataset):
                    super().__init__(config, dataset)
                    self.size, self.built = config["base_size"], helpers.build(config)
        """,
        "child": """
            from .base import Base
            class Child(Base):
                pass
        """,
    }.items():
        (tmp_path / "mypackage").mkdir(exist_ok=True)
        (tmp_path / "mypackage" / f"{name}.py").write_text(dedent(text))
    monkeypatch.syspath_prepend(tmp_path)
    yield lambda module, name: getattr(__import__(f"mypackage.{module}", fromlist=[name]), name)
    for name in [name for name in sys.modules if name.partition(".")[0] == "mypackage"]:
        del sys.modules[name]


def test_keys_that_a_base_class_or_a_helper_of_another_module_reads(package):
    child = package("child", "Child")
    assert {"base_size", "deep_size", "helper_key"} <= known_keys(child)
    assert not known_keys(SASRec) & {"base_size", "deep_size", "helper_key"}


def test_a_class_describes_its_keys(quick, tmp_path):
    described = """
        # Size
        depth: 2  # (int >= 1) Layers.
        style: plain  # (plain | rich) How.
    """

    class Mine(SASRec):
        properties = described

    class Yours(Mine):
        properties = tmp_path / "yours.yaml"

    Path(Yours.properties).write_text("depth: 3\n")
    assert LiteConfig(Mine, "tiny", config_dict=quick())["depth"] == 2
    config = LiteConfig(Yours, "tiny", config_dict=quick(style="rich"))
    assert (config["depth"], config["style"]) == (3, "rich")
    for changes, message in (
        ({"depth": 0}, "depth must be a whole number of at least 1, found 0"),
        ({"style": "poor"}, "style must be one of plain, rich, found 'poor'"),
        ({"dept": 1}, "unknown key 'dept'; did you mean depth"),
    ):
        with pytest.raises(ConfigError, match=message):
            LiteConfig(Yours, "tiny", config_dict=quick(**changes))
    Path(Yours.properties).unlink()
    with pytest.raises(ConfigError, match=r"Yours.properties: cannot be read"):
        LiteConfig(Yours, "tiny", config_dict=quick())


def test_a_subclass_has_the_defaults_of_its_base():
    class Mine(SASRec):
        pass

    config = LiteConfig(Mine, "tiny")
    assert (config["n_layers"], config["hidden_act"]) == (2, "gelu")  # RecBole's SASRec.yaml
    assert config["MAX_ITEM_LIST_LENGTH"] == 20  # ours comes after RecBole's


# -- settings of other models -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "given", "message"),
    [
        ("ItemLM", "rec_llm_lora={r: 4}", "no effect on ItemLM; it is a setting of LiteLLM4Rec"),
        ("GRU4Rec", "item_mask_ratio=0.1", "it is a setting of LiteLLM4Rec, ItemLM"),
        ("SASRec", "dropout_prob=0.3", "more; did you mean attn_dropout_prob or hidden_dropout_"),
        ("LiteLLM4Rec", "lm_dropout=0.3", "no effect on LiteLLM4Rec; it is a setting of ItemLM"),
        ("SASRec", "train_strategy=prefix", None),
        ("S3Rec", "pretrain_epochs=3", None),
        ("TIGER", "item_llm=minilm", None),
        ("GRU4Rec", "hidden_size=8", None),
    ],
)
def test_a_setting_that_the_model_does_not_read_is_told(model, given, message, caplog):
    configurator._warn_once.cache_clear()
    LiteConfig(model, "tiny", overrides=[f"--{given}"])
    assert message in caplog.text if message else not caplog.text
    key, value = given.split("=")  # a file of settings may serve several models
    caplog.clear()
    LiteConfig(model, "tiny", config_dict={key: value})
    assert not caplog.text


def test_what_the_code_of_a_class_reads_is_no_other_models(caplog):
    class Shaped(SASRec):
        def __init__(self, config, dataset):
            super().__init__(config, dataset)
            self.beams = config["num_beams"]  # also a setting of P5

    configurator._warn_once.cache_clear()
    LiteConfig(Shaped, "tiny", overrides=["--num_beams=4"])
    assert not caplog.text
