"""Other people's workflows, recorded: does each still run, with maps, and the same picture?

    COMFYUI_PATH=... python -m bench.workflows FOLDER [--out TABLE.md]

Runs in the Python of a ComfyUI. Every *.json below FOLDER, in API form or as the page saves it
(then COMFYUI_BROWSER names a Chromium, whose page translates it), is run at toy size: loaders of
models give small ones from ComfyUI's own classes, with random weights. Record Concepts is put
between each model and its sampler and Concept Maps behind each sampler. What cannot run is a row
with the reason. Exit code 1: a picture changed, or one that was recorded has no maps.
"""

import argparse
import copy
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.comfyui.graphs import maps, node, recorded
from tests.comfyui.server import ROOT, Prompt, PromptError, Server

STAND_INS = "bench_stand_ins"
LOADERS = {
    "CheckpointLoaderSimple": (0, 1, 2),
    "CheckpointLoader": (0, 1, 2),
    "UNETLoader": (0,),
    "UnetLoaderGGUF": (0,),
    "CLIPLoader": (1,),
    "CLIPLoaderGGUF": (1,),
    "DualCLIPLoader": (1,),
    "DualCLIPLoaderGGUF": (1,),
    "TripleCLIPLoader": (1,),
    "QuadrupleCLIPLoader": (1,),
    "VAELoader": (2,),
}
"""Which outputs of the stand-in, a model, a CLIP and a VAE, are theirs."""
FAMILIES = {
    r"flux[-_.]?2|klein": "Flux.2",
    r"longcat|ovis": "LongCat and Ovis",
    r"chroma": "Chroma",
    r"qwen": "Qwen-Image",
    r"sd3|stable.?diffusion.?3": "SD3",
    r"aura": "AuraFlow",
    r"hunyuan": "Hunyuan Video and Image",
    r"cogvideo": "CogVideoX",
    r"mochi": "Mochi",
    r"mage[-_]?flow": "Mage-Flow",
    r"joyimage": "JoyImage",
    r"(?<![a-z])lens": "Lens",
    r"z[-_]?image": "Z-Image",
    r"lumina": "Lumina 2",
    r"omnigen": "OmniGen2",
    r"boogu": "Boogu",
    r"ideogram": "Ideogram 4",
    r"ernie": "ERNIE-Image",
    r"krea[-_.]?2": "Krea 2",
    r"pixeldit": "PixelDiT",
    r"hidream": "HiDream",
    r"flux": "Flux.1",
}
"""What the name of a model's file tells of its family; the first that fits."""
USUAL = "Flux.1"
LARGEST = {"width": 128, "height": 128, "steps": 2, "length": 9, "batch_size": 2}
RECORD, MAPS, LOCATE = "ConceptAttentionRecord", "ConceptAttentionMaps", "ConceptAttentionLocate"
DEMO = "ConceptAttentionDemoModel"
OK = "ok"


@dataclass(frozen=True)
class Outcome:
    """One workflow. `baseline`, `recorded` and `maps` are "ok" or the reason why not."""

    file: str
    family: str = ""
    baseline: str = "not run"
    recorded: str = "not run"
    maps: str = "not run"
    pictures: int = 0
    bits: int | None = None
    """How many bits of all sampled latents recording changed; None where one run is missing."""

    @property
    def harmed(self) -> bool:
        """Whether the pack is to blame: it ran without us, and with us it lost something."""
        return self.baseline == OK and (self.bits != 0 or self.maps != OK)


class CannotRunError(Exception):
    """Why a workflow is not for this harness; its text is the reason."""


# --- graphs ---------------------------------------------------------------------------------------


def links(one: dict[str, Any]) -> dict[str, list[Any]]:
    """The inputs of a node that come from another node."""
    return {
        name: value
        for name, value in one["inputs"].items()
        if isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)
    }


def family_of(prompt: Prompt) -> str:
    """The family that the loaders' files belong to, the usual one where none tells."""
    loaders = [one for one in prompt.values() if one["class_type"] in LOADERS]
    loaders.sort(key=lambda one: LOADERS[one["class_type"]])  # names of models tell most
    for one in loaders:
        names = " ".join(str(value) for value in one["inputs"].values()).lower()
        for pattern, family in FAMILIES.items():
            if re.search(pattern, names):
                return family
    return USUAL


def at_toy_size(prompt: Prompt) -> Prompt:
    """The graph with small models, small pictures and few steps; all else stays."""
    small = copy.deepcopy(prompt)
    replaced = {
        name: LOADERS[one["class_type"]]
        for name, one in prompt.items()
        if one["class_type"] in LOADERS
    }
    for name in replaced:
        del small[name]
    for one in small.values():
        for key, value in one["inputs"].items():
            if key in LARGEST and type(value) is int:
                one["inputs"][key] = min(value, LARGEST[key])
        for key, (source, slot) in links(one).items():
            if source in replaced:
                one["inputs"][key] = ["models", replaced[source][slot]]
        if one["class_type"] == "LoadImage":
            one["inputs"]["image"] = "example.png"
        elif one["class_type"] == "ConceptAttentionGate":
            one["inputs"]["coverage"] = 0.0  # a few steps show little
    if replaced:
        small["models"] = node("BenchTinyModels", family=family_of(prompt))
    return small


def samplers_of(prompt: Prompt, known: dict[str, Any]) -> dict[str, int]:
    """Nodes that make a latent with a model or a guider, and which output the latent is."""
    found = {}
    for name, one in prompt.items():
        info = known[one["class_type"]]
        inputs = {**info["input"].get("required", {}), **info["input"].get("optional", {})}
        kinds = {spec[0] for key, spec in inputs.items() if key in links(one)}
        if kinds & {"MODEL", "GUIDER"} and "LATENT" in info["output"]:
            found[name] = info["output"].index("LATENT")
    return found


def before(prompt: Prompt, name: str) -> set[str]:
    """A node and all that it is made from."""
    found, waiting = set(), [name]
    while waiting:
        if (one := waiting.pop()) not in found and one in prompt:
            found.add(one)
            waiting += [source for source, _ in links(prompt[one]).values()]
    return found


def unrecorded(prompt: Prompt) -> Prompt:
    """The graph with its nodes Record Concepts left out of the way of their models."""
    plain = copy.deepcopy(prompt)
    for one in plain.values():
        for key in links(one):
            while prompt.get(one["inputs"][key][0], {}).get("class_type") == RECORD:
                one["inputs"][key] = prompt[one["inputs"][key][0]]["inputs"]["model"]
    return {name: one for name, one in plain.items() if one["class_type"] != RECORD}


def with_record(prompt: Prompt, samplers: dict[str, int]) -> Prompt:
    """The graph with Record Concepts between each sampler, or its guider, and the model."""
    changed = copy.deepcopy(prompt)
    clips = [one["inputs"]["clip"] for one in prompt.values() if "clip" in links(one)]
    if not clips:
        raise CannotRunError("no CLIP in this graph reads words")
    takers = {source for name in samplers for source in before(prompt, name)} & {
        name
        for name, one in prompt.items()
        if name in samplers or any(key in one["inputs"] for key in ("cfg", "conditioning"))
    }
    for name in takers:
        for key, link in links(prompt[name]).items():
            kind = prompt.get(link[0], {}).get("class_type")
            if key.startswith("model") and kind != RECORD:
                place = f"record {link[0]} {link[1]}"
                changed[place] = recorded()
                changed[place]["inputs"] |= {"model": link, "clip": clips[0]}
                changed[name]["inputs"][key] = [place, 0]
    return changed


# --- runs -----------------------------------------------------------------------------------------


@contextmanager
def serving(comfyui: Path) -> Iterator[Server]:
    """A ComfyUI with this pack and the stand-ins, in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder, "base")
        pack = base / "custom_nodes" / STAND_INS
        pack.mkdir(parents=True)
        # Appended: before ComfyUI's own folder our nodes/ would hide its nodes.py.
        pack.joinpath("__init__.py").write_text(
            f"import sys\n\nsys.path.append({str(ROOT)!r})\nimport tests.conftest\n"
            "from bench.stand_ins import NODE_CLASS_MAPPINGS\n"
        )
        server = Server(comfyui, base, STAND_INS)
        try:
            down, right = np.mgrid[0:128, 0:128].astype(np.uint8)
            server.upload(np.stack([right, down, 255 - down], axis=-1), "example.png")
            yield server
        finally:
            server.stop()


def run(server: Server, prompt: Prompt) -> tuple[str, Any]:
    """ "ok" and the result, or the reason in one line and None."""
    try:
        return OK, server.queue(prompt)
    except PromptError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return next((line for line in lines if line.startswith("node ")), lines[0])[:200], None


def changed_bits(one: np.ndarray, other: np.ndarray) -> int:
    """In how many bits two latents differ; all of the larger where sizes differ."""
    if one.shape != other.shape:
        return 8 * max(one.nbytes, other.nbytes)
    return int(np.unpackbits(one.view(np.uint8) ^ other.view(np.uint8)).sum())


def kept(graph: Prompt, samplers: dict[str, int], prefix: str) -> Prompt:
    """What samplers need, and their latents kept, nothing else."""
    needed = {name for sampler in samplers for name in before(graph, sampler)}
    keeping = {
        f"keep {sampler}": node("BenchKeepLatent", samples=[sampler, slot], name=f"{prefix}{at}")
        for at, (sampler, slot) in enumerate(samplers.items())
    }
    return {**{name: graph[name] for name in graph if name in needed}, **keeping}


def latents(server: Server, result: Any, samplers: dict[str, int]) -> list[np.ndarray]:
    names = [result.outputs[f"keep {sampler}"]["latent"][0] for sampler in samplers]
    return [np.load(server.folder / "output" / name) for name in names]


def try_prompt(server: Server, known: dict[str, Any], file: str, prompt: Prompt) -> Outcome:
    """One workflow in API form: as it is, recorded, and with maps."""
    missing = sorted({one["class_type"] for one in prompt.values()} - {*known, *LOADERS})
    if missing:
        raise CannotRunError(f"nodes that are not here: {', '.join(missing)}")
    graph = at_toy_size(prompt)
    family = family_of(prompt) if "models" in graph else "demo"
    if (
        family != "demo"
        and family not in known["BenchTinyModels"]["input"]["required"]["family"][0]
    ):
        raise CannotRunError(f"this ComfyUI has no {family}")
    plain = unrecorded(graph)
    # A sampler that builds on masks of an earlier one has no run without them.
    samplers = {
        name: slot
        for name, slot in samplers_of(plain, known).items()
        if not any(plain[one]["class_type"] in (MAPS, LOCATE) for one in before(plain, name))
    }
    if not samplers:
        raise CannotRunError("no node samples with a MODEL")
    baseline, first = run(server, kept(plain, samplers, "plain"))
    if first is None:
        return Outcome(file, family, baseline)
    graph = with_record(graph, samplers)
    recording, second = run(server, kept(graph, samplers, "recorded"))
    if second is None:
        return Outcome(file, family, OK, recording)
    pairs = zip(latents(server, first, samplers), latents(server, second, samplers), strict=True)
    bits = sum(changed_bits(one, other) for one, other in pairs)
    pictures = [second.outputs[f"keep {sampler}"]["pictures"][0] for sampler in samplers]
    read = kept(graph, samplers, "recorded")
    for sampler, slot in samplers.items():
        read[f"maps {sampler}"] = maps([sampler, slot])
        read[f"count {sampler}"] = node("BenchCountMaps", maps=[f"maps {sampler}", 0])
    mapped, third = run(server, read)
    if third is not None:
        counts = [third.outputs[f"count {sampler}"]["pictures"][0] for sampler in samplers]
        if sum(counts) < sum(pictures):
            mapped = f"{sum(counts)} of {sum(pictures)} pictures"
    return Outcome(file, family, OK, recording, mapped, sum(pictures), bits)


def try_file(server: Server, known: dict[str, Any], file: Path, page: Any = None) -> Outcome:
    """A workflow file; whatever is wrong with it becomes the reason in its outcome."""
    try:
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CannotRunError(f"no JSON: {error}") from error
        if isinstance(found, dict) and isinstance(found.get("nodes"), list):
            found = translate(page, found)
        nodes = found.values() if isinstance(found, dict) else ()
        fine = [isinstance(one, dict) and {"class_type", "inputs"} <= {*one} for one in nodes]
        if not fine or not all(fine):
            raise CannotRunError("no workflow")
        return try_prompt(server, known, file.name, found)
    except CannotRunError as reason:
        return Outcome(file.name, baseline=str(reason))


def translate(page: Any, workflow: dict[str, Any]) -> Prompt:
    """What ComfyUI's page makes of a workflow when Run is pressed."""
    if page is None:
        raise CannotRunError("saved by the page; COMFYUI_BROWSER names a Chromium to translate it")
    try:
        page.evaluate("workflow => app.loadGraphData(workflow)", workflow)
        prompt = page.evaluate("app.graphToPrompt().then(prompt => prompt.output)")
    except Exception as error:  # playwright's own, which is not always installed
        lines = str(error).splitlines() or [type(error).__name__]
        raise CannotRunError(f"the page cannot translate it: {lines[0][:120]}") from error
    known = {name: one for name, one in prompt.items() if one.get("class_type")}
    if len(known) < len(prompt):
        raise CannotRunError("nodes that are not here")
    return known


@contextmanager
def translating(server: Server) -> Iterator[Any]:
    """ComfyUI's page in COMFYUI_BROWSER, or None where there is none."""
    chromium = os.environ.get("COMFYUI_BROWSER")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        chromium = None
    if not chromium:
        yield None
        return
    from tests.comfyui.browser import opened

    with sync_playwright() as engine:
        browser = engine.chromium.launch(
            executable_path=chromium, args=["--headless", "--no-sandbox", "--disable-gpu"]
        )
        with opened(server, browser) as page:
            yield page
        browser.close()


def table(outcomes: list[Outcome]) -> str:
    """The outcomes as Markdown, with a line of totals."""
    lines = [
        "| workflow | model | baseline | recorded | maps for all pictures | bits changed |",
        "|---|---|---|---|---|---|",
    ]
    for one in outcomes:
        bits = "" if one.bits is None else str(one.bits)
        cells = (one.file, one.family, one.baseline, one.recorded, one.maps, bits)
        lines.append("| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |")
    ran = [one for one in outcomes if one.baseline == OK]
    whole = sum(one.maps == OK for one in ran)
    changed = sum(bool(one.bits) for one in ran)
    lines += ["", f"{len(ran)} of {len(outcomes)} run; {whole} give all maps; {changed} changed."]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the workflows lie")
    parser.add_argument("--out", type=Path, help="also write the table to this file")
    asked = parser.parse_args()
    comfyui = Path(os.environ.get("COMFYUI_PATH") or sys.exit("Set COMFYUI_PATH."))
    files = sorted(asked.folder.rglob("*.json")) or sys.exit(f"No *.json below {asked.folder}.")
    outcomes = []
    with serving(comfyui) as server, translating(server) as page:
        known = server.object_info()
        for file in files:
            outcomes.append(try_file(server, known, file, page))
            print(table(outcomes[-1:]).splitlines()[2], flush=True)
    print("\n" + table(outcomes))
    if asked.out:
        asked.out.write_text(table(outcomes), encoding="utf-8")
    sys.exit(any(one.harmed for one in outcomes))


if __name__ == "__main__":
    main()
