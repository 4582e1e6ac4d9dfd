"""A few of RecBole's models, above all those with overrides; `make faults` tries every one."""

import re
from pathlib import Path

import every_model
import pytest

from recbole_lite import LiteConfig, run
from recbole_lite.config.registry import OVERRIDDEN, REFUSED, get_model, recbole_models
from recbole_lite.utils.errors import ConfigError


@pytest.fixture(scope="module")
def graph_data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("every")
    every_model.write_data(folder)
    return folder


@pytest.mark.parametrize("name", sorted({*OVERRIDDEN, "RecVAE", "MultiVAE"}))
def test_figures_survive_a_reload_and_an_interruption(name, graph_data):
    every_model.check(name, graph_data)


def test_clusters_of_an_earlier_epoch_survive_an_interruption(graph_data):
    every_model.check("NCL", graph_data, m_step=2, warm_up_step=0, num_clusters=5)


def test_every_model_of_recbole_is_run_or_refused():
    from recbole.model import context_aware_recommender, knowledge_aware_recommender

    others = {
        name
        for package in (context_aware_recommender, knowledge_aware_recommender)
        for name, value in vars(package).items()
        if isinstance(value, type)
    }
    assert others | {"LightGBM", "XGBoost"} == set(REFUSED)
    assert not set(recbole_models()) & set(REFUSED)
    assert set(recbole_models()) >= set(OVERRIDDEN)


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_gives_the_reason(name):
    with pytest.raises(
        ConfigError, match=f"model {name} cannot be run here: it .*{REFUSED[name][-20:]}"
    ):
        get_model(name)


def test_a_class_of_a_refused_kind_is_refused_too():
    from recbole.model.context_aware_recommender import FM

    class Mine(FM):
        pass

    with pytest.raises(ConfigError, match="model Mine cannot be run here: it scores labelled"):
        LiteConfig(Mine, "nowhere")


@pytest.mark.parametrize("name", ["GRU4RecKG", "KSR"])
def test_without_a_knowledge_graph_its_file_is_named(name, quick):
    with pytest.raises(ConfigError.__mro__[1], match=r"tiny\.kg: .* reads a knowledge graph"):
        run(name, "tiny", config_dict=quick())


def test_an_optimiser_of_its_own_follows_no_schedule(quick):
    with pytest.raises(ConfigError, match="RecVAE has its own optimisers"):
        run("RecVAE", "tiny", config_dict=quick(lr_scheduler="linear"))


def test_ract_in_its_three_stages_keeps_each_file(quick):
    settings = quick(pretrain_epochs=1, metrics_k=5)
    with pytest.raises(ConfigError, match=r"pre_model_path: no file .*Run --train_stage=actor_pre"):
        run("RaCT", "tiny", config_dict={**settings, "train_stage": "critic_pretrain"})
    with pytest.raises(ConfigError, match="train_stage must be one of actor_pretrain, critic"):
        run("RaCT", "tiny", config_dict={**settings, "train_stage": "pretrain"})
    first = run("RaCT", "tiny", config_dict=settings)
    settings |= {"train_stage": "critic_pretrain", "pre_model_path": first["run_dir"]}
    second = run("RaCT", "tiny", config_dict=settings)
    assert first["test_result"] is second["test_result"] is None
    assert first["run_dir"] != second["run_dir"]


def test_the_documentation_names_what_is_refused():
    page = Path(__file__).parents[2] / "docs" / "recbole.md"
    words = set(re.findall(r"\w+", page.read_text(encoding="utf-8")))
    assert {*REFUSED, *OVERRIDDEN} <= words
