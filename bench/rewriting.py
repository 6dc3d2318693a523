"""Prompts of other people made small, on tiny models, and with concepts recorded."""

import copy
from typing import Any

from .graphs import Known, Prompt, inputs_of, is_link

LOADERS: dict[str, tuple[int, ...]] = {
    "CheckpointLoaderSimple": (0, 1, 2),
    "CheckpointLoader": (0, 1, 2),
    "UNETLoader": (0,),
    "CLIPLoader": (1,),
    "DualCLIPLoader": (1,),
    "TripleCLIPLoader": (1,),
    "QuadrupleCLIPLoader": (1,),
    "VAELoader": (2,),
}
"""Which output of a tiny model (MODEL, CLIP, VAE) stands for each of a loader's."""

FAMILIES = {
    "qwen": "Qwen-Image",
    "radiance": "PixelDiT",  # both sample pixels
    "chroma": "Chroma",
    "sd3": "SD3",
    "hunyuan": "Hunyuan Video and Image",
    "wan": "Hunyuan Video and Image",  # both sample videos of 16 channels
    "flux2": "Flux.2",
    "flux-2": "Flux.2",
    "auraflow": "AuraFlow",
    "z_image": "Z-Image",
    "lumina": "Lumina 2",
    "mochi": "Mochi",
    "cogvideo": "CogVideoX",
    "hidream": "HiDream",
    "longcat": "LongCat and Ovis",
    "ovis": "LongCat and Ovis",
    "mage": "Mage-Flow",
    "joyai": "JoyImage",
    "lens": "Lens",
    "omnigen2": "OmniGen2",
    "boogu": "Boogu",
    "ideogram": "Ideogram 4",
    "ernie": "ERNIE-Image",
    "krea2": "Krea 2",
    "pixeldit": "PixelDiT",
}
"""The tiny model that a word in a model file's name asks for; the demo model for all others."""

WORDS = "balloon, sky, water"
SIDE, BATCH, STEPS, FRAMES, MEGAPIXELS = 128, 2, 3, 5, 0.02
LIMITS = {"width": SIDE, "height": SIDE, "batch_size": BATCH, "steps": STEPS, "length": FRAMES}
PICTURE = "example.png"
PACK = "ConceptAttention"
DEMO = "ConceptAttentionDemoModel"


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def with_tiny_models(prompt: Prompt) -> Prompt:
    """The same prompt without its loaders: all that they load comes from tiny models."""
    result = copy.deepcopy(prompt)
    loaders = {name: one for name, one in prompt.items() if one["class_type"] in LOADERS}
    told = [family(one) for one in loaders.values() if 0 in LOADERS[one["class_type"]]]
    whole = next((name for name in told if name), None)
    sources = {}
    for name, one in loaders.items():
        sources[name] = stand_in = f"tiny {family(one) or whole or 'Flux.1'}"
        chosen = family(one) or whole
        result[stand_in] = node("BenchTinyModel", family=chosen) if chosen else node(DEMO)
        del result[name]
    for one in result.values():
        for name, value in one["inputs"].items():
            if is_link(value) and value[0] in sources:
                slots = LOADERS[prompt[value[0]]["class_type"]]
                one["inputs"][name] = [sources[value[0]], slots[min(value[1], len(slots) - 1)]]
            elif one["class_type"] in ("LoadImage", "LoadImageMask") and name == "image":
                one["inputs"][name] = PICTURE
            elif one["class_type"] == f"{PACK}Gate" and name == "coverage":
                one["inputs"][name] = 0.0  # in few steps no word shows
    return result


def family(loader: dict[str, Any]) -> str | None:
    """The tiny family that a model loader's file name asks for."""
    if 0 not in LOADERS[loader["class_type"]]:
        return None
    names = " ".join(str(value).lower() for value in loader["inputs"].values())
    return next((name for word, name in FAMILIES.items() if word in names), None)


def made_small(prompt: Prompt, known: Known) -> Prompt:
    """Small pictures, few of them, few steps."""
    result = copy.deepcopy(prompt)
    for one in result.values():
        inputs = one["inputs"]
        before = inputs.get("steps")
        for name in LIMITS.keys() & inputs.keys():
            limit(result, known, one, name, LIMITS[name])
        if isinstance(before, int) and before > STEPS:
            for name in ("start_at_step", "end_at_step"):
                if isinstance(inputs.get(name), int):
                    inputs[name] = round(inputs[name] * STEPS / before)
        if isinstance(inputs.get("megapixels"), float):
            inputs["megapixels"] = min(inputs["megapixels"], MEGAPIXELS)
    return result


def limit(prompt: Prompt, known: Known, one: dict[str, Any], name: str, most: int) -> None:
    """Make a number small, where it is or where it comes from, and not below its least value."""
    least = inputs_of(known[one["class_type"]]).get(name, (None, {}))[1].get("min", 0)
    inputs, value = one["inputs"], one["inputs"][name]
    if is_link(value) and value[0] in prompt:
        inputs, name = prompt[value[0]]["inputs"], "value"
        value = inputs.get("value")
    if isinstance(value, int) and not isinstance(value, bool):
        inputs[name] = min(value, max(most, least))


# --- links ----------------------------------------------------------------------------------------


def links_of(one: dict[str, Any]) -> dict[str, list[Any]]:
    return {name: value for name, value in one["inputs"].items() if is_link(value)}


def type_of(prompt: Prompt, known: Known, link: list[Any]) -> str | None:
    outputs = known[prompt[link[0]]["class_type"]]["output"] if link[0] in prompt else []
    kind = outputs[link[1]] if link[1] < len(outputs) else None
    return kind if isinstance(kind, str) else None


def dependents(prompt: Prompt, start: set[str]) -> set[str]:
    """These nodes and all that need what they give."""
    found, grown = set(start), True
    while grown:
        more = {
            name
            for name, one in prompt.items()
            if name not in found and any(link[0] in found for link in links_of(one).values())
        }
        found |= more
        grown = bool(more)
    return found


def ancestors(prompt: Prompt, start: str) -> list[str]:
    """All nodes that a node needs, nearest first."""
    found = [start]
    for name in found:
        for link in links_of(prompt[name]).values() if name in prompt else ():
            if link[0] not in found and link[0] in prompt:
                found.append(link[0])
    return found[1:]


def without_pack(prompt: Prompt) -> Prompt:
    """The prompt without the pack's nodes and without what needs their maps."""
    records = {n for n, one in prompt.items() if one["class_type"] == f"{PACK}Record"}
    result = copy.deepcopy(prompt)
    for one in result.values():
        for name, link in links_of(one).items():
            while link[0] in records and is_link(prompt[link[0]]["inputs"].get("model")):
                link = prompt[link[0]]["inputs"]["model"]
            one["inputs"][name] = link
    ours = {
        name
        for name, one in prompt.items()
        if one["class_type"].startswith(PACK) and one["class_type"] != DEMO
    }
    gone = dependents(result, ours)
    return {name: one for name, one in result.items() if name not in gone}


# --- recording ------------------------------------------------------------------------------------


def samplers(prompt: Prompt, known: Known) -> list[str]:
    """The nodes that make a latent of a MODEL or a GUIDER."""
    infos = {name: known[one["class_type"]] for name, one in prompt.items()}
    return [
        name
        for name, info in infos.items()
        if "LATENT" in info["output"]
        and any(kind in ("MODEL", "GUIDER") for kind, _ in inputs_of(info).values())
    ]


def recorded(prompt: Prompt, known: Known) -> Prompt:
    """Record Concepts before every MODEL that is sampled and was not recorded yet."""
    result = copy.deepcopy(prompt)
    for name, one in prompt.items():
        info = known[one["class_type"]]
        if not {"LATENT", "GUIDER"} & {kind for kind in info["output"] if isinstance(kind, str)}:
            continue
        for slot, (kind, _) in inputs_of(info).items():
            link = one["inputs"].get(slot)
            if kind != "MODEL" or not is_link(link) or is_recorded(prompt, known, link):
                continue
            if (clip := find_clip(prompt, known, name)) is not None:
                record = f"record {link[0]}:{link[1]} {clip[0]}:{clip[1]}"
                result[record] = with_defaults(
                    known, f"{PACK}Record", model=link, clip=clip, concepts=WORDS
                )
                result[name]["inputs"][slot] = [record, 0]
    return result


def is_recorded(prompt: Prompt, known: Known, link: list[Any]) -> bool:
    """Whether a MODEL went through the graph's own Record Concepts."""
    seen = []
    while link[0] in prompt and link not in seen:
        seen.append(link)
        one = prompt[link[0]]
        if one["class_type"] == f"{PACK}Record":
            return True
        models = [v for v in links_of(one).values() if type_of(prompt, known, v) == "MODEL"]
        if not models:
            return False
        link = models[0]
    return False


def find_clip(prompt: Prompt, known: Known, sampler: str) -> list[Any] | None:
    """The CLIP that read the prompt of a sampler, else any."""
    for name in [*ancestors(prompt, sampler), *prompt]:
        for link in links_of(prompt[name]).values():
            if type_of(prompt, known, link) == "CLIP":
                return link
    return None


def with_defaults(known: Known, kind: str, **inputs: Any) -> dict[str, Any]:
    """A node whose other widgets are at their defaults."""
    values = {}
    for name, (what, options) in inputs_of(known[kind]).items():
        if "default" in options:
            values[name] = options["default"]
        elif isinstance(what, list):
            values[name] = what[0]
        elif what == "COMBO":
            values[name] = options["options"][0]
    return node(kind, **{**values, **inputs})


def latents(prompt: Prompt, known: Known) -> list[list[Any]]:
    """The latents whose pictures should have maps: the samplers', and those decoded that were made
    of them by cutting, batching and the like."""
    made = samplers(prompt, known)
    found = [
        [name, slot]
        for name in made
        for slot, kind in enumerate(known[prompt[name]["class_type"]]["output"])
        if kind == "LATENT"
    ]
    for one in prompt.values():
        link = one["inputs"].get("samples")
        if is_link(link) and {"VAE", "IMAGE"} <= types(known, one) and link not in found:
            before = {link[0], *ancestors(prompt, link[0])} if link[0] in prompt else set()
            if before & set(made):
                found.append(link)
    return found


def types(known: Known, one: dict[str, Any]) -> set[Any]:
    """All types that a node takes or gives."""
    info = known[one["class_type"]]
    kinds = [*info["output"], *(kind for kind, _ in inputs_of(info).values())]
    return {kind for kind in kinds if isinstance(kind, str)}


def kept(prompt: Prompt, known: Known) -> Prompt:
    """Nodes that tell the bits of every sampler's latents and of all pictures that are shown."""
    links = latents(prompt, known)
    for one in prompt.values():
        if known[one["class_type"]].get("output_node"):
            for link in links_of(one).values():
                if type_of(prompt, known, link) in ("IMAGE", "LATENT") and link not in links:
                    links.append(link)
    return {f"keep {link[0]}:{link[1]}": node("BenchKeep", value=link) for link in links}


def maps_of(known: Known, latent: list[Any]) -> Prompt:
    """Concept Maps and Concept Scores after a latent, and their figures as text."""
    return {
        "bench maps": with_defaults(known, f"{PACK}Maps", latent=latent),
        "bench scores": node(f"{PACK}Scores", maps=["bench maps", 0]),
        "bench figures": node("BenchKeep", value=["bench scores", 1]),
    }
