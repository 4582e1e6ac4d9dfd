"""``config.json`` of a run's folder: model, data set and settings; read without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from recbole_lite.config.data_rules import settings_in_rules
from recbole_lite.config.keys import values_before, with_current_names
from recbole_lite.utils.errors import CheckpointError

CONFIG_FILE = "config.json"
BEST_FILE = "best.safetensors"


def load_config(folder: Path) -> dict[str, Any]:
    """Read ``model``, ``dataset`` and ``settings``, as the checkpoint of a run wrote them.

    Raises
    ------
    CheckpointError
        Missing or damaged.
    """
    path = folder / CONFIG_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{folder}: no checkpoint here ({CONFIG_FILE} is missing)") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from None
    kinds = {"model": str, "dataset": str, "settings": dict}
    if not isinstance(content, dict) or any(
        not isinstance(content.get(name), kind) for name, kind in kinds.items()
    ):
        raise CheckpointError(f"{path}: not the settings of a run: it needs {', '.join(kinds)}")
    settings = with_current_names(content["settings"])
    content["settings"] = {**values_before(content["model"]), **settings}
    return content


def defaults_of_resumed(folder: Path) -> dict[str, Any]:
    """Settings of a saved run that its command does not give; nothing where no run is saved.

    They are those that it was saved without, as it was trained, and those of its ``data_rules``.
    """
    try:
        saved = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        settings = saved["settings"]
        by_rule = settings_in_rules(settings.get("data_rules"))
        return {
            **{k: v for k, v in values_before(saved["model"]).items() if k not in settings},
            **{name: settings[name] for name in by_rule},
        }
    except (OSError, ValueError, RecursionError, LookupError, TypeError, AttributeError):
        return {}  # the trainer says what is wrong
