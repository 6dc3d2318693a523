"""What users of the nodes download from the Comfy Registry: git's files without .comfyignore's."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MOST_BYTES = 24_000_000
MODEL_BYTES = 21_000_000
"""Of these the demo model's."""
MOST_FILES = 330
WANTED = (
    *("__init__.py", "pyproject.toml", "requirements.txt", "LICENSE", "README.md", "CHANGELOG.md"),
    *("nodes", "conceptattention_core", "web", "locales", "workflows", "subgraphs", "demo/model"),
)


@pytest.fixture(scope="module")
def shipped() -> list[str]:
    git = shutil.which("git")
    if not git or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")

    def listed(*options: str) -> set[str]:
        listing = [git, "ls-files", "-z", "--cached", *options]
        return set(subprocess.check_output(listing, cwd=ROOT, text=True).split("\0")) - {""}

    dropped = listed("--ignored", f"--exclude-from={ROOT / '.comfyignore'}")
    assert dropped
    return sorted(name for name in listed() - dropped if (ROOT / name).exists())


def sum_bytes(names: list[str]) -> int:
    return sum((ROOT / name).stat().st_size for name in names)


def test_only_what_the_nodes_need_is_shipped(shipped):
    rooms = (*WANTED, "CITATION.cff")
    strangers = [
        name
        for name in shipped
        if not any(name == room or name.startswith(f"{room}/") for room in rooms)
    ]
    assert strangers == []


@pytest.mark.parametrize("room", WANTED)
def test_everything_the_nodes_need_is_shipped(shipped, room):
    assert any(name == room or name.startswith(f"{room}/") for name in shipped)


def test_the_download_stays_small(shipped):
    model = [name for name in shipped if name.startswith("demo/model/")]
    assert len(shipped) <= MOST_FILES
    assert sum_bytes(model) <= MODEL_BYTES
    assert sum_bytes(shipped) <= MOST_BYTES


def test_the_demo_model_is_shipped_whole(shipped):
    index = json.loads((ROOT / "demo/model/model_index.json").read_text(encoding="utf-8"))
    for part, kind in index.items():
        if isinstance(kind, list):
            assert any(name.startswith(f"demo/model/{part}/") for name in shipped), part


def test_shipped_code_imports_nothing_that_is_left_out(shipped):
    """But one command, which says so itself: `evaluate scenes` draws the demo's scenes."""
    outside = re.compile(r"^\s*(?:from|import) (?:demo|bench|tools|tests)\b", re.MULTILINE)
    code = [name for name in shipped if name.endswith(".py")]
    found = [n for n in code if outside.search((ROOT / n).read_text(encoding="utf-8"))]
    assert found == ["conceptattention_core/cli/judging.py"]
