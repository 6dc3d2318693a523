"""What several workflows are made of: a model to start from, a run, masks, a second run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .graph import WIDTH, Graph, Node, Output

PICTURE = (WIDTH, 360)
PROMPT = "a red hot-air balloon over a lake, sun, mountains, clouds, day sky"
CONCEPTS = "balloon\nsun\nsky\nmountains\nclouds\nwater"
STOCK = (
    "Needs the stock files: `flux1-dev.safetensors` in *diffusion_models*, `clip_l.safetensors` "
    "and `t5xxl_fp16.safetensors` (or fp8) in *text_encoders*, `ae.safetensors` in *vae*."
)


@dataclass
class Start:
    """A model with what belongs to it, and how to ask it for a picture."""

    graph: Graph
    model: Output
    clip: Output
    vae: Output
    flux: bool

    def prompt(self, text: str | Output, column: int = 1, title: str = "Prompt") -> Node:
        encoded = self.graph.add("CLIPTextEncode", column, title, clip=self.clip, text=text)
        if not self.flux:
            return encoded
        return self.graph.add("FluxGuidance", column, conditioning=encoded[0], guidance=3.5)

    def nothing(self, prompt: Node, column: int = 1) -> Node:
        """The negative prompt: empty; of no account to Flux.1 dev, which is sampled at cfg 1."""
        title = "Negative prompt"
        if self.flux:
            return self.graph.add("ConditioningZeroOut", column, title, conditioning=prompt[0])
        return self.graph.add("CLIPTextEncode", column, title, clip=self.clip, text="")

    def empty(self, column: int = 1, batch: int = 1) -> Node:
        side = 1024 if self.flux else 256
        return self.graph.add(
            "EmptySD3LatentImage", column, width=side, height=side, batch_size=batch
        )

    def sample(
        self,
        positive: Node,
        negative: Node,
        latent: Output,
        column: int = 2,
        model: Output | None = None,
        title: str | None = None,
        **more: Any,
    ) -> Node:
        settings = {
            "seed": 3, "steps": 20, "cfg": 1.0 if self.flux else 3.0, "sampler_name": "euler",
            "scheduler": "simple", "denoise": 1.0, **more,
        }  # fmt: skip
        return self.graph.add(
            "KSampler",
            column,
            title,
            model=model or self.model,
            positive=positive[0],
            negative=negative[0],
            latent_image=latent,
            **settings,
        )

    def decode(self, latent: Node, column: int = 2) -> Node:
        return self.graph.add("VAEDecode", column, samples=latent[0], vae=self.vae)

    def locate(self, picture: Output, concepts: str | Output, column: int = 2) -> Node:
        return self.graph.add(
            "ConceptAttentionLocate",
            column,
            model=self.model,
            clip=self.clip,
            vae=self.vae,
            image=picture,
            concepts=concepts,
        )

    def record(self, concepts: str, column: int = 1, title: str | None = None, **more: Any) -> Node:
        return self.graph.add(
            "ConceptAttentionRecord",
            column,
            title,
            model=self.model,
            clip=self.clip,
            concepts=concepts,
            **more,
        )


def start_demo(graph: Graph, note: str) -> Start:
    demo = graph.add("ConceptAttentionDemoModel", 0)
    graph.add("MarkdownNote", 0, "Read me", (WIDTH, 460), text=note)
    return Start(graph, demo[0], demo[1], demo[2], flux=False)


def start_flux(graph: Graph, note: str) -> Start:
    unet = graph.add("UNETLoader", 0, unet_name="flux1-dev.safetensors", weight_dtype="default")
    clips = graph.add(
        "DualCLIPLoader",
        0,
        clip_name1="clip_l.safetensors",
        clip_name2="t5xxl_fp16.safetensors",
        type="flux",
        device="default",
    )
    vae = graph.add("VAELoader", 0, vae_name="ae.safetensors")
    graph.add("MarkdownNote", 0, "Read me", (WIDTH, 520), text=f"{note}\n\n{STOCK}")
    return Start(graph, unet[0], clips[0], vae[0], flux=True)


def paint(start: Start, prompt: str = PROMPT, concepts: str = CONCEPTS, **more: Any) -> tuple:
    """Record, sample, decode: the sampler's node, the decoded picture's and the conditions."""
    recorded = start.record(concepts)
    positive = start.prompt(prompt)
    negative = start.nothing(positive)
    empty = start.empty(batch=more.pop("batch", 1))
    sampled = start.sample(positive, negative, empty[0], model=recorded[0], **more)
    return sampled, start.decode(sampled), positive, negative


def preview_masks(graph: Graph, masks: Node, column: int, title: str = "One mask per word") -> None:
    converted = graph.add("MaskToImage", column, mask=masks[0])
    graph.add("PreviewImage", column, title, (700, 300), images=converted[0])


def look(start: Start, picture: Node, concepts: str) -> None:
    graph = start.graph
    maps = start.locate(picture[0], concepts)
    masks = graph.add("ConceptAttentionMasks", 2, maps=maps[0], image=picture[0])
    view = {"maps": maps[0], "image": picture[0]}
    graph.add("ConceptAttentionOverlay", 3, "Concept Overlay: regions", (430, 520), **view)
    preview_masks(graph, masks, 3)
    title = "Concept Overlay: heat maps"
    graph.add("ConceptAttentionOverlay", 4, title, (760, 520), view="heat maps", **view)


def paint_within(
    start: Start,
    mask: Output,
    picture: Output,
    latent: Output,
    prompt: str | Output,
    negative: Node,
    column: int = 4,
    fit: bool = False,
    **more: Any,
) -> Node:
    """Paint again where the mask is, and put that into the picture.

    `latent` is the picture's; `fit` lets the picture have a size that latents cannot have.
    """
    graph = start.graph
    limited = graph.add("SetLatentNoiseMask", column, samples=latent, mask=mask)
    wanted = start.prompt(prompt, column, "What to paint there")
    again = start.sample(
        wanted,
        negative,
        limited[0],
        column=column,
        title="Paint again",
        **{"denoise": 0.9, **more},
    )
    # The sampler returns the rest only to within rounding.
    kept = graph.add(
        "LatentCompositeMasked",
        column + 1,
        "Keep the rest",
        destination=latent,
        source=again[0],
        mask=mask,
        x=0,
        y=0,
        resize_source=False,
    )
    repainted = start.decode(kept, column=column + 1)
    return graph.add(
        "ImageCompositeMasked",
        column + 1,
        destination=picture,
        source=repainted[0],
        mask=mask,
        x=0,
        y=0,
        resize_source=fit,
    )


def repaint(start: Start, name: str, prompt: str, invert: bool, prefix: str, **more: Any) -> None:
    """Paint, find a thing, paint again within its mask (or outside it) and put both together."""
    graph = start.graph
    sampled, picture, _, negative = paint(start)
    maps = graph.add("ConceptAttentionMaps", 3, latent=sampled[0])
    mask = graph.add(
        "ConceptAttentionPick",
        3,
        maps=maps[0],
        image=picture[0],
        name=name,
        threshold="otsu",
        invert=invert,
        grow=-4 if invert else 8,
        feather=8,
    )
    graph.add("MaskPreview", 3, "What may change", (WIDTH, 300), mask=mask[0])
    whole = paint_within(start, mask[0], picture[0], sampled[0], prompt, negative, **more)
    graph.add("PreviewImage", 5, "Before", PICTURE, images=picture[0])
    graph.add("SaveImage", 5, "After", PICTURE, images=whole[0], filename_prefix=prefix)
