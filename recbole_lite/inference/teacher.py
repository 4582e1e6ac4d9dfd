"""The teacher of a distillation (``distill_from``): a trained model, without its data set."""

from __future__ import annotations

from logging import getLogger

from recbole.utils import ModelType

from recbole_lite.config.registry import reads_candidates
from recbole_lite.data.vocabulary import Vocabulary
from recbole_lite.inference.loading import build_model
from recbole_lite.inference.model_folder import ModelBundle, read_bundle
from recbole_lite.model.generative.generative_recommender import GenerativeRecommender
from recbole_lite.model.layers.distillation import Distillation
from recbole_lite.utils.errors import CheckpointError, ConfigError


def read_teacher(config) -> ModelBundle | None:
    """Read the folder in ``distill_from``, except for its weights; None where there is none.

    Raises
    ------
    CheckpointError
        No such folder, or no model that can be loaded without its data.
    ConfigError
        A model of other data or another task, or a student that cannot learn from it.
    """
    folder = config["distill_from"]
    if not folder:
        return None
    try:
        bundle = read_bundle(folder)
    except CheckpointError as error:
        raise CheckpointError(f"distill_from: {error}") from error
    length, task = config["MAX_ITEM_LIST_LENGTH"], config["task"]
    its_length = bundle.settings["MAX_ITEM_LIST_LENGTH"]
    its_task = bundle.settings.get("task") or "sequential"
    hidden = config["distill_loss"] == "hidden"
    problems = {
        f"{config['model']} is no sequential model": config["MODEL_TYPE"] != ModelType.SEQUENTIAL,
        f"{config['model']} writes the tokens of an item's id and has no scores of all items to "
        "compare; distill into a model with a head over all items": (
            issubclass(config.model_class, GenerativeRecommender)
        ),
        f"{folder} is a run on {bundle.dataset}, this is one on {config['dataset']}": (
            bundle.dataset != config["dataset"]
        ),
        f"{folder} was trained for task: {its_task}, this run has task: {task}": its_task != task,
        f"{folder} reads histories of at most {its_length} items, MAX_ITEM_LIST_LENGTH is "
        f"{length}": its_length < length,
        "distill_loss: scores compares the scores of all items, which loss_type: "
        f"{config['loss_type']} does not compute; set loss_type: CE or distill_loss: hidden": (
            not hidden and config["loss_type"] not in ("CE", "BPR", None)
        ),
        f"distill_loss: hidden compares histories; with task: topn, {config['model']} reads "
        "candidates. Set distill_loss: scores": (
            hidden and task == "topn" and reads_candidates(config.model_class)
        ),
    }
    for problem, found in problems.items():
        if found:
            raise ConfigError(f"distill_from: {problem}")
    return bundle


def teacher_vocabulary(bundle: ModelBundle, config) -> Vocabulary:
    """Raw ids by which the student's data are numbered, so that an id is the same item for both."""
    source = f"distill_from: {config['distill_from']}"
    return Vocabulary([([config["ITEM_ID_FIELD"]], bundle.catalogue.ids[1:])], source=source)


def add_teacher(config, student, bundle: ModelBundle, dataset) -> None:
    """Build the teacher and let the student be trained with it (``student.distillation``).

    Raises
    ------
    CheckpointError
        Damaged weights.
    ConfigError
        The data are numbered otherwise, or the models cannot be compared.
    """
    if list(map(str, dataset.field2id_token[dataset.iid_field][1:])) != bundle.catalogue.ids[1:]:
        raise ConfigError(
            f"distill_from: {config['distill_from']} has its items in another order than the run "
            "whose weights this one begins with; leave init_from out or train the teacher from it"
        )
    teacher = build_model(bundle, config["device"])
    distillation = Distillation(config, student, teacher).to(config["device"])
    student.distillation = distillation
    size = sum(parameter.numel() for parameter in teacher.parameters())
    getLogger().info(f"Teacher: {bundle.model} of {config['distill_from']}, {size:,} parameters")
