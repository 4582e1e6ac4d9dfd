"""Distillation: each loss against NumPy, what a student's folder holds, bad input."""

import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from recbole.data.interaction import Interaction

from recbole_lite import Recommender, create_dataset, data_preparation, load_data_and_model, run
from recbole_lite.data.prefix_windows import TARGETS
from recbole_lite.inference.teacher import add_teachers, read_teachers
from recbole_lite.model.layers import softmax_loss
from recbole_lite.model.layers.distillation import Distillation
from recbole_lite.trainer import checkpoint
from recbole_lite.utils.errors import CheckpointError, ConfigError, OtherIdsError

STILL = dict.fromkeys(
    ("lm_dropout", "user_dropout", "rec_llm_dropout", "dropout_prob", "hidden_dropout_prob",
     "attn_dropout_prob"), 0.0
)  # fmt: skip
ALL = {"train_strategy": "all"}
NORM, TEMPERATURE = 0.3, 2.0
KEYS = {"distill_weight": 0.7, "distill_norm_weight": NORM, "distill_temperature": TEMPERATURE}


@pytest.fixture
def pair(config_for):
    """``pair(student, teacher, ...)`` -> student with a teacher, a batch, the loss without it."""

    def build(student=("ItemLM", {}), *teachers, **shared):
        def model_of(name, changes, seed):
            config = config_for(name, **{"n_heads": 2, **STILL, **KEYS, **shared, **changes})
            train, *_ = data_preparation(config, create_dataset(config))
            torch.manual_seed(seed)
            model = config.model_class(config, train._dataset)
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(torch.randn_like(parameter), alpha=0.3)
            return config, model, next(iter(train))

        config, model, batch = model_of(*student, 1)
        teachers = teachers or [("ItemLM", {})]
        its = [model_of(*teacher, seed)[1] for seed, teacher in enumerate(teachers, start=2)]
        loss = model.calculate_loss(batch).item()
        its = [one.eval().requires_grad_(False) for one in its]
        model.distillation = Distillation(config, model, its)
        return model, batch, loss

    return build


def histories(batch):
    """Inputs up to each target, and the target."""
    if TARGETS in batch:
        for items, targets in zip(batch["item_id_list"], batch[TARGETS], strict=True):
            for step in targets.nonzero().flatten():
                yield items[: step + 1], int(targets[step])
        return
    lengths, targets = batch["item_length"].tolist(), batch["item_id"].tolist()
    for items, length, target in zip(batch["item_id_list"], lengths, targets, strict=True):
        yield items[:length], target


def states(model, items):
    """Output of every block after a history."""
    mask = torch.ones(1, len(items), dtype=torch.bool)
    if not hasattr(model, "reader"):
        place = torch.arange(len(items))
        vectors = model.item_embedding(items) + model.position_embedding(place)
        attention = model.get_attention_mask(items[None])
        return [x[0, -1] for x in model.trm_encoder(model.LayerNorm(vectors)[None], attention)]
    seen = []
    hooks = [b.register_forward_hook(lambda m, a, o: seen.append(o)) for b in model.lm.encoder.h]
    last = model.lm(model.items(items[None]), mask)
    for hook in hooks:
        hook.remove()
    return [*(x[0, -1] for x in seen[:-1]), last[0, -1]]  # GPT-2's last block: after its norm


def scores(model, items):
    interaction = {"item_id_list": items[None], "item_length": torch.tensor([len(items)])}
    return model.full_sort_predict(Interaction(interaction))[0, 1:].double().numpy()


@torch.no_grad()
def hidden_in_numpy(model, batch):
    found, matched = [], {1: [4], 2: [2, 4], 3: [1, 3, 4]}
    for items, _ in histories(batch):
        own, its = states(model, items), states(model.distillation.teachers[0], items)
        total = 0.0
        for k, m in enumerate(matched[len(own)]):
            projection = getattr(model.distillation.projections[k], "weight", torch.eye(16))
            a, b = (projection @ own[k]).double().numpy(), its[m - 1].double().numpy()
            cosine = a @ b / np.sqrt((a @ a) * (b @ b))
            total += 0.7 * (1 - cosine) + NORM * np.sqrt(((a - b) ** 2).sum())
        found.append(total)
    return np.mean(found)


def softmax(x):
    exp = np.exp(x - x.max())
    return exp / exp.sum()


@torch.no_grad()
def scores_in_numpy(model, batch, excludes):
    found = []
    for items, target in histories(batch):
        ranked = np.ones(model.n_items - 1, dtype=bool)
        if excludes:  # windows begin with the histories here
            ranked[items.numpy() - 1] = False
            ranked[target - 1] = True
        own = scores(model, items)[ranked]
        its = np.mean([scores(m, items)[ranked] for m in model.distillation.teachers], 0)
        p, q = softmax(its / TEMPERATURE), softmax(own / TEMPERATURE)
        found.append((p * np.log(p / q)).sum())
    return 0.7 * TEMPERATURE**2 * np.mean(found)


@pytest.mark.parametrize("n_layers", [1, 2, 3])
@pytest.mark.parametrize("size", [16, 24])
@pytest.mark.parametrize("strategy", ["prefix", "all"])
def test_hidden_compares_matched_blocks_after_every_target(n_layers, size, strategy, pair):
    teacher = ("ItemLM", {"n_layers": 4, "hidden_size": size})
    model, batch, loss = pair(
        ("ItemLM", {"n_layers": n_layers}), teacher, train_strategy=strategy, distill_loss="hidden"
    )
    expected = loss + hidden_in_numpy(model, batch)
    assert model.distillation(batch).item() == pytest.approx(expected, rel=1e-4)


def test_hidden_for_recboles_transformers(pair):
    kinds = ("SASRec", {"n_layers": 2}), ("SASRec", {"n_layers": 4})
    model, batch, loss = pair(*kinds, distill_loss="hidden")
    expected = loss + hidden_in_numpy(model, batch)
    assert model.distillation(batch).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("excludes", [True, False])
@pytest.mark.parametrize(("strategy", "teacher"), [("prefix", "ItemLM"), ("all", "SASRec")])
def test_scores_of_every_target(excludes, strategy, teacher, pair):
    keys = {"loss_exclude_history": excludes, "MAX_ITEM_LIST_LENGTH": 20}
    keys |= {"train_strategy": strategy, "distill_loss": "scores"}
    model, batch, loss = pair(("ItemLM", {}), (teacher, {}), **keys)
    expected = loss + scores_in_numpy(model, batch, excludes)
    assert model.distillation(batch).item() == pytest.approx(expected, rel=1e-4)


KINDS = ["ItemLM", "SASRec", "GRU4Rec", "LiteLLM4Rec"]


@pytest.mark.parametrize(("student", "teacher"), list(pairwise([*KINDS, "ItemLM"])))
def test_scores_of_any_two_models(student, teacher, pair):
    shared = {**ALL, "distill_loss": "scores", "loss_exclude_history": False}
    model, batch, loss = pair((student, {}), (teacher, {}), **shared)
    expected = loss + scores_in_numpy(model, batch, False)
    assert model.distillation(batch).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("strategy", ["prefix", "all"])
def test_scores_of_several_teachers_are_averaged(strategy, pair):
    """Of other sizes; those of models without a head (SASRec) beside others."""
    teachers = [("ItemLM", {}), ("ItemLM", {"n_layers": 2, "hidden_size": 24})]
    teachers += [("SASRec", {}), ("GRU4Rec", {})] * (strategy == "all")
    shared = {"MAX_ITEM_LIST_LENGTH": 20, "train_strategy": strategy, "distill_loss": "scores"}
    shared["loss_exclude_history"] = strategy == "prefix"
    model, batch, loss = pair(("ItemLM", {}), *teachers, **shared)
    expected = loss + scores_in_numpy(model, batch, strategy == "prefix")
    assert model.distillation(batch).item() == pytest.approx(expected, rel=1e-4)


def test_models_that_score_by_cosines(pair):
    teacher = ("LiteLLM4Rec", {"loss_type": "InfoNCE", "num_negatives": 8})
    shared = {**ALL, "distill_loss": "scores", "loss_exclude_history": False}
    model, batch, loss = pair(("ItemLM", {"cosine_head": True}), teacher, **shared)
    expected = loss + scores_in_numpy(model, batch, False)
    assert model.distillation(batch).item() == pytest.approx(expected, rel=1e-4)


def test_chunks_change_neither_loss_nor_gradient(pair, monkeypatch):
    model, batch, _ = pair(distill_loss="scores")
    found = []
    for rows in (10**6, 7):
        monkeypatch.setattr(softmax_loss, "rows_per_chunk", lambda *_, rows=rows: rows)
        model.zero_grad()
        loss = model.distillation(batch)
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in model.parameters() if p.grad is not None)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("how", ["hidden", "scores"])
@pytest.mark.parametrize("strategy", ["prefix", "all"])
def test_a_student_that_equals_its_teacher_has_nothing_to_learn(how, strategy, pair):
    model, batch, loss = pair(distill_loss=how, train_strategy=strategy)
    teacher = model.distillation.teachers[0]
    teacher.load_state_dict(model.state_dict(), strict=False)
    if strategy == "all":  # rows are packed, the teacher's in evaluation mode as well
        assert teacher.row_packing(batch["item_id_list"]) is not None
    distilled = model.distillation(batch)
    assert distilled.item() == pytest.approx(loss, rel=1e-5)
    distilled.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


# -- whole runs -------------------------------------------------------------------------------

TEACHER = {"n_heads": 2, "n_layers": 2}
STUDENT = {"n_heads": 2, "n_layers": 1, "hidden_size": 8}


@pytest.mark.parametrize("how", ["hidden", "scores"])
def test_a_student_needs_its_teacher_for_training_alone(how, quick, trained, tmp_path):
    teacher = shutil.copytree(trained("ItemLM", **TEACHER), tmp_path / "teacher")
    settings = quick(**STUDENT, distill_from=str(teacher), distill_loss=how, epochs=3)
    whole = run("ItemLM", "tiny", config_dict=settings)
    half = run("ItemLM", "tiny", config_dict={**settings, "last_epoch": 2})
    resumed = run("ItemLM", "tiny", config_dict={**settings, "resume": half["run_dir"]})
    assert [e["train_loss"] for e in resumed["history"]] == [
        e["train_loss"] for e in whole["history"]
    ]
    alone = run("ItemLM", "tiny", config_dict=quick(**STUDENT, epochs=3))
    assert whole["history"][0]["train_loss"] > alone["history"][0]["train_loss"]
    assert whole["parameters"] == alone["parameters"]
    names = [set(checkpoint.load_weights(Path(r["run_dir"], checkpoint.BEST_FILE))[0])
        for r in (whole, alone)]  # fmt: skip
    assert names[0] == names[1]
    shutil.rmtree(teacher)
    with pytest.raises(CheckpointError, match=r"distill_from: .*teacher: no such folder"):
        run("ItemLM", "tiny", config_dict={**settings, "resume": half["run_dir"]})
    load_data_and_model(whole["run_dir"])
    recommender = Recommender.load(whole["run_dir"], runtime="torch")
    recommender.save_pretrained(tmp_path / "packed")
    assert str(tmp_path) not in (tmp_path / "packed" / "config.json").read_text()
    packed = Recommender.load(tmp_path / "packed", runtime="torch")
    assert packed.recommend([["i1", "i2"]]) == recommender.recommend([["i1", "i2"]])


def test_a_student_of_two_teachers(quick, trained, data_path, tmp_path):
    folders = [trained("ItemLM", **TEACHER), trained("ItemLM", **STUDENT)]
    teachers = [str(shutil.copytree(f, tmp_path / f"{n}")) for n, f in enumerate(folders)]
    settings = quick(**STUDENT, distill_from=teachers, distill_loss="scores")
    result = run("ItemLM", "tiny", config_dict=settings)
    one = run("ItemLM", "tiny", config_dict={**settings, "distill_from": teachers[0]})
    assert result["history"][0]["train_loss"] != one["history"][0]["train_loss"]
    assert result["parameters"] == one["parameters"]
    Recommender.load(result["run_dir"], runtime="torch").save_pretrained(tmp_path / "packed")
    assert str(tmp_path) not in (tmp_path / "packed" / "config.json").read_text()
    with pytest.raises(ConfigError, match="several need distill_loss: scores"):
        run("ItemLM", "tiny", config_dict={**settings, "distill_loss": "hidden"})
    with pytest.raises(ConfigError, match=r"a folder or a list of folders, found .*7"):
        run("ItemLM", "tiny", config_dict={**settings, "distill_from": [teachers[0], 7]})
    path = data_path / "tiny" / "tiny.inter"
    path.write_text(path.read_text().replace("\ti3\t", "\tnew\t"))
    other = run("ItemLM", "tiny", config_dict=quick(**STUDENT, epochs=1))["run_dir"]
    with pytest.raises(ConfigError, match=r"has other items than .*0, or numbers them otherwise"):
        run("ItemLM", "tiny", config_dict={**settings, "distill_from": [teachers[0], other]})


def test_items_are_matched_by_raw_id(quick, trained, data_path):
    """The student's data are numbered as the teacher's, in whatever order their lines stand."""
    settings = quick(**STUDENT, distill_from=str(trained("ItemLM", **TEACHER)), epochs=1)
    first = run("ItemLM", "tiny", config_dict=settings)
    path = data_path / "tiny" / "tiny.inter"
    head, *lines = path.read_text().splitlines()
    path.write_text("\n".join([head, *sorted(lines, reverse=True)]) + "\n")
    other = run("ItemLM", "tiny", config_dict=settings)
    both = [checkpoint.load_vocabulary(Path(r["run_dir"])).tables for r in (first, other)]
    ids = [next(ids for fields, ids in tables if "item_id" in fields) for tables in both]
    assert ids[0] == ids[1]


@pytest.mark.parametrize(
    ("model", "changes", "message"),
    [
        ("ItemLM", {"distill_from": "nowhere"}, "distill_from: nowhere: no such folder"),
        ("GRU4Rec", {}, "hidden .* GRU4Rec has no blocks .* set distill_loss: scores"),
        ("BPR", {}, "distill_from: BPR is no sequential model"),
        ("ItemLM", {"loss_type": "SCE", "loss_exclude_history": False, "distill_loss": "scores"},
         "loss_type: SCE does not compute; set"),
        ("ItemLM", {"MAX_ITEM_LIST_LENGTH": 7}, "at most 6 items, MAX_ITEM_LIST_LENGTH is 7"),
        ("LiteLLM4Rec", {"task": "topn", "topn_negatives": 6, "metrics": ["Hit"],
         "valid_metric": "Hit@5"}, "was trained for task: sequential, this run has task: topn"),
        ("SASRec", {"train_strategy": "prefix"}, "SASRec gives no outputs after every prefix"),
        ("P5", {"distill_loss": "scores"}, "P5 writes the tokens of an item's id and has no scor"),
        ("P5", {"distill_loss": "hidden"}, "P5 writes the tokens of an item's id and has no scor"),
    ],
)  # fmt: skip
def test_what_cannot_be_distilled(model, changes, message, quick, trained, llm_folders):
    settings = quick(n_heads=2, distill_from=str(trained("ItemLM", **TEACHER)), llm_config={})
    settings |= {"llm": str(llm_folders["writer"]), "num_beams": 5} if model == "P5" else {}
    with pytest.raises((CheckpointError, ConfigError), match=message) as error:
        run(model, "tiny", config_dict={**settings, **changes}, saved=False)
    assert "\n" not in str(error.value)


def test_a_teacher_of_other_items_or_of_one_prefix(quick, trained, data_path, tmp_path):
    settings = quick(n_heads=2, distill_from=str(trained("SASRec")), distill_loss="scores")
    with pytest.raises(ConfigError, match="SASRec there gives no outputs after every prefix"):
        run("ItemLM", "tiny", config_dict=settings, saved=False)
    shutil.copytree(data_path / "tiny", data_path / "other")
    for path in (data_path / "other").iterdir():
        path.rename(path.with_stem("other"))
    with pytest.raises(ConfigError, match="is a run on tiny, this is one on other"):
        run("SASRec", "other", config_dict=settings, saved=False)
    path = data_path / "tiny" / "tiny.inter"
    path.write_text(path.read_text().replace("\ti3\t", "\tnew\t"))
    with pytest.raises(OtherIdsError, match=r"distill_from: .*24 here, 1 of them new \(new\)"):
        run("SASRec", "tiny", config_dict=settings, saved=False)


def test_weights_of_another_order_of_items(config_for, trained):
    config = config_for("SASRec", distill_from=str(trained("SASRec")))
    bundles, dataset = read_teachers(config), create_dataset(config)
    bundles[0].catalogue.ids[1:] = bundles[0].catalogue.ids[:0:-1]
    with pytest.raises(ConfigError, match="has its items in another order"):
        add_teachers(config, None, bundles, dataset)


def test_topn_compares_the_candidates(quick, trained):
    """Scores of the candidates that a model reads; all others have no share."""
    topn = {"task": "topn", "topn_negatives": 6, "metrics": ["Hit"], "valid_metric": "Hit@5"}
    teacher = trained("LiteLLM4Rec", **topn)
    settings = quick(**topn, distill_from=str(teacher), distill_loss="scores", epochs=1)
    losses = [
        run("LiteLLM4Rec", "tiny", config_dict={**settings, **more}, saved=False)["history"][0]
        for more in ({}, {"distill_weight": 0})
    ]
    assert losses[0]["train_loss"] > losses[1]["train_loss"]
    with pytest.raises(ConfigError, match=r"reads candidates\. Set distill_loss: scores"):
        run("LiteLLM4Rec", "tiny", config_dict={**settings, "distill_loss": "hidden"})
