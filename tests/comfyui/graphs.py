"""Prompts in API format for the tests: the demo model paints, its words become masks.

A graph maps node ids, here readable ones, to nodes; a link is [node id, output].
"""

import copy
from pathlib import Path
from typing import Any

import numpy as np

from .server import Prompt, Result, Server

WORKFLOWS = Path(__file__).resolve().parents[2] / "workflows"
WORDS = "balloon, sky, water"


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def painting(
    words: str = WORDS,
    *,
    size: tuple[int, int] = (128, 128),
    batch: int = 1,
    seed: int = 1,
    steps: int = 3,
    cfg: float = 3.0,
) -> Prompt:
    """From the demo model to one picture file and one mask file per word, small and quick."""
    width, height = size
    return {
        "demo": node("ConceptAttentionDemoModel"),
        "record": recorded(words),
        "prompt": node("CLIPTextEncode", clip=["demo", 1], text="a red balloon above water"),
        "negative": node("CLIPTextEncode", clip=["demo", 1], text=""),
        "empty": node("EmptySD3LatentImage", width=width, height=height, batch_size=batch),
        "sampler": node(
            "KSampler",
            model=["record", 0],
            positive=["prompt", 0],
            negative=["negative", 0],
            latent_image=["empty", 0],
            seed=seed,
            steps=steps,
            cfg=cfg,
            sampler_name="euler",
            scheduler="simple",
            denoise=1.0,
        ),
        "decode": node("VAEDecode", samples=["sampler", 0], vae=["demo", 2]),
        "picture": node("SaveImage", images=["decode", 0], filename_prefix="picture"),
        **masks_of(["sampler", 0]),
    }


def recorded(words: str = WORDS, **settings: Any) -> dict[str, Any]:
    defaults = {
        "background": False,
        "tokens": "all",
        "attend_to": "concepts and image",
        "space": "output",
        "blocks": "all",
        "memory": 64,
    }
    links = {"model": ["demo", 0], "clip": ["demo", 1]}
    return node("ConceptAttentionRecord", **links, concepts=words, **{**defaults, **settings})


def maps(latent: list, **settings: Any) -> dict[str, Any]:
    defaults = {
        "steps": "all",
        "blocks": "all",
        "order": "softmax, then mean",
        "temperature": 1.0,
    }
    return node("ConceptAttentionMaps", latent=latent, **{**defaults, **settings})


MASKING = {"threshold": "mean", "level": 0.5, "soft": False, "keep_absent": False}


def masks_of(latent: list, prefix: str = "") -> Prompt:
    """Everything from a sampler's latent to pictures of its masks; ids begin with `prefix`."""
    return {
        f"{prefix}maps": maps(latent),
        f"{prefix}masks": node("ConceptAttentionMasks", maps=[f"{prefix}maps", 0], **MASKING),
        f"{prefix}convert": node("MaskToImage", mask=[f"{prefix}masks", 0]),
        f"{prefix}shown": node("PreviewImage", images=[f"{prefix}convert", 0]),
    }


def picked(word: str) -> dict[str, Any]:
    """The mask of one word, present or not, inside and outside of it both large."""
    settings = {**MASKING, "threshold": "top area", "level": 0.4, "keep_absent": True}
    return node(
        "ConceptAttentionPick",
        maps=["maps", 0],
        image=["decode", 0],
        name=word,
        invert=False,
        **settings,
    )


def changed(graph: Prompt, **changes: dict[str, Any]) -> Prompt:
    """A copy with some inputs of some nodes replaced: changed(graph, masks={"soft": True})."""
    copied = copy.deepcopy(graph)
    for name, inputs in changes.items():
        copied[name]["inputs"].update(inputs)
    return copied


def unrecorded(graph: Prompt) -> Prompt:
    """The same painting by the model itself: none of our nodes but the one that loads it."""
    kept = ("demo", "prompt", "negative", "empty", "sampler", "decode", "picture")
    plain = changed(graph, sampler={"model": ["demo", 0]})
    return {name: plain[name] for name in kept}


def pictures(server: Server, result: Result, name: str) -> list[np.ndarray]:
    """What a node that saves or previews images shows, h w rgb."""
    return [server.image(output) for output in result.outputs[name]["images"]]


def masks(server: Server, result: Result, name: str = "shown") -> np.ndarray:
    """The masks that a PreviewImage shows, n h w, 0..255."""
    shown = np.stack(pictures(server, result, name))
    assert (shown == shown[..., :1]).all(), "a mask has no colours"
    return shown[..., 0]
