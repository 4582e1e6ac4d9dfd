"""Names of what runs write."""

import pytest

from recbole_lite.utils.paths import create_unique


@pytest.mark.parametrize("suffix", ["", ".log"])
def test_a_name_that_is_taken_gets_a_number(suffix, tmp_path):
    paths = [create_unique(tmp_path, "SASRec-v1.1", suffix) for _ in range(3)]
    assert [path.name for path in paths] == [
        f"SASRec-v1.1{number}{suffix}" for number in ("", "-2", "-3")
    ]
    assert all(path.is_file() if suffix else path.is_dir() for path in paths)


def test_what_cannot_be_created_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        create_unique(tmp_path / "file", "run")
