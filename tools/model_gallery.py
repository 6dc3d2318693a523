"""Remake workflows/models/*.json: first masks with every model family, by stock loaders.

    python -m tools.model_gallery

It runs in ComfyUI's Python; COMFYUI_PATH names ComfyUI.
"""

from __future__ import annotations

from typing import Any

from .graph import WIDTH, WORKFLOWS, Graph, Node, ask_comfyui, write
from .models import MODELS, File, Model
from .parts import PICTURE, preview_masks

PROMPT = "a red hot-air balloon over a lake, mountains, evening sky"
CONCEPTS = "balloon\nsky\nmountains\nwater"
NOTE = (
    "# First masks with {name}\n\nAs *First masks*: every word in **Record Concepts** comes out as "
    "a mask{of_videos}.\n\nNeeds the stock files in the loaders; settings are those of ComfyUI's "
    "own template for {name}. Tested with random weights at toy size; true weights were not."
)


def load(graph: Graph, model: Model) -> tuple[Any, Any, Any]:
    """Model, text encoder and VAE."""
    if model.vae is None:
        whole = graph.add("CheckpointLoaderSimple", 0, ckpt_name=model.unet[0])
        whole.files = [(*model.unet, "checkpoints")]
        return whole[0], whole[1], whole[2]
    return (
        load_unet(graph, model.unet)[0],
        load_clips(graph, model)[0],
        load_vae(graph, model.vae)[0],
    )


def load_unet(graph: Graph, unet: File) -> Node:
    loader = graph.add("UNETLoader", 0, unet_name=unet[0], weight_dtype="default")
    loader.files = [(*unet, "diffusion_models")] if unet[1] else []
    return loader


def load_clips(graph: Graph, model: Model) -> Node:
    names = [name for name, _ in model.clips]
    if len(names) == 1:
        loader = graph.add("CLIPLoader", 0, clip_name=names[0], type=model.kind)
    else:
        loaders = {2: "DualCLIPLoader", 4: "QuadrupleCLIPLoader"}
        numbered: dict[str, Any] = {f"clip_name{i}": name for i, name in enumerate(names, 1)}
        kind: dict[str, Any] = {"type": model.kind} if model.kind else {}
        loader = graph.add(loaders[len(names)], 0, **numbered, **kind)
    loader.files = [(*file, "text_encoders") for file in model.clips]
    return loader


def load_vae(graph: Graph, vae: File) -> Node:
    loader = graph.add("VAELoader", 0, vae_name=vae[0])
    loader.files = [(*vae, "vae")] if vae[1] else []
    return loader


def sample(graph: Graph, model: Model, recorded: Any, clip: Any) -> Node:
    positive = graph.add("CLIPTextEncode", 1, "Prompt", clip=clip, text=PROMPT)
    if model.unconditional:
        return sample_by_two(graph, model, model.unconditional, recorded, positive[0])
    negative = graph.add("CLIPTextEncode", 1, "Negative prompt", clip=clip, text="")
    if model.guidance is not None:
        positive = graph.add("FluxGuidance", 1, conditioning=positive[0], guidance=model.guidance)
    empty = graph.add(model.empty, 1, batch_size=1, **model.size)
    return graph.add(
        "KSampler", 2, model=recorded, positive=positive[0], negative=negative[0],
        latent_image=empty[0], seed=3, steps=model.steps, cfg=model.cfg,
        sampler_name=model.sampler, scheduler=model.scheduler, denoise=1.0,
    )  # fmt: skip


def sample_by_two(
    graph: Graph, model: Model, unconditional: File, recorded: Any, positive: Any
) -> Node:
    """As Ideogram 4 is sampled: another model for the pass without a text, less of it at last."""
    other = load_unet(graph, unconditional)
    empty = graph.add(model.empty, 1, batch_size=1, **model.size)
    calmed = graph.add("CFGOverride", 1, model=recorded, cfg=3.0, start_percent=0.7)
    guider = graph.add(
        "DualModelGuider", 2, model=calmed[0], model_negative=other[0], positive=positive,
        cfg=model.cfg,
    )  # fmt: skip
    noise = graph.add("RandomNoise", 2, noise_seed=3)
    sampler = graph.add("KSamplerSelect", 2, sampler_name=model.sampler)
    sigmas = graph.add("Ideogram4Scheduler", 2, steps=model.steps, **model.size)
    return graph.add(
        "SamplerCustomAdvanced", 2, noise=noise[0], guider=guider[0], sampler=sampler[0],
        sigmas=sigmas[0], latent_image=empty[0],
    )  # fmt: skip


def draw(graph: Graph, model: Model) -> None:
    unet, clip, vae = load(graph, model)
    of_videos = ", of every picture of the video" if "length" in model.size else ""
    note = NOTE.format(name=model.name, of_videos=of_videos)
    graph.add("MarkdownNote", 0, "Read me", (WIDTH, 340), text=note)

    recorded = graph.add(
        "ConceptAttentionRecord", 1, model=unet, clip=clip, concepts=CONCEPTS
    )[0]  # fmt: skip
    if model.shift:
        kind, shift = model.shift
        recorded = graph.add(kind, 1, model=recorded, shift=shift)[0]
    sampled = sample(graph, model, recorded, clip)
    picture = graph.add("VAEDecode", 2, samples=sampled[0], vae=vae)
    graph.add("SaveImage", 2, "The picture", PICTURE, images=picture[0], filename_prefix="masks")
    maps = graph.add("ConceptAttentionMaps", 3, latent=sampled[0])
    masks = graph.add("ConceptAttentionMasks", 3, maps=maps[0], image=picture[0])
    graph.add("ConceptAttentionOverlay", 4, None, (430, 520), maps=maps[0], image=picture[0])
    preview_masks(graph, masks, 4)


def main() -> None:
    known = ask_comfyui()
    for model in MODELS:
        graph = Graph(known)
        draw(graph, model)
        write(WORKFLOWS / "models" / f"{model.file}.json", graph.for_page(f"models/{model.file}"))
        print(model.file)


if __name__ == "__main__":
    main()
