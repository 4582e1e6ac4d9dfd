"""The teachers of a distillation (``distill_from``): trained models, without their data set."""

from __future__ import annotations

from collections.abc import Sequence
from logging import getLogger

from recbole.utils import ModelType

from recbole_lite.config.registry import reads_candidates, writes_item_tokens
from recbole_lite.data.vocabulary import Vocabulary
from recbole_lite.inference.loading import build_model
from recbole_lite.inference.model_folder import ModelBundle, read_bundle
from recbole_lite.utils.errors import CheckpointError, ConfigError


def read_teachers(config) -> list[ModelBundle]:
    """Read the folders in ``distill_from``, except for the weights; empty where there are none.

    Raises
    ------
    CheckpointError
        No such folder, or no model that can be loaded without its data.
    ConfigError
        A model of other data, items or another task, or a student that cannot learn from it.
    """
    folders = config["distill_from"] or []
    folders = [folders] if isinstance(folders, str) else folders
    if not all(isinstance(folder, str) and folder for folder in folders):
        raise ConfigError(f"distill_from must be a folder or a list of folders, found {folders!r}")
    if len(folders) > 1 and config["distill_loss"] == "hidden":
        raise ConfigError(
            "distill_from: distill_loss: hidden compares with the blocks of one teacher; several "
            "need distill_loss: scores"
        )
    bundles = [_read_teacher(config, folder) for folder in folders]
    for folder, bundle in zip(folders, bundles, strict=True):
        if bundle.catalogue.ids != bundles[0].catalogue.ids:
            raise ConfigError(
                f"distill_from: {folder} has other items than {folders[0]}, or numbers them "
                "otherwise; train both on the same data"
            )
    return bundles


def _read_teacher(config, folder: str) -> ModelBundle:
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
            writes_item_tokens(config.model_class)
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


def add_teachers(config, student, bundles: Sequence[ModelBundle], dataset) -> None:
    """Build the teachers and let the student be trained with them (``student.distillation``).

    Raises
    ------
    CheckpointError
        Damaged weights.
    ConfigError
        The data are numbered otherwise, or the models cannot be compared.
    """
    # Only here: a run without a language model does not wait for transformers.
    from recbole_lite.model.layers.distillation import Distillation

    ids = list(map(str, dataset.field2id_token[dataset.iid_field][1:]))
    if ids != bundles[0].catalogue.ids[1:]:
        raise ConfigError(
            f"distill_from: {config['distill_from']} has its items in another order than the run "
            "whose weights this one begins with; leave init_from out or train the teacher from it"
        )
    teachers = [build_model(bundle, config["device"]) for bundle in bundles]
    distillation = Distillation(config, student, teachers).to(config["device"])
    student.distillation = distillation
    for bundle, teacher in zip(bundles, teachers, strict=True):
        size = sum(parameter.numel() for parameter in teacher.parameters())
        getLogger().info(f"Teacher: {bundle.model} of {bundle.weights.parent}, {size:,} parameters")
