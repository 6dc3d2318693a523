"""The package as people install it: what the wheel holds, and what an import costs."""

import re
import shutil
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import conceptattention.conceptattention_core as ca
import pytest
from conceptattention.conceptattention_core.version import read_version

ROOT = Path(__file__).resolve().parents[2]
CORE = ROOT / "conceptattention_core"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built from what it is built from alone, so that nothing is left in the tree."""
    if None in (find_spec("pip"), find_spec("setuptools")):
        pytest.skip("no pip and setuptools here to build with")
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    # what lies beside the package in the tree and must not be taken
    for name in ("tests", "nodes", "demo", "bench", "docs"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").touch()
    shutil.copytree(CORE, folder / CORE.name, ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    made = subprocess.run(
        [*pip, "--wheel-dir", folder / "out", folder], capture_output=True, text=True
    )
    assert made.returncode == 0, made.stderr
    (file,) = (folder / "out").iterdir()
    return zipfile.ZipFile(file)


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
    own = {
        file.relative_to(ROOT).as_posix()
        for file in CORE.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert packed == own
    assert {"conceptattention_core/py.typed", "conceptattention_core/__main__.py"} <= packed
    assert any(name.endswith("explorer.html") for name in packed)
    assert sum(one.file_size for one in wheel.infolist()) < 2**20


def test_the_wheel_has_a_command_and_a_licence(wheel):
    info = next(name for name in wheel.namelist() if name.endswith("METADATA")).rpartition("/")[0]
    texts = {
        name: wheel.read(f"{info}/{name}").decode() for name in ("METADATA", "entry_points.txt")
    }
    assert "conceptattention = conceptattention_core.cli:main" in texts["entry_points.txt"]
    assert f"\nVersion: {ca.__version__}\n" in texts["METADATA"]
    assert f"{info}/licenses/LICENSE" in wheel.namelist()


def test_the_version_is_that_of_pyproject():
    stated = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text("utf-8"), re.M)
    assert stated and ca.__version__ == read_version() == stated[1]


def in_a_new_python(code: str) -> str:
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return found.stdout


def test_an_import_brings_neither_torch_nor_a_host():
    told = in_a_new_python(
        "import sys, time; before = set(sys.modules); start = time.process_time()\n"
        "import conceptattention_core\n"
        "print(time.process_time() - start, *sorted(set(sys.modules) - before))"
    )
    seconds, *loaded = told.split()
    heavy = {"torch", "numpy", "cv2", "PIL", "diffusers", "transformers", "comfy"}
    assert heavy.isdisjoint(name.partition(".")[0] for name in loaded)
    assert len(loaded) < 40
    assert float(seconds) < 0.5


def test_every_public_name_leads_to_its_object():
    for name in ca.__all__:
        assert getattr(ca, name) is not None
        assert name in dir(ca)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        print(ca.nothing)


def test_editors_are_told_every_public_name():
    """What is imported for type checkers alone is what is found when a program runs."""
    text = (CORE / "__init__.py").read_text("utf-8")
    shown = re.findall(r"^    from \.(\S+) import (\w+) as \2$", text, re.M)
    assert {name: module for module, name in shown} == ca._PUBLIC


def test_the_shell_says_its_version():
    told = in_a_new_python(
        "import sys; from conceptattention_core.cli import main; main(['--version'])"
    )
    assert told == f"conceptattention {ca.__version__}\n"
