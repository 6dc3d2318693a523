"""What documents say is so: numbers are those of the results, links lead somewhere, tests exist."""

import ast
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "demo" / "results"
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "demo/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]

each_document = pytest.mark.parametrize("file", DOCUMENTS, ids=lambda file: file.stem)


def read(file: Path) -> str:
    return file.read_text(encoding="utf-8")


def rows(text: str) -> list[list[str]]:
    """The cells of every line of a table but those that rule it."""
    lines = (line.strip().strip("|") for line in text.splitlines() if line.startswith("|"))
    return [
        [cell.strip() for cell in line.split("|")] for line in lines if not set(line) <= set("|-: ")
    ]


# --- numbers --------------------------------------------------------------------------------------


def test_tables_of_the_evaluation_are_its_results():
    """Each row names its options and leads to what `evaluate` wrote with them."""
    linked = [row for row in rows(read(ROOT / "docs" / "evaluation.md")) if "results" in row[-1]]
    assert len(linked) >= 6
    for name, *numbers, link in linked:
        folder = (ROOT / "docs" / re.findall(r"\]\((.+?)\)", link)[0]).resolve()
        settings, report = (json.loads(read(folder / f"{x}.json")) for x in ("evaluate", "report"))
        own = settings["variants"][0]["name"]
        figures = report["figures"][own]
        assert [f"{figures[key]:.1f}" for key in ("accuracy", "mIoU")] == numbers, name
        assert set(re.findall(r"`(--.+?)`", name)) == options(settings), name
        assert (report["pictures"], settings["model"]) == (200, "demo/model")


def test_the_readme_counts_what_recording_costs():
    """The table of FLOPs is what `bench.flops` wrote, and stands before all seconds."""
    text = read(ROOT / "README.md")
    costs = text[text.index("## What it costs") :]
    counted = json.loads(read(ROOT / "bench" / "results" / "flops.json"))
    shown = [row for row in rows(costs) if row[0] in {one["size"] for one in counted}]
    assert shown == [
        [
            one["size"],
            str(one["tokens"]),
            str(one["concepts"]),
            f"{one['plain'] / 1e12:.3f} TFLOP",
            f"**{one['recorded'] / one['plain']:.4f}**",
            f"{one['papers_way'] / one['plain']:.4f}",
        ]
        for one in counted
    ]
    assert {(one["size"], one["tokens"], one["concepts"]) for one in counted} >= {
        (size, tokens, 8) for size in ("middle", "true Flux.1") for tokens in (1024, 4096)
    }
    assert costs.index("TFLOP") < costs.index("In seconds")


def test_ratios_of_seconds_that_may_be_1_are_called_noise():
    costs = read(ROOT / "README.md").partition("## What it costs")[2].partition("\n## ")[0]
    ranges = re.findall(r"\d\.\d{3}\*{0,2} \((\d\.\d{3})-(\d\.\d{3})(, noise)?\)", costs)
    assert len(ranges) >= 12
    for low, high, noise in ranges:
        assert bool(noise) == (float(low) <= 1 <= float(high)), (low, high)


def options(settings: dict[str, Any]) -> set[str]:
    """What a run of `evaluate` was told beside its data: all that is not the protocol's."""
    changes = {name: value for name, value in settings["changes"].items() if value is not None}
    given = {"--edges"} if changes.pop("edges", False) else set()
    given |= {f"--{name} {value}" for name, value in changes.items()}
    method, scale = settings["variants"][0]["method"], settings["scale"]
    given |= {f"--bounces {method['bounces']}"} if method["bounces"] else set()
    given |= {f"--scale {scale}"} if scale != "as they are" else set()
    given |= {f"--seed {settings['seed']}"} if settings["seed"] else set()
    return given


@pytest.mark.parametrize("file", ["README.md", "demo/README.md"])
def test_tables_of_localisation_are_its_results(file):
    written = rows(read(RESULTS / "localisation.md"))
    shown = rows(read(ROOT / file))
    table = written[: [row[0] for row in written].index("words")]
    assert len(table) > 10
    assert [row for row in table if row not in shown] == []


# --- tests ----------------------------------------------------------------------------------------

TEST = re.compile(r"`(?:tests/(?:\w+/)*)?(test_\w+\.py)(?:::(test_\w+))?`")


@pytest.fixture(scope="module")
def tests() -> dict[str, set[str]]:
    """The names of the tests in each file of tests."""
    found: dict[str, set[str]] = {}
    for file in (ROOT / "tests").rglob("test_*.py"):
        functions = (node for node in ast.parse(read(file)).body if hasattr(node, "name"))
        found.setdefault(file.name, set()).update(node.name for node in functions)
    return found


@each_document
def test_every_test_that_is_named_exists(tests, file):
    named = TEST.findall(read(file))
    missing = [
        (name, test) for name, test in named if test not in {"", *tests.get(name, set())}
    ] + [name for name, _ in named if name not in tests]
    assert missing == []


def test_every_feature_names_a_test_that_shows_it():
    listed = [row for row in rows(read(ROOT / "docs" / "features.md")) if row[0] != "feature"]
    assert len(listed) > 30
    vague = [row[0] for row in listed if not any(test for _, test in TEST.findall(row[-1]))]
    assert vague == []


# --- links and pictures ---------------------------------------------------------------------------

LINK = re.compile(r"\]\(((?!https?:|#)[^)#]+)")


@pytest.fixture(scope="module")
def kept() -> set[Path]:
    """The files that git has or would take."""
    git = shutil.which("git")
    if not git or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listing = [git, "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.check_output(listing, cwd=ROOT, text=True).split("\0")
    return {ROOT / name for name in names if name and (ROOT / name).exists()}


def reaches(target: Path, files: set[Path]) -> bool:
    return target in files or any(target in file.parents for file in files)


@each_document
def test_links_lead_to_files_of_the_repository(kept, file):
    targets = {link: (file.parent / link).resolve() for link in LINK.findall(read(file))}
    assert [link for link, target in targets.items() if not reaches(target, kept)] == []


def test_every_picture_of_the_documents_is_shown_somewhere():
    texts = "".join(map(read, DOCUMENTS))
    pictures = [*(ROOT / "docs" / "images").iterdir(), *RESULTS.rglob("*.jpg")]
    assert [file.name for file in pictures if file.name not in texts] == []
