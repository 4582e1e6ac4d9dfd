"""Name -> class: models, trainers and datasets; ours first, RecBole's after."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from collections.abc import Iterator
from contextlib import contextmanager

from recbole_lite.utils.errors import ConfigError, MissingDependencyError
from recbole_lite.utils.suggestions import suggest

RECBOLE_VERSION = "1.2.1"
INSTALL_RECBOLE = f"pip install --no-deps recbole=={RECBOLE_VERSION}"

# Ours: name -> module. Imported on demand, so that a baseline needs no transformers.
MODELS = {
    "LiteLLM4Rec": "recbole_lite.model.lite_llm4rec",
    "ItemLM": "recbole_lite.model.item_lm",
    "P5": "recbole_lite.model.p5",
    "POD": "recbole_lite.model.pod",
    "LightLM": "recbole_lite.model.lightlm",
    "TIGER": "recbole_lite.model.tiger",
    "Pop": "recbole_lite.model.pop",
}
TRAINERS = "recbole_lite.trainer.trainer"  # module
_OVERRIDES = "recbole_lite.model.recbole_overrides"
_ALL_POSITIONS = ("BERT4Rec", "FDSA", "GRU4Rec", "S3Rec", "SASRec")  # train_strategy: prefix
# RecBole's, with what fails today overridden: name -> module.
OVERRIDDEN = dict.fromkeys(
    ("LightGCN", "NGCF", "GCMC", "SpectralCF", "NCL", "ADMMSLIM", "DiffRec", "KSR", "LDiffRec",
     "LINE", "RaCT", "Random", *_ALL_POSITIONS),
    _OVERRIDES,
)  # fmt: skip
# RecBole's models whose scores and losses do not depend on how far a batch is padded.
_ANY_LENGTH = frozenset(
    ("BERT4Rec", "CORE", "FDSA", "GCSAN", "GRU4Rec", "GRU4RecF", "NARM", "S3Rec", "SASRec",
     "SASRecF", "SRGNN")
)  # fmt: skip
_CONTEXT = "scores labelled interactions by their context; recbole-lite ranks items for users"
_KNOWLEDGE = "is trained on a knowledge graph (.kg, .link), which recbole-lite does not read"
_TREES = "is a gradient-boosted tree over labelled interactions; recbole-lite trains torch models"
# RecBole's models that cannot be run: name -> reason (docs/recbole.md lists them).
REFUSED = {
    **dict.fromkeys(
        ("AFM", "AutoInt", "DCN", "DCNV2", "DeepFM", "DSSM", "EulerNet", "FFM", "FiGNN", "FM",
         "FNN", "FwFM", "KD_DAGFM", "LR", "NFM", "PNN", "WideDeep", "xDeepFM"), _CONTEXT
    ),
    **dict.fromkeys(
        ("CFKG", "CKE", "KGAT", "KGCN", "KGIN", "KGNNLS", "KTUP", "MCCLK", "MKR", "RippleNet"),
        _KNOWLEDGE,
    ),
    **dict.fromkeys(("LightGBM", "XGBoost"), _TREES),
}  # fmt: skip
_REFUSED_TYPES = {"CONTEXT": _CONTEXT, "KNOWLEDGE": _KNOWLEDGE, "DECISIONTREE": _TREES}


def require_recbole() -> None:
    """Check that RecBole is installed.

    Raises
    ------
    MissingDependencyError
        With the command that installs it (its own metadata cannot be satisfied on
        Python 3.12+, see docs/recbole.md).
    """
    try:
        found = importlib.util.find_spec("recbole") is not None
    except ImportError:
        found = False
    if not found:
        raise MissingDependencyError(f"RecBole is not installed; type: {INSTALL_RECBOLE}")


def get_model(name: str) -> type:
    """Class of a model by its name: one of ours, otherwise one of RecBole's.

    Parameters
    ----------
    name : str
        Exact name, e.g. ``LiteLLM4Rec`` or ``SASRec``.

    Raises
    ------
    ConfigError
        No such model, with the nearest ones; or one of RecBole's that cannot be run, with why.
    """
    if name in REFUSED:
        raise ConfigError(_refusal(name, REFUSED[name]))
    own = {**MODELS, **OVERRIDDEN}
    try:
        with _same_anomaly_mode():
            if name in own:
                return getattr(importlib.import_module(own[name]), name)
            from recbole.utils import get_model as get_recbole_model

            return get_recbole_model(name)
    except (ValueError, AttributeError, ImportError):
        if name in own:
            raise
        # AttributeError: the module's name matches in lower case, the class's does not.
        # ImportError: RecBole's last place to look needs lightgbm and xgboost.
        hint = suggest(name, [*MODELS, *recbole_models()]) or f"; ours: {', '.join(MODELS)}"
        raise ConfigError(f"unknown model {name!r}{hint}") from None


@contextmanager
def _same_anomaly_mode() -> Iterator[None]:
    """Undo what RecBole's SINE does when it is imported, which is with any sequential model.

    It turns autograd's anomaly mode on: every operation of every training would be traced.
    """
    import torch

    anomaly = torch.is_anomaly_enabled()
    try:
        yield
    finally:
        torch.autograd.set_detect_anomaly(anomaly)


def check_kind(model_class: type) -> None:
    """Refuse a class of a kind of models that is not run, whoever wrote it.

    Raises
    ------
    ConfigError
        With the reason.
    """
    kind = getattr(getattr(model_class, "type", None), "name", None)
    if kind in _REFUSED_TYPES:
        raise ConfigError(_refusal(model_class.__name__, _REFUSED_TYPES[kind]))


def _refusal(name: str, reason: str) -> str:
    return f"model {name} cannot be run here: it {reason}. Take a general or a sequential model"


def recbole_models() -> list[str]:
    """Names of RecBole's general and sequential models."""
    names = []
    for package in ("general_recommender", "sequential_recommender"):
        with _same_anomaly_mode():
            module = importlib.import_module(f"recbole.model.{package}")
        files = {info.name for info in pkgutil.iter_modules(module.__path__)}
        names += [name for name in vars(module) if name.lower() in files and name[0].isupper()]
    return names


def get_trainer(model_type, model_name: str) -> type:
    """Class that trains a model, by RecBole's rule, with our ``LiteMixin``.

    Parameters
    ----------
    model_type : recbole.utils.ModelType
        ``config["MODEL_TYPE"]``.
    model_name : str
        ``config["model"]``; RecBole has trainers of their own for some models (S3Rec, ...).
    """
    from recbole.trainer import Trainer
    from recbole.utils import get_trainer as get_recbole_trainer

    ours = importlib.import_module(TRAINERS)
    base = get_recbole_trainer(model_type, model_name)
    if base is Trainer:
        return ours.LiteTrainer
    return type(f"Lite{base.__name__}", (ours.LiteMixin, base, ours.TrainingLoop), {})


def reads_candidates(model_class: type) -> bool:
    """Whether a model takes the candidates as its input (``task: topn``), not only ranks them."""
    return getattr(model_class, "reads_candidates", False)


def knows_candidates(model_class: type) -> bool:
    """Whether a model is told the candidates in evaluation; else they are picked for it after."""
    return getattr(model_class, "knows_candidates", reads_candidates(model_class))


def writes_item_tokens(model_class: type) -> bool:
    """Whether a model writes the tokens of an item's id and does not score all items."""
    return getattr(model_class, "writes_item_tokens", False)


def reads_any_length(model_class: type) -> bool:
    """Whether a model's results do not depend on how far a batch of histories is padded."""
    listed = _is_recboles(model_class) and model_class.__name__ in _ANY_LENGTH
    return getattr(model_class, "reads_any_length", listed)


def loss_is_mean_over_rows(model_class: type) -> bool:
    """Whether batches of similar rows would train a model as mixed ones do.

    BERT4Rec's loss is a mean over masked items, of which long histories have more.
    """
    return not (_is_recboles(model_class) and model_class.__name__ == "BERT4Rec")


def _is_recboles(model_class: type) -> bool:
    return model_class.__module__.startswith("recbole.") or model_class.__module__ == _OVERRIDES


def can_shard_items(model_class: type) -> bool:
    """Whether a model can divide its item table among processes (``shard_items``)."""
    return getattr(model_class, "shards_items", False)


def can_train_prefixes(model_class: type) -> bool:
    """Whether a model scores every prefix of a window in one pass (``train_strategy: prefix``)."""
    # A class that derives from SASRec may have a loss of its own, so it must say so itself.
    listed = model_class.__module__ == _OVERRIDES and model_class.__name__ in _ALL_POSITIONS
    return getattr(model_class, "trains_prefixes", listed)
