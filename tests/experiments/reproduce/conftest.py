"""What `recbole-lite reproduce` is asked for, on the data set ``tiny``."""

import pytest

from recbole_lite.experiments.reproduce.protocol import Request


@pytest.fixture
def request_for(data_path, tmp_path):
    """``request_for(key=value, ...)`` -> Request on the data set ``tiny``."""

    def build(**changes):
        values = {
            "dataset": "tiny",
            "data_path": str(data_path),
            "minutes": 0.01,
            "weights": "scratch",
            "tokenizer": None,
            "seed": 2020,
            "out": tmp_path / "out",
            "command": "recbole-lite reproduce",
            "log": lambda line: None,
        }
        return Request(**{**values, **changes})

    return build
