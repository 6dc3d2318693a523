"""Try ConceptAttention without installing anything by hand.

    python run.py demo      paint a picture with the small model in demo/, show where its words are
    python run.py check     look for faults without running anything: ruff, pyright, mkdocs
    python run.py test      run every test, also inside each ComfyUI found on this machine

The first start fills an environment of its own, .venv beside this file; later starts reuse it.
Nothing outside this folder changes.

demo takes --prompt TEXT, --concepts "CAT, SKY", --out FOLDER and whatever else
`python -m conceptattention_core generate --help` lists.

test takes pytest's options and paths: python run.py test -k otsu tests/core
Without options, tests run in lanes side by side, one for each processor, up to four.
It looks for ComfyUI in COMFYUI_PATH (one folder or several), around this folder, and in
~/comfy/ComfyUI and ~/ComfyUI; COMFYUI_PYTHON names the Python that starts it. One that
COMFYUI_PATH names has to run tests: otherwise the whole run fails.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

# Stands before everything that older versions stumble over, so that they can still say it.
if sys.version_info < (3, 10):  # noqa: UP036
    sys.exit(f"ConceptAttention needs Python 3.10 or newer; this is {sys.version.split()[0]}.")

ROOT = Path(__file__).absolute().parent
VENV = ROOT / ".venv"
TESTS = ROOT / "tests"
INSIDE_COMFYUI = [TESTS / name for name in ("hosts/comfyui", "nodes", "workflows", "browser")]
CONSTRAINTS = TESTS / "constraints.txt"

DEMO = {
    "--model": str(ROOT / "demo" / "model"),
    "--prompt": "a red hot-air balloon over a lake, sun, mountains, clouds, day sky",
    "--concepts": "balloon, sun, sky, mountains, clouds, water",
    "--seed": "3",
    "--out": str(Path("out") / "demo"),
}

TEST_TOOLS = ["pytest", "pytest-xdist", "hypothesis"]
MOST_LANES = 4  # each starts a ComfyUI of its own, and a browser
EXTRAS = {"demo": "", "check": "[dev,docs]", "test": "[test,cluster]"}
NEWEST_PAGE = "comfyui-frontend-package==1.58.1"
BROWSERS = ["chromium", "chromium-browser", "google-chrome", "chrome"]


class SetupError(Exception):
    """A step could not be done; its text is the sentence the user reads."""


# --- demo -----------------------------------------------------------------------------------------


def demo(arguments: list[str]) -> int:
    python = environment("demo")
    defaults = [word for option in DEMO.items() for word in option]
    if not any(word.split("=")[0] == "--out" for word in arguments):
        defaults.append("--overwrite")  # our own folder, made anew at each start
    # Given twice, an option counts the second time: what the user says wins over the defaults.
    command = [python, "-m", "conceptattention_core", "generate", *defaults, *arguments]
    code = subprocess.call(command)
    if code:
        return code
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--out", type=Path, default=DEMO["--out"])
    out = parser.parse_known_args(arguments)[0].out.resolve()
    for overlay in sorted(out.glob("*overlay*")):
        say(f"Look at {overlay}: the picture with every concept marked.")
    say(f"All files are in {out}")
    return 0


# --- check ----------------------------------------------------------------------------------------


def check(arguments: list[str]) -> int:
    if arguments:
        raise SetupError(f"check takes no options; it got {' '.join(arguments)}.")
    python = environment("check")
    tools = [
        ["ruff", "check", "."],
        ["ruff", "format", "--check", "."],
        ["pyright", "--pythonpath", python],
        ["mkdocs", "build", "--strict", "--quiet", "--site-dir", str(VENV / "site")],
    ]
    failed = False
    for tool in tools:
        say(f"\n{tool[0]} {tool[1].replace('--pythonpath', '')}".rstrip())
        failed |= subprocess.call([python, "-m", *tool], cwd=ROOT) != 0
    return int(failed)


# --- test -----------------------------------------------------------------------------------------


class Part(NamedTuple):
    """One run of pytest."""

    name: str
    outcome: str
    passed: bool


class Selection(NamedTuple):
    """What the user asked pytest for, sorted by the Python that has to run it."""

    options: list[str]
    plain: list[str]
    comfyui: list[str]


def test(arguments: list[str]) -> int:
    selection = select(arguments)
    comfyuis = find_comfyuis()
    python = environment("test")
    parts = []
    if selection.plain:
        command = [python, "-m", "pytest", *(f"--ignore={path}" for path in INSIDE_COMFYUI)]
        plain = run_pytest(
            "without ComfyUI", command, selection.plain, selection.options, **browser()
        )
        parts.append(plain)
    if selection.comfyui:
        for comfyui in comfyuis:
            parts.append(test_inside(comfyui, python, selection))
        if not comfyuis:
            advice = "none found; set COMFYUI_PATH to a ComfyUI folder to run its tests"
            parts.append(Part("inside ComfyUI", f"skipped: {advice}", True))

    say("\nSummary")
    width = max(len(part.name) for part in parts)
    for part in parts:
        say(f"  {part.name:{width}}  {part.outcome}")
    return 0 if all(part.passed for part in parts) else 1


def select(arguments: list[str]) -> Selection:
    options, plain, comfyui = [], [], []
    for argument in arguments:
        path = Path(argument.split("::")[0]).absolute()
        if argument.startswith("-") or not path.exists() or not path.is_relative_to(TESTS):
            options.append(argument)
            continue
        node = str(path) + argument[len(argument.split("::")[0]) :]
        if any(path.is_relative_to(folder) for folder in INSIDE_COMFYUI):
            comfyui.append(node)
        else:
            plain.append(node)
            comfyui += [str(folder) for folder in INSIDE_COMFYUI if folder.is_relative_to(path)]
    if plain or comfyui:
        return Selection(options, plain, comfyui)
    return Selection(options, [str(TESTS)], list(map(str, INSIDE_COMFYUI)))


def run_pytest(
    name: str, command: list[str], paths: list[str], options: list[str], **env: str
) -> Part:
    report = VENV / "pytest-report.xml"
    report.unlink(missing_ok=True)
    say(f"\nTests {name}")
    start = time.monotonic()
    lanes = min(os.cpu_count() or 1, MOST_LANES)
    if lanes > 1 and not options:
        command = [*command, f"--numprocesses={lanes}", "--dist=worksteal"]
        env["OMP_NUM_THREADS"] = "1"  # toy models gain nothing by more, and lanes lose by it
    code = subprocess.call(
        [*command, f"--junitxml={report}", *options, *paths], cwd=ROOT, env={**os.environ, **env}
    )
    seconds = time.monotonic() - start
    # 5: nothing was selected, which is fine where the user's own options did the selecting.
    passed = code == 0 or (code == 5 and bool(options))
    if not report.exists():
        return Part(name, f"pytest stopped with exit code {code}  {seconds:.0f} s", passed)
    counts = dict.fromkeys(("tests", "failures", "errors", "skipped"), 0)
    for suite in ElementTree.parse(report).iter("testsuite"):
        for key in counts:
            counts[key] += int(suite.get(key, 0))
    failed = counts["failures"] + counts["errors"]
    done = counts["tests"] - failed - counts["skipped"]
    outcome = f"{done} passed, {failed} failed, {counts['skipped']} skipped  {seconds:.0f} s"
    # All of them skipped shows nothing; where the user's own options select, it may be meant.
    return Part(name, outcome, passed and (done > 0 or bool(options)))


# --- tests inside ComfyUI -------------------------------------------------------------------------

PROBE = """
import json, sys, importlib.util
import torch, aiohttp, yaml, einops
version = "%d.%d" % sys.version_info[:2]
has = {name: importlib.util.find_spec(name) is not None for name in ("cv2", "psd_tools")}
print(json.dumps({"version": version, **has}))
"""

# `python -m pytest` would put this repository on sys.path, where our nodes/ hides ComfyUI's
# nodes.py. The folders come as an argument because an embedded Python ignores PYTHONPATH.
PYTEST = """
import os, sys
folders = sys.argv.pop(1).split(os.pathsep)
sys.path[:] = folders + [path for path in sys.path if path]
import pytest
sys.exit(pytest.main(["-o", "pythonpath=", *sys.argv[1:]]))
"""


def asked_comfyuis() -> list[Path]:
    return [Path(path) for path in os.environ.get("COMFYUI_PATH", "").split(os.pathsep) if path]


def find_comfyuis() -> list[Path]:
    asked = asked_comfyuis()
    for path in asked:
        if not (path / "main.py").exists():
            raise SetupError(f"COMFYUI_PATH names {path}, which is no ComfyUI: it has no main.py.")
    usual = [Path.home() / "comfy" / "ComfyUI", Path.home() / "ComfyUI"]
    if ROOT.parent.name == "custom_nodes":
        usual.insert(0, ROOT.parent.parent)
    found = asked + [path for path in usual if (path / "main.py").exists()]
    return list(dict.fromkeys(path.resolve() for path in found))


def test_inside(comfyui: Path, python: str, selection: Selection) -> Part:
    version = re.search(r'"(.+)"', (comfyui / "comfyui_version.py").read_text(encoding="utf-8"))
    name = f"inside ComfyUI {version[1] if version else comfyui}"
    for candidate in comfyui_pythons(comfyui):
        probe = subprocess.run([candidate, "-c", PROBE], capture_output=True, text=True)
        if probe.returncode == 0:
            break
    else:
        advice = f"no Python with ComfyUI's requirements in {comfyui}; set COMFYUI_PYTHON to it"
        return Part(name, f"skipped: {advice}", comfyui not in map(Path.resolve, asked_comfyuis()))

    facts = json.loads(probe.stdout)
    folder = VENV / f"comfyui-tests-{facts['version']}"
    env = {"COMFYUI_PATH": str(comfyui)}
    add_beside(python, candidate, folder / "tools", TEST_TOOLS)
    folders = [folder / "tools"]
    # What a user gets from requirements.txt, and installs for layered files. Servers that tests
    # start need them too, hence PYTHONPATH.
    for module, package in (("cv2", "opencv-python-headless"), ("psd_tools", "psd-tools")):
        if not facts[module]:
            add_beside(python, candidate, folder / module, [package], "--no-deps")
            folders.append(folder / module)
    env["PYTHONPATH"] = os.pathsep.join([*map(str, folders[1:]), *given("PYTHONPATH")])
    env |= browser()
    if env.get("COMFYUI_BROWSER"):
        try:
            add_beside(python, candidate, folder / "playwright", ["playwright"])
            folders.append(folder / "playwright")
        except SetupError as failure:
            say(f"Tests in a browser are skipped: {failure}")
        try:
            add_beside(python, candidate, folder / "page", [NEWEST_PAGE], "--no-deps")
            env["COMFYUI_FRONTEND"] = str(folder / "page" / "comfyui_frontend_package" / "static")
        except SetupError as failure:
            say(f"Tests of the newest page are skipped: {failure}")
    command = [candidate, "-c", PYTEST, os.pathsep.join(map(str, folders))]
    return run_pytest(name, command, selection.comfyui, selection.options, **env)


def browser() -> dict[str, str]:
    """Where tests find a Chromium, if there is one."""
    found = next(filter(None, map(shutil.which, [*given("COMFYUI_BROWSER"), *BROWSERS])), None)
    return {"COMFYUI_BROWSER": found} if found else {}


def comfyui_pythons(comfyui: Path) -> list[str]:
    """Where a ComfyUI's Python may be: asked for, its environments, the Windows download, ours."""
    places = [executable(comfyui / ".venv"), executable(comfyui / "venv")]
    places.append(comfyui.parent / "python_embeded" / "python.exe")
    return [*given("COMFYUI_PYTHON"), *(str(p) for p in places if p.exists()), sys.executable]


def add_beside(python: str, other: str, folder: Path, packages: list[str], *options: str) -> None:
    """Install for another Python into a folder of ours: its own environment stays as it is."""
    stamp, wanted = folder / "installed.txt", "\n".join(packages)
    if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return
    pip = [python, "-m", "pip", "--python", other, "install", "--upgrade", "--target", str(folder)]
    step(f"Adding {' and '.join(packages)} to {folder}", [*pip, *options, *packages])
    stamp.write_text(wanted, encoding="utf-8")


# --- the environment ------------------------------------------------------------------------------

TORCH = re.compile(r"^torch==\S+", re.MULTILINE)

FIND_TORCH = """
import torch
assert tuple(int(part) for part in torch.__version__.split(".")[:2]) >= (2, 6)
torch.zeros(1)
print(torch.__version__, torch.__path__[0], sep="\\n")
"""


def environment(purpose: str) -> str:
    """The Python of .venv with all that `purpose` needs, which is installed when it is not."""
    python = str(executable(VENV))
    stamp = VENV / f"installed-{purpose}.txt"
    sources = [ROOT / "pyproject.toml", ROOT / "requirements.txt", CONSTRAINTS, Path(__file__)]
    wanted = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
    if Path(python).exists() and stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return python

    VENV.mkdir(exist_ok=True)
    step("Making the environment .venv", [sys.executable, "-m", "venv", str(VENV)])
    pip = [python, "-m", "pip"]
    step("Updating its pip", [*pip, "install", "--upgrade", "pip"])
    constraints = provide_torch(python, pip)
    install = [*pip, "install", "--constraint", str(constraints)]
    step(
        f"Installing what the {purpose} needs (a few minutes)",
        [*install, "--editable", f"{ROOT}{EXTRAS[purpose]}"],
    )
    if subprocess.run([python, "-c", "import cv2"], capture_output=True).returncode:
        # The usual OpenCV draws windows and needs libGL for that, which servers often lack.
        step("Replacing OpenCV", [*pip, "uninstall", "--yes", "opencv-python"])
        step("Installing OpenCV without windows", [*install, "opencv-python-headless"])
    stamp.write_text(wanted, encoding="utf-8")
    return python


def provide_torch(python: str, pip: list[str]) -> Path:
    """Get PyTorch with the smallest download possible; the constraints for all that follows."""
    pinned = CONSTRAINTS.read_text(encoding="utf-8")
    found = subprocess.run([sys.executable, "-c", FIND_TORCH], capture_output=True, text=True)
    version, package = found.stdout.splitlines() if found.returncode == 0 else ("", "")
    if package and not Path(package).is_relative_to(VENV):
        say(f"Using PyTorch {version} of {sys.executable}")
        where = "import sysconfig; print(sysconfig.get_path('purelib'))"
        packages = subprocess.check_output([python, "-c", where], text=True).strip()
        Path(packages, "borrowed.pth").write_text(str(Path(package).parent), encoding="utf-8")
        borrowed = VENV / "constraints.txt"
        borrowed.write_text(TORCH.sub(f"torch=={version}", pinned), encoding="utf-8")
        return borrowed

    if sys.platform == "linux" and not shutil.which("nvidia-smi"):
        # On Linux plain `torch` brings some gigabytes for NVIDIA cards; +cpu is the small build.
        try:
            small = TORCH.findall(pinned)[0] + "+cpu"
            step("Installing PyTorch for CPUs", [*pip, "install", small])
        except SetupError:
            say(
                "  pip knows no PyTorch for CPUs and will download the large one for NVIDIA cards."
                " To avoid that: stop, set PIP_EXTRA_INDEX_URL to the address that"
                " https://pytorch.org/get-started/locally shows for CPU, start again."
            )
    return CONSTRAINTS


def step(title: str, command: list[str]) -> None:
    """Run a command that may take minutes; show that it lives, keep its output for an error."""
    say(title)
    log = VENV / "install.log"
    start = time.monotonic()
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        while True:
            try:
                code = process.wait(timeout=15)
                break
            except subprocess.TimeoutExpired:
                say(f"  {time.monotonic() - start:.0f} s: {last_line(log)[:80]}")
    if code:
        raise SetupError(f"`{' '.join(command)}` failed: {last_line(log)} (all of it is in {log})")


def last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    lines = [line.strip() for line in lines if line.strip()]
    errors = [line for line in lines if line.startswith(("ERROR", "Error"))]
    return (errors or lines or ["no output"])[-1]


def executable(venv: Path) -> Path:
    return venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def given(variable: str) -> list[str]:
    return [os.environ[variable]] if os.environ.get(variable) else []


def say(text: str) -> None:
    print(text, flush=True)


def main(arguments: list[str]) -> int:
    commands = {"demo": demo, "check": check, "test": test}
    if not arguments or arguments[0] not in commands:
        print(__doc__)
        return 0 if arguments in ([], ["-h"], ["--help"]) else 2
    try:
        return commands[arguments[0]](arguments[1:])
    except SetupError as failure:
        print(f"run.py: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
