"""Every example in the documents is executed: Python in one namespace per page, shell line by line.

Examples name models that no test machine has. Here the name leads to a small pipeline with random
weights, and devices that are not there to the processor; else examples run as they are written.
"""

import re
import runpy
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("diffusers")

import diffusers

from ..evaluation.conftest import voc as voc
from ..hosts.diffusers.tiny import save_tiny_flux, tiny_flux

ROOT = next(folder for folder in Path(__file__).parents if (folder / "pyproject.toml").exists())
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "demo/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
HUB = "black-forest-labs/FLUX.1-schnell"

FENCE = re.compile(r"^```([^\n`]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SHELL = {"", "sh", "bash"}
NO_EXAMPLE = {"text", "bibtex"}  # drawings and references


class Example(NamedTuple):
    file: Path
    line: int
    language: str
    code: str


def examples() -> Iterator[Example]:
    for file in DOCUMENTS:
        text = file.read_text(encoding="utf-8")
        for found in FENCE.finditer(text):
            line = text.count("\n", 0, found.start()) + 2
            yield Example(file, line, found[1].strip(), found[2])


EXAMPLES = list(examples())
PAGES = {
    file: [one for one in EXAMPLES if one.file == file and one.language == "python"]
    for file in DOCUMENTS
}


def commands() -> Iterator[Any]:
    for one in EXAMPLES:
        if one.language in SHELL:
            code = one.code.replace("\\\n", " ")
            for line in filter(None, map(str.strip, code.splitlines())):
                line = line.partition("  #")[0]
                for command in line.split(" && "):
                    name = f"{one.file.stem}: {' '.join(command.split()[:5])}"
                    yield pytest.param(shlex.split(command), id=name)


# --- the place where examples run -----------------------------------------------------------------


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small Flux."""
    return save_tiny_flux(tmp_path_factory.mktemp("model"))


@pytest.fixture
def place(tmp_path: Path, toy: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the files that examples name; the model's name leads to a toy."""
    (tmp_path / "photos").mkdir()
    for name in ("photo.jpg", "photos/one.jpg", "photos/two.jpg"):
        noise = np.random.default_rng(len(name)).integers(0, 255, (48, 64, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / name)
    (tmp_path / "demo").symlink_to(ROOT / "demo")
    monkeypatch.chdir(tmp_path)
    load, move = diffusers.DiffusionPipeline.from_pretrained, diffusers.DiffusionPipeline.to

    def from_toy(cls: type, name: Any, **options: Any) -> Any:
        if name != HUB:
            return load.__func__(cls, name, **options)
        pipe = tiny_flux()
        pipe.default_sample_size = 12  # of the latent
        return pipe

    def to_processor(pipe: Any, *where: Any, **options: Any) -> Any:
        return pipe if where == ("cuda",) else move(pipe, *where, **options)

    monkeypatch.setattr(diffusers.DiffusionPipeline, "from_pretrained", classmethod(from_toy))
    monkeypatch.setattr(diffusers.DiffusionPipeline, "to", to_processor)
    return tmp_path


# --- Python ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "file", [file for file, blocks in PAGES.items() if blocks], ids=lambda file: file.stem
)
def test_python_on_a_page_runs_from_top_to_bottom(file, place, monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    code = ""
    for one in PAGES[file]:  # each block at the line that it has in the page
        code += "\n" * (one.line - 1 - code.count("\n")) + one.code
    script = place / f"{file.stem}.py"
    script.write_text(code, encoding="utf-8")
    runpy.run_path(str(script))


# --- shell ----------------------------------------------------------------------------------------


def run_command(words: list[str], toy: Path) -> None:
    from conceptattention_core.cli import main

    words = [str(toy) if word == HUB else word for word in words]
    words = words[next(i for i, word in enumerate(words) if word.startswith("conceptatt")) + 1 :]
    if str(toy) in words and words[0] == "generate":
        words += ["--height", "48", "--width", "80"]  # not 1024 pixels
    if str(toy) in words and words[0] == "evaluate":
        words += ["--blocks", "all"]  # the toy has 3 of them, not 19
    assert main(words) == 0


def run_demo(words: list[str], toy: Path) -> None:
    import run

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "environment", lambda purpose: sys.executable)  # makes none here
        patch.setenv("PYTHONPATH", str(ROOT))
        assert run.main([*words[2:], "--steps", "2"]) == 0
    assert Path("out/demo/overlay.png").exists()


def check_selection(words: list[str], toy: Path) -> None:
    """`run.py test` is the run that this test is a part of; its paths have to be there."""
    paths = [word.partition("::")[0] for word in words if word.startswith("tests")]
    assert [path for path in paths if not (ROOT / path).exists()] == []


def check_requirements(words: list[str], toy: Path) -> None:
    """Installing would change the machine; what it would install has to be there."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for word in words[2:]:
        if word.endswith(".txt"):
            assert (ROOT / Path(word).name).is_file()
        elif extra := re.fullmatch(r"\.\[(\w+)\]", word):
            assert re.search(rf"^{extra[1]} = \[", text, re.MULTILINE)
        else:
            assert word in {"-r", "-e", ".", "tqdm"}, word


def check_module(words: list[str], toy: Path) -> None:
    """It trains for hours, or needs a ComfyUI, where tests of its own run it."""
    folder = ROOT.joinpath(*words[words.index("-m") + 1].split("."))
    assert folder.with_suffix(".py").is_file() or (folder / "__main__.py").is_file()


def check_registry(words: list[str], toy: Path) -> None:
    """It downloads from the Comfy Registry, where the pack has the project's name."""
    assert f'name = "{words[-1]}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def check_tool(words: list[str], toy: Path) -> None:
    """It checks or builds the whole repository, which continuous integration does."""
    places = [ROOT / "run.py", *(ROOT / ".github" / "workflows").glob("*.yml")]
    assert any(
        words[-1 if words[0] == "python" else 0] in file.read_text(encoding="utf-8")
        for file in places
    )


RUN: dict[str, Callable[[list[str], Path], None]] = {
    "conceptattention ": run_command,
    "python -m conceptattention_core ": run_command,
    "python run.py demo": run_demo,
    "python run.py check": check_tool,
    "python run.py test": check_selection,
    "pip install ": check_requirements,
    "python -m demo.": check_module,
    "python -m bench.": check_module,
    "torchrun ": check_module,
    "comfy node install ": check_registry,
    "ruff ": check_tool,
    "pyright": check_tool,
    "mkdocs build": check_tool,
}
"""How a command that begins so is run; or checked, for the reason that the function gives."""


@pytest.mark.parametrize("words", list(commands()))
def test_a_command_runs_as_it_is_written(words, place, toy, request, monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    while re.match(r"[A-Z_]+=", words[0]):  # variables of the environment
        words = words[1:]
    if "VOCdevkit" in words:
        request.getfixturevalue("voc")
    line = " ".join(words)
    start = next((start for start in RUN if line.startswith(start)), None)
    assert start, f"no way to run: {line}"
    RUN[start](words, toy)


def test_every_block_of_code_is_an_example_or_says_that_it_is_none():
    known = SHELL | NO_EXAMPLE | {"python"}
    assert [(one.file.name, one.line) for one in EXAMPLES if one.language not in known] == []
    assert len(list(commands())) > 20
    assert sum(map(len, PAGES.values())) > 6
