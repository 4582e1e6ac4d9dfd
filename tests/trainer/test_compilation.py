"""``compile``: what is compiled, what stays as it is, and where it is refused."""

import pytest
import torch

from recbole_lite import load_data_and_model, run
from recbole_lite.utils.errors import ConfigError

STILL = {"user_dropout": 0.0, "lm_dropout": 0.0, "rec_llm_dropout": 0.0, "epochs": 1,
         "train_batch_size": 24}  # fmt: skip


@pytest.mark.parametrize("model", ["ItemLM", "LiteLLM4Rec"])
def test_a_compiled_training_is_the_same(model, quick, monkeypatch):
    calls, compile_ = [], torch.compile

    def quickly(function):
        """Without code in C++, which takes half a minute to build."""
        compiled = compile_(function, backend="aot_eager")
        return lambda *a, **k: (calls.append(function.__name__), compiled(*a, **k))[1]

    monkeypatch.setattr(torch, "compile", quickly)
    settings = quick(**STILL, **({"n_heads": 2} if model == "ItemLM" else {}))
    plain = run(model, "tiny", config_dict=settings, saved=False)
    assert not calls
    found = run(model, "tiny", config_dict={**settings, "compile": True})
    assert calls.count("run") > 1  # the batches of a training
    losses = [result["history"][0]["train_loss"] for result in (plain, found)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert found["test_result"] == pytest.approx(plain["test_result"], abs=1e-3)
    _, net, *_ = load_data_and_model(found["run_dir"])  # weights have their usual names
    assert net.reader.compiled is None


def test_a_model_without_such_a_language_model_is_refused(quick):
    with pytest.raises(
        ConfigError, match=r"compile: True .*; SASRec has none\. Set compile: False"
    ):
        run("SASRec", "tiny", config_dict=quick(compile=True), saved=False)


def test_where_torch_cannot_compile_it_is_refused(quick, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("no C++ compiler\nand a trace")

    monkeypatch.setattr(torch, "compile", fail)
    message = (
        r"compile: torch cannot compile for cpu here \(.*no C\+\+ compiler.*Set compile: False"
    )
    with pytest.raises(ConfigError, match=message):
        run("ItemLM", "tiny", config_dict=quick(n_heads=2, compile=True), saved=False)
