"""``recbole-lite reproduce``: tables from results, the paper's figures beside them."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModel

from recbole_lite.cli.main import main
from recbole_lite.experiments.reproduce import efficiency, paper_figures, paper_tables
from recbole_lite.experiments.reproduce.baselines import RELATED, ModelSpec
from recbole_lite.experiments.reproduce.efficiency import TimedModel, TimingOptions
from recbole_lite.experiments.reproduce.efficiency_table import render
from recbole_lite.experiments.reproduce.paper_tables import reproduce
from recbole_lite.experiments.reproduce.protocol import Request
from recbole_lite.inference.saved_run import load_data_and_model
from recbole_lite.model.generative.item_indexing import item_numbers
from recbole_lite.utils.errors import ConfigError

SMALL = {"hidden_size": 16, "inner_size": 16, "n_layers": 1, "MAX_ITEM_LIST_LENGTH": 6}


@pytest.fixture
def two_sides(monkeypatch):
    """Table 4 of SASRec, a model whose settings are wrong, and one without what it reads."""
    sides = [ModelSpec("SASRec", "SASRec", SMALL), ModelSpec("FDSA", "FDSA", {"n_layer": 1})]
    sides.append(ModelSpec("no class", "FDSA", {"selected_features": ["class"]}))
    sides.append(ModelSpec("again", "SASRec", SMALL))
    monkeypatch.setattr(paper_tables, "MODELS", {side.name: side for side in sides})
    monkeypatch.setattr(paper_tables, "TABLE_4", [side.name for side in sides])


def test_table_4(two_sides, request_for, monkeypatch):
    monkeypatch.setitem(paper_figures.DATASETS, "tiny", "ML-1m")
    lines = []
    request = request_for(log=lines.append)
    text = reproduce("table4", request)
    folder = request.out / "tiny"
    assert (folder / "table4.md").read_text() == text
    test = json.loads((folder / "SASRec-2020.json").read_text())["test"]
    row = next(line for line in text.splitlines() if line.startswith("| SASRec"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    expected = []
    for metric, figure in zip(paper_figures.METRICS, (0.1834, 0.2785, 0.0801, 0.1040), strict=True):
        expected += [f"{test[metric]:.4f}", f"{figure:.4f}"]
    assert cells == ["SASRec", *expected]
    assert "FDSA: not run: " in text
    assert "unknown key 'n_layer'" in text
    assert "- no class: not run: ConfigError: selected_features: no column 'class' was read" in text
    assert "scratch weights" in text
    assert paper_figures.DEVIATIONS in text
    reproduce("table4", request)
    assert sum("reused" in line for line in lines) == 2


def test_rows_are_chosen_by_name(request_for, monkeypatch):
    known = {"small": ModelSpec("small", "SASRec", SMALL), "Pop": ModelSpec("Pop", "Pop")}
    monkeypatch.setattr(paper_tables, "MODELS", known)
    for models, rows in ((("Pop",), ["Pop"]), (("all",), ["small", "Pop"])):
        text = reproduce("table4", request_for(models=models))
        table = text.split("\n\n")[1].splitlines()[2:]
        assert [line.split("|")[1].strip() for line in table] == rows
    with pytest.raises(ConfigError, match="unknown: large; there are small; Pop"):
        reproduce("table4", request_for(models=("Pop", "large")))
    with pytest.raises(ConfigError, match="unknown: large; there are Pop; LiteLLM4Rec; prefix; de"):
        reproduce("figure5", request_for(models=("large",)))


def test_related_systems_beside_the_table(two_sides, request_for, monkeypatch, llm_folders):
    """E4SRec's vectors are those of a SASRec that a quarter of its time trains."""
    spec = replace(
        RELATED["e4srec"],
        settings={"rec_llm": str(llm_folders["bert"]), "MAX_ITEM_LIST_LENGTH": 6},
        first_phase=ModelSpec("SASRec", "SASRec", SMALL),
    )
    monkeypatch.setattr(paper_tables, "RELATED", {"e4srec": spec, "hllm": RELATED["hllm"]})
    request = request_for(models=("SASRec",), related=("e4srec",))
    text = reproduce("table4", request)
    rows = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")]
    assert rows == ["", "SASRec", "E4SRec", "", "SASRec", "E4SRec"]
    assert "a quarter of E4SRec's time" in text
    found = json.loads((request.out / "tiny" / "E4SRec-2020.json").read_text())
    assert found["minutes"] == 0.01
    assert found["seconds"]["first phase"] > 0
    source = load_data_and_model(found["config_dict"]["item_vectors"])[1]
    model = load_data_and_model(found["run_dir"])[1]
    assert torch.equal(model.item_tower.vectors[1:], source.item_embedding.weight[1:])
    assert found["all_parameters"] == sum(p.numel() for p in model.parameters())
    assert found["parameters"] == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert f" {found['batch_ms']:.1f} |" in text
    with pytest.raises(ConfigError, match="unknown: slmrec; there are e4srec; hllm"):
        reproduce("table4", request_for(related=("slmrec",)))
    with pytest.raises(ConfigError, match="--with adds rows to table4; figure4 has no such rows"):
        reproduce("figure4", request_for(related=("e4srec",)))


def test_rows_that_learn_from_a_first_phase(request_for, monkeypatch, llm_folders):
    """LLM2Rec reads an adapted Item LLM, SLMRec a teacher; both phases share the time."""
    small = {"hidden_size": 8, "inner_size": 16, "n_heads": 2, "MAX_ITEM_LIST_LENGTH": 6}
    text = {**small, "item_init": "text", "item_llm": str(llm_folders["bert"])}
    one = {**text, "n_layers": 1}
    adapt, teach = (RELATED[name].first_phase for name in ("llm2rec", "slmrec"))
    text["n_layers"] = teach.settings["n_layers"]
    steps = {**adapt.settings, "next_item_steps": 2, "next_item_batch_size": 4}
    specs = {
        "llm2rec": replace(
            RELATED["llm2rec"], settings=one, first_phase=replace(adapt, settings=steps)
        ),
        "slmrec": replace(
            RELATED["slmrec"], settings=one, first_phase=replace(teach, settings=text)
        ),
    }
    monkeypatch.setattr(paper_tables, "RELATED", specs)
    monkeypatch.setattr(paper_tables, "MODELS", {"Pop": ModelSpec("Pop", "Pop")})
    request = request_for(models=("Pop",), related=("llm2rec", "slmrec"), minutes=0.05)
    reproduce("table4", request)
    adapted, student = (
        json.loads((request.out / "tiny" / f"{name}-2020.json").read_text())
        for name in ("LLM2Rec", "SLMRec")
    )
    folder = Path(adapted["config_dict"]["item_llm"])
    assert "| next_item | 2 |" in (folder / "report.md").read_text()
    before = AutoModel.from_pretrained(llm_folders["bert"]).state_dict()
    after = AutoModel.from_pretrained(folder).state_dict()
    assert any(not torch.equal(before[key], after[key]) for key in before)
    folders = student["config_dict"]["distill_from"], student["run_dir"]
    assert [load_data_and_model(path)[0]["n_layers"] for path in folders] == [4, 1]
    for found in (adapted, student):
        assert found["seconds"]["first phase"] > 0


def test_a_time_is_measured_again_where_it_is_of_something_else():
    result = {"batch": 32, "repeats": 5, "times": {"POD": {}, "LiteLLM4Rec": {}}, "problems": {}}
    assert TimingOptions(("POD",), 32, 5).match(result)
    assert not TimingOptions(("POD",), 64, 5).match(result)
    assert not TimingOptions(("SASRec",), 32, 5).match(result)
    assert not TimingOptions(("POD",), 32, 5).match({**result, "problems": {"SASRec": "no"}})


def test_nothing_could_be_run(two_sides, request_for, monkeypatch):
    monkeypatch.setattr(paper_tables, "TABLE_4", ["FDSA"])
    with pytest.raises(ConfigError, match=r"FDSA: .*n_layer"):
        reproduce("table4", request_for())


def test_tables_of_the_ablation(request_for, monkeypatch, quick):
    small = quick(epochs=1)
    small.pop("epochs")
    monkeypatch.setattr(Request, "settings_of", lambda self, model: small)
    text = reproduce("figure4", request_for(minutes=0.005))
    rows = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")]
    assert rows[1:] == ["LiteLLM4Rec", "fixT5", "fixHead", "scratch"]
    # Items' models of the paper cannot be had here: named with the reason, not left out.
    text = reproduce("table7", request_for(minutes=0.005))
    assert "item-bert: not run: " in text


def test_what_cannot_be_reproduced(request_for):
    with pytest.raises(ConfigError, match="cannot reproduce 'table3'; there are table4"):
        reproduce("table3", request_for())
    with pytest.raises(ConfigError, match="--datasets is for benchmark; table4 runs on one --da"):
        reproduce("table4", request_for(datasets=("tiny", "other")))


@pytest.mark.parametrize("budget", ["30", "0m", "1 hour", "5d"])
def test_a_budget_has_a_unit(budget, capsys):
    with pytest.raises(SystemExit) as error:
        main(["reproduce", "table4", "--budget", budget])
    assert error.value.code == 2
    assert "write a time such as 90s" in capsys.readouterr().err


def test_the_command_prints_the_message_alone(capsys, data_path):
    assert main(["reproduce", "table9", "--dataset=tiny", f"--data_path={data_path}"]) == 2
    assert capsys.readouterr().err.startswith("error: cannot reproduce 'table9'")


# -- efficiency -------------------------------------------------------------------------------


def test_the_efficiency_study(quick, llm_folders):
    settings = quick(llm=str(llm_folders["writer"]), llm_init="pretrained", num_beams=20)
    settings["MAX_ITEM_LIST_LENGTH"] = 20
    tokenizer = str(llm_folders["writer"])
    names = ["POD", "SASRec"]
    options = TimingOptions(tuple(names), 4, 1, with_sweeps=False)
    result = efficiency.measure("tiny", settings, tokenizer, options)
    assert list(result["times"]) == ["POD", "SASRec", "LiteLLM4Rec", "POD, plain loop"]
    assert all(0 < t["least"] <= t["ms"] <= t["most"] for t in result["times"].values())
    assert list(result["parts"]["POD"]) == [
        "data preparation", "encoder", "beam search", "ids to items",
    ]  # fmt: skip
    side = TimedModel("SASRec", "tiny", {**settings, "eval_batch_size": 4})
    lengths = side.test._dataset.inter_feat["item_length"].float()
    assert result["input_lengths"]["LiteLLM4Rec"]["tokens"] == pytest.approx(lengths.mean().item())
    text = render(result)
    ratio = result["times"]["POD"]["ms"] / result["times"]["LiteLLM4Rec"]["ms"]
    assert f"{ratio:,.2f}x" in text


@pytest.mark.parametrize("name", ["P5", "POD"])
def test_the_plain_loop_recommends_the_same(name, quick, llm_folders):
    settings = quick(llm=str(llm_folders["writer"]), llm_init="pretrained", num_beams=20)
    # What ``generate`` alone has no place for.
    settings |= {"whole_word_embeddings": False, "prompt_length": 0, "MAX_ITEM_LIST_LENGTH": 20}
    side = TimedModel(name, "tiny", settings, str(llm_folders["writer"]))
    batch = side.batch(0, 8)
    optimizer = torch.optim.Adam(side.model.parameters(), 0.01)
    for _ in range(20):  # so that beams spell items
        optimizer.zero_grad()
        side.model.calculate_loss(batch).backward()
        optimizer.step()
    numbers = [0, *item_numbers(side.config, side.dataset.item_num)]
    with torch.no_grad():
        beams = side.model.beams(batch).flatten().tolist()
    written = efficiency.plain_loop(side)(batch)
    assert [numbers[item] for item in beams] == [n if n in numbers else 0 for n in written]
    assert len(set(beams)) > 5


def test_histories_are_cut_to_their_last_items(quick):
    side = TimedModel("SASRec", "tiny", {**quick(), "MAX_ITEM_LIST_LENGTH": 20})
    whole, cut = side.batch(0, 8), side.batch(0, 8, 3)
    for items, length, ours, kept in zip(
        whole["item_id_list"].tolist(), whole["item_length"].tolist(),
        cut["item_id_list"].tolist(), cut["item_length"].tolist(), strict=True,
    ):  # fmt: skip
        last = items[:length][-3:]
        assert kept == len(last)
        assert ours[:kept] == last
        assert not any(ours[kept:])


@pytest.mark.parametrize(
    "names, tokenizer, message",
    [(["P6"], None, "unknown: P6; there are P5"), (["POD"], None, "need T5's tokenizer")],
)
def test_what_cannot_be_timed(names, tokenizer, message, quick):
    with pytest.raises(ConfigError, match=message):
        efficiency.measure("tiny", quick(), tokenizer, TimingOptions(tuple(names)))
