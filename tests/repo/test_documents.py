"""What documents say is so: numbers are those of results, links and names lead somewhere."""

import ast
import importlib.util
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = next(folder for folder in Path(__file__).parents if (folder / "pyproject.toml").exists())
RESULTS = ROOT / "demo" / "results"
BENCH = ROOT / "bench" / "results"
DOCS = sorted((ROOT / "docs").glob("*.md"))
HELP = sorted((ROOT / "web" / "docs").glob("*.md"))
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "demo/README.md")),
    *DOCS,
]

each_document = pytest.mark.parametrize("file", DOCUMENTS, ids=lambda file: file.stem)


def read(file: Path) -> str:
    return file.read_text(encoding="utf-8")


def read_page(name: str) -> str:
    return read(ROOT / "docs" / name)


def rows(text: str) -> list[list[str]]:
    """The cells of every line of a table but those that rule it."""
    lines = (line.strip().strip("|") for line in text.splitlines() if line.startswith("|"))
    return [
        [cell.strip() for cell in line.split("|")] for line in lines if not set(line) <= set("|-: ")
    ]


# --- numbers --------------------------------------------------------------------------------------


def test_tables_of_the_evaluation_are_its_results():
    """Each row names its options and leads to what `evaluate` wrote with them."""
    linked = [row for row in rows(read_page("evaluation.md")) if "results" in row[-1]]
    assert len(linked) >= 6
    for name, *numbers, link in linked:
        folder = (ROOT / "docs" / re.findall(r"\]\((.+?)\)", link)[0]).resolve().parent
        settings, report = (json.loads(read(folder / f"{x}.json")) for x in ("evaluate", "report"))
        own = settings["variants"][0]["name"]
        figures = report["figures"][own]
        assert [f"{figures[key]:.1f}" for key in ("accuracy", "mIoU")] == numbers, name
        assert set(re.findall(r"`(--.+?)`", name)) == options(settings), name
        assert (report["pictures"], settings["model"]) == (200, "demo/model")


def options(settings: dict[str, Any]) -> set[str]:
    """What a run of `evaluate` was given beside its data: all that is not the protocol's."""
    changes = {name: value for name, value in settings["changes"].items() if value is not None}
    given = {"--edges"} if changes.pop("edges", False) else set()
    given |= {f"--{name} {value}" for name, value in changes.items()}
    method, scale = settings["variants"][0]["method"], settings["scale"]
    given |= {f"--bounces {method['bounces']}"} if method["bounces"] else set()
    given |= {f"--scale {scale}"} if scale != "as they are" else set()
    given |= {f"--seed {settings['seed']}"} if settings["seed"] else set()
    return given


def test_the_table_of_variants_is_the_result():
    written = rows(read(RESULTS / "scenes" / "table.md"))
    shown = rows(read_page("evaluation.md"))
    assert len(written) > 8
    assert [row for row in written if row not in shown] == []


def test_the_table_of_localisation_is_the_result():
    written = rows(read(RESULTS / "localisation.md"))
    shown = rows(read(ROOT / "demo" / "README.md"))
    table = written[: [row[0] for row in written].index("words")]
    assert len(table) > 10
    assert [row for row in table if row not in shown] == []


def test_counted_operations_are_the_result_and_come_before_seconds():
    text = read_page("performance.md")
    counted = json.loads(read(BENCH / "flops.json"))
    shown = [row for row in rows(text) if row[0] in {one["size"] for one in counted}]
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
    assert text.index("TFLOP") < text.index("## Seconds")


def test_seconds_are_the_result():
    """Every ratio with its range stands in the table that the benchmark wrote."""
    found = re.findall(r"\d\.\d{3}\*{0,2} \(\d\.\d{3}-\d\.\d{3}", read_page("performance.md"))
    written = read(BENCH / "sampling_cpu.md").replace("*", "")
    assert len(found) >= 12
    assert [one for one in found if one.replace("*", "") not in written] == []


def test_ratios_of_seconds_that_may_be_1_are_called_noise():
    text = read_page("performance.md")
    ranges = re.findall(r"\d\.\d{3}\*{0,2} \((\d\.\d{3})-(\d\.\d{3})(, noise)?\)", text)
    assert len(ranges) >= 12
    for low, high, noise in ranges:
        assert bool(noise) == (float(low) <= 1 <= float(high)), (low, high)


def test_the_numbers_of_the_readme_are_results():
    text = " ".join(read(ROOT / "README.md").partition("## Cost and quality")[2].split())
    (cost,) = (
        one
        for one in json.loads(read(BENCH / "flops.json"))
        if (one["size"], one["tokens"], one["concepts"]) == ("true Flux.1", 4096, 8)
    )
    assert f"adds {100 * (cost['recorded'] / cost['plain'] - 1):.2f} % of" in text
    low, high = re.findall(r"range (\d\.\d{3})-(\d\.\d{3})", text)[0]
    (ratio,) = re.findall(r"ratio (\d\.\d{3})", text)
    (timed,) = (r for r in rows(read(BENCH / "sampling_cpu.md")) if r[:2] == ["4096", "8"])
    assert timed[4] == f"**{ratio}** ({low}-{high})"
    assert float(low) <= 1 <= float(high)  # or it is no noise
    figures = json.loads(read(RESULTS / "scenes" / "report.json"))["figures"]
    for variant, words in (("output space", "of the pixels"), ("cross-attention", "")):
        own = figures[variant]
        accuracy, miou = (f"{own[key]:.1f}" for key in ("accuracy", "mIoU"))
        assert re.search(rf"{accuracy} % {words} ?\(mIoU {miou}\)", text), variant


def test_the_readme_is_short():
    assert len(read(ROOT / "README.md").split()) < 1700


# --- names of the code ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site() -> Any:
    """tools/docs_site.py, which puts code and other documents into pages."""
    spec = importlib.util.spec_from_file_location("docs_site", ROOT / "tools" / "docs_site.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("file", DOCS, ids=lambda file: file.stem)
def test_code_that_a_page_shows_is_in_the_source(site, file):
    text = site.expand(read(file), file.parent)
    assert not re.search(r"^\[(source|lines|include)\b", text, re.MULTILINE)


def test_code_that_is_not_there_is_an_error(site):
    with pytest.raises(LookupError, match="no 'step_by_step' in the source"):
        site.expand("[source: step_by_step](../conceptattention_core/attention.py)", ROOT / "docs")


def test_the_reference_names_what_there_is(site):
    named = re.findall(r"^::: (\S+)\.(\w+)$", read_page("reference.md"), re.MULTILINE)
    assert len(named) > 7
    for module, name in named:
        file = ROOT.joinpath(*module.split(".")).with_suffix(".py")
        assert site.find_source(read(file), name)


def test_links_of_the_site_leave_docs_for_copies(site):
    found = site.outside("[a](laws.md) [b](../run.py) [c](https://x.org) [d](#e)", ROOT / "docs")
    assert found == {"../run.py": ROOT / "run.py"}


def constant(name: str, folder: str) -> ast.expr:
    """What a constant is set to, in the one file of a folder that has it."""
    found = []
    for file in (ROOT / folder).rglob("*.py"):
        for node in ast.parse(read(file)).body:
            targets = getattr(node, "targets", [getattr(node, "target", None)])
            if any(getattr(target, "id", "") == name for target in targets):
                found.append(node.value)  # type: ignore[attr-defined]
    assert len(found) == 1, f"{len(found)} constants {name} in {folder}"
    return found[0]


def test_the_readme_counts_the_families():
    families = constant("FAMILIES", "conceptattention_core/hosts/comfyui")
    assert isinstance(families, ast.List)
    assert f"[{len(families.elts)} families" in read(ROOT / "README.md")


def test_there_is_a_picture_and_a_help_text_for_every_node():
    page = read_page("nodes.md")
    nodes = [file.stem for file in HELP]
    assert len(nodes) >= 19
    for node in nodes:
        title = read(ROOT / "web" / "docs" / f"{node}.md").partition("\n")[0].removeprefix("# ")
        lines = (
            f"## {title}",
            f"![{title}](images/nodes/{node}.jpg)",
            f"[include text](../web/docs/{node}.md)",
        )
        assert "\n\n".join(lines) in page, node


def test_errors_that_documents_quote_are_those_of_the_code():
    strings = [
        node.value
        for folder in ("conceptattention_core", "nodes")
        for file in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(read(file)))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    headings = re.findall(r'^## "(.+)"$', read_page("troubleshooting.md"), re.MULTILINE)
    readme = read(ROOT / "README.md").partition("errors you may meet")[2]
    quoted = headings + re.findall(r'^\| "(.+?)" \|', readme, re.MULTILINE)
    assert len(quoted) >= 7
    for sentence in quoted:
        for part in sentence.split(" … "):
            assert any(part in string for string in strings), sentence


# Words of an earlier private language; each has a standard term in this field.
METAPHORS = re.compile(
    r"\b(rides?|riders?|riding|heard|hears?|listen\w*|tours?|kin|strangers?|paint(s|ed|ing)?)\b",
    re.I,
)


@pytest.mark.parametrize("file", [*DOCUMENTS[:2], *DOCS, *HELP], ids=lambda file: file.stem)
def test_documents_use_the_words_of_the_field(file):
    text = re.sub(r"```.*?```|`[^`]*`", "", read(file), flags=re.DOTALL)
    text = text.replace("Riding equals being the prompt", "").replace('Why "riding"?', "")
    found = [found[0] for found in METAPHORS.finditer(text)]
    assert found == []


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


@pytest.mark.parametrize(
    ("page", "what", "least"),
    [("features.md", "feature", 30), ("compatibility.md", "neighbour", 40)],
)
def test_every_row_of_a_page_has_a_test_that_shows_it(page, what, least):
    parts = read_page(page).split("\n## ")[1:]
    listed = 0
    for part in parts:
        promised, folded, shown = part.partition("<details")
        if not folded:
            assert not rows(promised)
            continue
        claims = [row[0] for row in rows(promised) if row[0] != what]
        proofs = {row[0]: row[1] for row in rows(shown) if row[0] != what}
        assert claims == list(proofs)
        assert [claim for claim, proof in proofs.items() if not TEST.search(proof)] == []
        listed += len(claims)
    assert listed > least


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


def test_every_model_graph_is_offered():
    page = read_page("models.md")
    graphs = sorted((ROOT / "workflows" / "models").glob("*.json"))
    assert len(graphs) > 20
    assert [one.name for one in graphs if f"workflows/models/{one.name}" not in page] == []


def test_every_picture_of_the_documents_is_shown_somewhere():
    texts = "".join(map(read, [*DOCUMENTS, ROOT / "mkdocs.yml"]))
    pictures = [*(ROOT / "docs" / "images").rglob("*.*"), *RESULTS.rglob("*.jpg")]
    assert len(pictures) > 20
    assert [file.name for file in pictures if file.name not in texts] == []


def test_every_page_is_in_the_menu():
    menu = read(ROOT / "mkdocs.yml").partition("\nnav:")[2]
    assert [file.name for file in DOCS if f" {file.name}\n" not in menu] == []
