"""Who may import whom, read from the source alone: no host has to be installed.

__init__ -> nodes -> hosts/comfyui -> core <- hosts/diffusers <- cli
"""

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

CORE = "conceptattention_core"
COMFYUI = f"{CORE}.hosts.comfyui"
DIFFUSERS = f"{CORE}.hosts.diffusers"
CLI = f"{CORE}.cli"

# A module belongs to the longest prefix of its name; a layer may import itself and these.
LAYERS = {
    "__init__": {"nodes"},
    "nodes": {CORE, COMFYUI},
    CORE: set(),
    f"{CORE}.__init__": {CORE, f"{CORE}.api"},
    f"{CORE}.api": {CORE, CLI, DIFFUSERS},
    f"{CORE}.hosts": set(),
    COMFYUI: {CORE},
    DIFFUSERS: {CORE},
    CLI: {CORE, DIFFUSERS},
    f"{CORE}.__main__": {CORE, CLI},
}

COMFYUI_MODULES = {
    *("comfy", "comfy_api", "comfy_api_nodes", "comfy_execution", "comfy_extras", "execution"),
    *("folder_paths", "latent_preview", "node_helpers", "nodes", "server"),
}
FOREIGN = {
    "__init__": {"diffusers"},
    "nodes": {"diffusers"},
    COMFYUI: {"diffusers"},
    DIFFUSERS: COMFYUI_MODULES,
    CLI: COMFYUI_MODULES,
    f"{CORE}.api": COMFYUI_MODULES,
}
OWN_NAMES = {"conceptattention", CORE, "demo", "tests"}
# From a clone of the repository, the command evaluate draws the demo's scenes.
SCENES = (f"{CLI}.judging", "demo.scenes")


def modules(root: Path) -> dict[str, ast.Module]:
    """Every module of the pack as ComfyUI loads it, by its dotted name below the pack."""
    files = [root / "__init__.py", *(root / "nodes").rglob("*.py"), *(root / CORE).rglob("*.py")]
    return {
        dotted(file.relative_to(root)): ast.parse(file.read_text(encoding="utf-8"))
        for file in files
        if file.exists()
    }


def dotted(file: Path) -> str:
    return ".".join(file.with_suffix("").parts)


def layer(module: str) -> str | None:
    names = [name for name in LAYERS if f"{module}.".startswith(f"{name}.")]
    return max(names, key=len, default=None)


def imports(module: str, tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(dots, what) of every import; a relative one is resolved to a name below the pack."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = module.split(".")
            base = package[: -node.level] if node.level else []
            outside = ["(outside)"] if node.level > len(package) else []
            start = [*outside, *base, *(node.module or "").split(".")]
            for alias in node.names:
                yield node.level, ".".join(filter(None, [*start, alias.name]))


def is_family(tree: ast.Module) -> bool:
    """Whether a class of the module is a model family: it has the base class and a name."""
    return any(
        isinstance(node, ast.ClassDef)
        and any(ast.unparse(base).endswith("Family") for base in node.bases)
        and any(isinstance(line, ast.Assign) and is_name(line.targets[0]) for line in node.body)
        for node in tree.body
    )


def is_name(target: ast.expr) -> bool:
    return isinstance(target, ast.Name) and target.id == "name"


def may_import(home: str, dots: int, what: str) -> bool:
    if dots:
        return layer(what) in {home, *LAYERS[home]}
    return what.split(".")[0] not in FOREIGN.get(home, COMFYUI_MODULES | {"diffusers"})


def violations(root: Path) -> list[str]:
    pack = modules(root)
    families = {name for name, tree in pack.items() if ".hosts." in name and is_family(tree)}
    found = []
    for module, tree in pack.items():
        home = layer(module)
        assert home, f"{module} belongs to no layer"
        for dots, what in imports(module, tree):
            if module == SCENES[0] and what.startswith(SCENES[1]):
                continue
            if not dots and what.split(".")[0] in OWN_NAMES:
                found.append(f"{module}: import of {what} has to be relative")
            elif not may_import(home, dots, what):
                found.append(f"{module} may not import {what}")
            elif module in families and any(
                f"{what}.".startswith(f"{other}.") for other in families - {module}
            ):
                found.append(f"{module}: a family may not import {what}, another family")
    return found


def test_imports_point_one_way():
    assert violations(ROOT) == []


FAMILY = "class Sort(Family):\n    name = 'Sort'\n"
ALLOWED = {
    "__init__.py": "async def comfy_entrypoint():\n    from .nodes import record\n",
    "nodes/record.py": "import nodes\nfrom ..conceptattention_core import maps\n"
    "from ..conceptattention_core.hosts.comfyui import patch\n",
    f"{CORE}/__init__.py": "",
    f"{CORE}/maps.py": "import torch\nfrom . import Error\n",
    f"{CORE}/cli.py": "from .hosts.diffusers import generate\n",
    f"{CORE}/hosts/comfyui/families/__init__.py": "from .flux import Sort\nfrom .sd3 import Sort\n",
    f"{CORE}/hosts/comfyui/patch.py": "import comfy.sd\nfrom ...maps import Maps\n",
    f"{CORE}/hosts/comfyui/families/flux.py": FAMILY,
    f"{CORE}/hosts/comfyui/families/sd3.py": FAMILY,
    f"{CORE}/hosts/diffusers/flux.py": "import diffusers\nfrom ... import maps\n",
}


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")


def test_the_allowed_imports_are_allowed(tmp_path):
    write(tmp_path, ALLOWED)
    assert violations(tmp_path) == []


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("__init__.py", "from .conceptattention_core import maps"),
        ("nodes/record.py", "import conceptattention_core"),
        ("nodes/record.py", "from ..conceptattention_core.hosts import diffusers"),
        ("nodes/record.py", "from ..conceptattention_core import cli"),
        ("nodes/record.py", "from ..demo import scenes"),
        ("nodes/record.py", "from ...other_pack import thing"),
        (f"{CORE}/maps.py", "import comfy.model_management"),
        (f"{CORE}/maps.py", "def late():\n    import folder_paths"),
        (f"{CORE}/maps.py", "from diffusers import FluxPipeline"),
        (f"{CORE}/maps.py", "from .hosts.comfyui.patch import record"),
        (f"{CORE}/maps.py", "from .hosts import diffusers"),
        (f"{CORE}/maps.py", "from ..nodes import wires"),
        (f"{CORE}/hosts/__init__.py", "from . import comfyui"),
        (f"{CORE}/hosts/comfyui/patch.py", "from ....nodes import wires"),
        (f"{CORE}/hosts/comfyui/patch.py", "from ..diffusers import patch"),
        (f"{CORE}/hosts/comfyui/patch.py", "import diffusers"),
        (f"{CORE}/hosts/comfyui/families/flux.py", f"from .sd3 import Sort\n{FAMILY}"),
        (f"{CORE}/hosts/comfyui/families/flux.py", f"from . import sd3\n{FAMILY}"),
        (f"{CORE}/hosts/diffusers/flux.py", "import comfy.ldm.flux"),
    ],
)
def test_a_wrong_import_is_found(tmp_path, file, line):
    write(tmp_path, {**ALLOWED, file: line})
    (found,) = violations(tmp_path)
    assert found.startswith(dotted(Path(file)))


def test_every_host_has_families_that_the_rule_can_see():
    families = [name for name, tree in modules(ROOT).items() if is_family(tree)]
    assert sum(name.startswith(f"{COMFYUI}.") for name in families) > 20
    assert sum(name.startswith(f"{DIFFUSERS}.") for name in families) > 5


def test_requirements_and_pyproject_agree():
    asked = re.search(
        r"^dependencies = \[(.*?)\]", (ROOT / "pyproject.toml").read_text(), re.MULTILINE | re.S
    )
    assert asked
    lines = (ROOT / "requirements.txt").read_text().split()
    assert re.findall(r'"(.+?)"', asked[1]) == lines


def test_every_check_runs_the_same_versions_of_its_tools():
    pinned = re.findall(
        r'"(ruff|pyright)(?:\[\w+\])?==([\d.]+)"', (ROOT / "pyproject.toml").read_text("utf-8")
    )
    hooks = (ROOT / ".pre-commit-config.yaml").read_text("utf-8")
    found = re.findall(r"/(ruff|pyright)-(?:pre-commit|python)\n\s+rev: v([\d.]+)\n", hooks)
    assert sorted(found) == sorted(pinned)
    assert [name for name, _ in sorted(pinned)] == ["pyright", "ruff"]


def test_releases_wait_for_the_tests():
    flow = (ROOT / ".github" / "workflows" / "publish.yml").read_text("utf-8")
    assert "uses: ./.github/workflows/test.yml" in flow
    registry = flow[flow.index("  registry:") :]
    assert re.search(r"^    needs: \[test, version\]$", registry, re.MULTILINE)


def test_the_changelog_has_the_form_of_keep_a_changelog():
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    versions = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert versions[0] == "[Unreleased]"
    form = re.compile(r"\[\d+\.\d+\.\d+\]( - \d{4}-\d{2}-\d{2})?")
    assert [name for name in versions[1:] if not form.fullmatch(name)] == []
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert set(re.findall(r"^### (.+)$", text, re.MULTILINE)) <= kinds


def test_the_registry_gets_what_it_asks_for():
    """What https://docs.comfy.org/registry/specifications demands of pyproject.toml."""
    tomllib = pytest.importorskip("tomllib")
    whole = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project, comfy = whole["project"], whole["tool"]["comfy"]
    assert re.fullmatch(r"[a-z][a-z0-9._-]{0,99}", project["name"])
    assert "comfy" not in project["name"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", project["version"])
    assert f"\n## [{project['version']}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert project["description"] and (ROOT / project["readme"]).exists()
    assert project["license"] == "Apache-2.0" and (ROOT / "LICENSE").exists()
    assert re.fullmatch(r"[a-z0-9][a-z0-9-]*", comfy["PublisherId"])
    assert comfy["DisplayName"]
    for name in ("Icon", "Banner"):  # empty as long as nobody hosts them
        assert re.fullmatch(r"(https://\S+\.(png|jpg|svg|gif))?", comfy[name])
    oldest = re.fullmatch(r">=(\d+\.\d+\.\d+)", comfy["requires-comfyui"])
    assert oldest
    assert f"ComfyUI {oldest[1]} or newer" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_registrys_pictures_have_its_sizes():
    image = pytest.importorskip("PIL.Image")
    with image.open(ROOT / "docs" / "images" / "icon.png") as icon:
        assert icon.width == icon.height <= 400
    with image.open(ROOT / "docs" / "images" / "banner.png") as banner:
        assert banner.width / banner.height == pytest.approx(21 / 9)


def test_nothing_that_the_registry_refuses():
    """No exec, no eval, no two statements in a line: the rules of `comfy node validate`."""
    beside = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    ruff = shutil.which("ruff", path=beside)
    if not ruff:
        pytest.skip("no ruff here")
    rules = ["check", "--isolated", "--no-cache", "--select", "S102,S307,E702"]
    told = subprocess.run([ruff, *rules, ROOT], capture_output=True, text=True)
    assert told.returncode == 0, told.stdout


HOME_FOLDERS = re.compile(rb"(?<![\w.~/-])/(?:root|work|home/\w+|Users/\w+)/|\b[A-Z]:\\Users\\\w")


def test_no_file_names_a_folder_of_the_machine_it_was_written_on():
    git = shutil.which("git")
    if not git or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listing = [git, "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.check_output(listing, cwd=ROOT, text=True).split("\0")
    files = [ROOT / name for name in names if name and (ROOT / name).is_file()]
    assert [file.name for file in files if HOME_FOLDERS.search(file.read_bytes())] == []


def test_folders_of_a_machine_are_recognised():
    slash = "/"
    for path in ("root/x", "work/x", "home/ann/x", "Users/ann/x"):
        assert HOME_FOLDERS.search(f'open("{slash}{path}")'.encode())
    for text in ("https://example.org/home/ann/x", "/workflows/x.json", "~/work/x", "/homework/"):
        assert not HOME_FOLDERS.search(text.encode())
