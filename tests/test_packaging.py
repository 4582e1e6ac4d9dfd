"""What `pip install .` puts on a machine, and the two commands."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Folder with the unpacked wheel; built without touching the checkout or the network."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    done = subprocess.run([*build, str(source)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_the_wheel_carries_every_property_and_dataset_file(installed):
    for name in ("properties", "dataset_meta"):
        shipped = {path.relative_to(ROOT / name) for path in (ROOT / name).glob("**/*.yaml")}
        there = installed / "recbole_lite" / name
        assert {path.relative_to(there) for path in there.glob("**/*.yaml")} == shipped
    assert (installed / "recbole_lite" / "serve" / "page.html").is_file()


def test_an_installed_copy_runs_from_any_directory(installed, workdir, data_path):
    code = (
        "import recbole_lite, sys; from recbole_lite.utils.paths import PROPERTIES;"
        "print(PROPERTIES); from recbole_lite.cli.main import run_main; sys.exit(run_main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "-m=Pop", "-d=tiny", f"--data_path={data_path}"],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(installed), "PATH": "/usr/bin:/bin", "HOME": str(workdir)},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(installed / "recbole_lite" / "properties"))


def test_no_file_of_data_or_weights_is_in_the_repository():
    listed = subprocess.run(["git", "ls-files", "-s"], cwd=ROOT, capture_output=True, text=True)
    names = [line.split("\t")[1] for line in listed.stdout.splitlines()]
    assert names
    bad = r"\.(inter|item|user|safetensors|bin|pt|pth|zip|gz|csv|onnx|model)$"
    assert [name for name in names if re.search(bad, name)] == []
    cells = "results/benchmark/"  # with the rank of every user
    large = {name: (ROOT / name).stat().st_size for name in names}
    assert [
        name for name, size in large.items() if size > 300_000 + 400_000 * (cells in name)
    ] == []


def test_recbole_is_no_requirement_of_the_wheel(installed):
    (metadata,) = installed.glob("*.dist-info/METADATA")
    required = re.findall(r"^Requires-Dist: ([\w-]+)", metadata.read_text(), flags=re.M)
    assert "recbole" not in required
    assert {"torch", "transformers", "texttable", "thop"} <= set(required)


def test_the_constraints_pin_torch_without_a_local_version():
    text = (ROOT / "constraints.txt").read_text()
    assert "\ntorch==2.13.0\n" in text
    assert "recbole==1.2.1" in text
