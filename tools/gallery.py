"""Remake workflows/*.json, the graphs for ComfyUI's page, and workflows/api/*.json, for scripts.

    python -m tools.gallery

It runs in ComfyUI's Python; COMFYUI_PATH names ComfyUI, whose nodes say which inputs they have.
A workflow is written once and made twice: for the demo model, and for Flux.1 dev with stock
loaders. Afterwards `python -m tools.images graphs` takes their pictures.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .graph import WIDTH, Graph, ask_comfyui
from .parts import (
    CONCEPTS,
    PICTURE,
    PROMPT,
    Start,
    look,
    paint,
    preview_masks,
    repaint,
    start_demo,
    start_flux,
)

PICK = (
    "**Concept Masks** gives one MASK per word. **Pick Concept Mask** gives one by name, for any "
    "node that takes a mask."
)
HOW_TO_RECORD = (
    "1. **Record Concepts** sits between model and sampler. The picture does not change by a "
    "single bit.\n2. **Concept Maps** reads the sampler's LATENT.\n3. **Concept Overlay** shows "
    f"what is where.\n4. {PICK}\n\nChange a word and run again. Change a threshold: then nothing "
    "is sampled anew."
)
HOW_TO_LOCATE = (
    "1. **Locate Concepts in Image** shows the model the picture once, slightly noised, with the "
    "words riding along. Nothing is painted.\n2. **Concept Overlay** shows what is where.\n"
    f"3. {PICK}\n\nWords compete: name what surrounds the thing, too. Five *samples* are steadier "
    "than one."
)


def first_masks(start: Start) -> None:
    graph = start.graph
    sampled, picture, *_ = paint(start)
    graph.add("SaveImage", 2, "The picture", PICTURE, images=picture[0], filename_prefix="masks")
    maps = graph.add("ConceptAttentionMaps", 3, latent=sampled[0])
    masks = graph.add("ConceptAttentionMasks", 3, maps=maps[0], image=picture[0])
    view = {"maps": maps[0], "image": picture[0]}
    graph.add("ConceptAttentionOverlay", 4, "Concept Overlay: regions", (430, 520), **view)
    preview_masks(graph, masks, 4)
    title = "Concept Overlay: heat maps"
    graph.add("ConceptAttentionOverlay", 5, title, (760, 520), view="heat maps", **view)


def photo_to_masks(start: Start) -> None:
    photo = start.graph.add("LoadImage", 1, "The picture", (WIDTH, 400), image="example.png")
    look(start, photo, "person\nclothes\nplants\nsky\nground\nbuilding")


def picture_to_masks(start: Start) -> None:
    positive = start.prompt(PROMPT)
    negative = start.nothing(positive)
    sampled = start.sample(positive, negative, start.empty()[0], column=1)
    picture = start.decode(sampled, column=1)
    start.graph.add(
        "SaveImage", 1, "The picture", PICTURE, images=picture[0], filename_prefix="picture"
    )
    look(start, picture, CONCEPTS)


def change_only_this(start: Start) -> None:
    prompt = "a green hot-air balloon over a lake, sun, mountains, clouds, day sky"
    repaint(start, "balloon", prompt, invert=False, prefix="change_only_this", seed=5)


def swap_background(start: Start) -> None:
    prompt = "a red hot-air balloon, night sky above snow, moon"
    repaint(start, "balloon", prompt, invert=True, prefix="swap_background")


def grade_one_thing(start: Start) -> None:
    graph = start.graph
    sampled, picture, *_ = paint(start)
    maps = graph.add("ConceptAttentionMaps", 3, latent=sampled[0])
    mask = graph.add(
        "ConceptAttentionPick",
        3,
        maps=maps[0],
        image=picture[0],
        name="water",
        threshold="otsu",
        soft=True,
        contrast=3.0,
    )
    graph.add("MaskPreview", 3, "How much is graded", (WIDTH, 300), mask=mask[0])
    side = 1024 if start.flux else 256
    tint = graph.add("EmptyImage", 4, "The colour", width=side, height=side, color=0xC86432)
    graded = graph.add(
        "ImageBlend",
        4,
        image1=picture[0],
        image2=tint[0],
        blend_factor=0.8,
        blend_mode="overlay",
    )
    whole = graph.add(
        "ImageCompositeMasked",
        4,
        destination=picture[0],
        source=graded[0],
        mask=mask[0],
        x=0,
        y=0,
        resize_source=False,
    )
    graph.add("PreviewImage", 5, "Before", PICTURE, images=picture[0])
    graph.add("SaveImage", 5, "After", PICTURE, images=whole[0], filename_prefix="grade_one_thing")


def layers_to_file(start: Start) -> None:
    graph = start.graph
    sampled, picture, *_ = paint(start)
    maps = graph.add("ConceptAttentionMaps", 3, latent=sampled[0])
    masks = graph.add(
        "ConceptAttentionMasks", 3, maps=maps[0], image=picture[0], threshold="competition"
    )
    stack = graph.add("ConceptAttentionLayers", 4, image=picture[0], masks=masks[0], names=masks[1])
    graph.add("ConceptAttentionSaveLayers", 4, layers=stack[0])
    graph.add("ConceptAttentionSaveMasks", 4, mask=masks[0], name=masks[1])
    cut = graph.add("ConceptAttentionCutOut", 4, image=picture[0], mask=masks[0])
    graph.add("PreviewImage", 5, "Cut-outs", (700, 420), images=cut[0])
    graph.add("PreviewImage", 5, "The picture", PICTURE, images=picture[0])


def regions_that_find_themselves(start: Start) -> None:
    graph = start.graph
    sampled, picture, positive, negative = paint(start, steps=8)
    graph.add("PreviewImage", 2, "First, short run", PICTURE, images=picture[0])
    maps = graph.add("ConceptAttentionMaps", 3, latent=sampled[0])
    masks = graph.add(
        "ConceptAttentionMasks", 3, maps=maps[0], image=picture[0], threshold="otsu", feather=8
    )
    steered = graph.add(
        "ConceptAttentionRegions",
        3,
        clip=start.clip,
        conditioning=positive[0],
        masks=masks[0],
        names=masks[1],
        prompts="balloon: a yellow hot-air balloon",
        strength=3.0,
        only_mentioned=True,
    )
    graph.add(
        "ConceptAttentionOverlay", 4, "Where things are", (430, 520), maps=maps[0], image=picture[0]
    )
    again = start.sample(steered, negative, start.empty(4)[0], column=4, title="Paint with regions")
    repainted = start.decode(again, column=5)
    graph.add("SaveImage", 5, "Second run", PICTURE, images=repainted[0], filename_prefix="regions")


def compare_spaces(start: Start) -> None:
    """The very same picture, recorded twice: Concept Maps is told which recording is meant."""
    graph = start.graph
    positive = start.prompt(PROMPT)
    negative = start.nothing(positive)
    empty = start.empty()
    for row, (space, title) in enumerate(
        (("output", "Output space: the paper's"), ("cross-attention", "Cross-attention"))
    ):
        recorded = start.record(CONCEPTS, title=title, space=space)
        # a seed of its own: no other workflow is to find these recordings
        sampled = start.sample(positive, negative, empty[0], model=recorded[0], seed=1)
        picture = start.decode(sampled)
        maps = graph.add("ConceptAttentionMaps", 3, title, latent=sampled[0], model=recorded[0])
        view = {"maps": maps[0], "image": picture[0]}
        graph.add("ConceptAttentionOverlay", 4 + row, title, (430, 520), **view)
        graph.add(
            "ConceptAttentionOverlay", 4 + row, f"{title}: heat maps", (600, 520),
            view="heat maps", **view,
        )  # fmt: skip


def seed_picker(start: Start) -> None:
    graph = start.graph
    prompt = "a red hot-air balloon and a boat on a lake, mountains, day sky"
    concepts = "balloon\nboat\nsky\nmountains\nwater"
    sampled, pictures, *_ = paint(start, prompt, concepts, batch=4)
    graph.add("PreviewImage", 2, "All seeds", PICTURE, images=pictures[0])
    maps = graph.add("ConceptAttentionMaps", 3, latent=sampled[0])
    graph.add("ConceptAttentionScores", 3, size=(420, 420), maps=maps[0])
    passed = graph.add(
        "ConceptAttentionGate",
        4,
        maps=maps[0],
        image=pictures[0],
        names="balloon, boat",
        coverage=1.0,
    )
    graph.add(
        "SaveImage",
        4,
        "Those that show what was asked for",
        (430, 420),
        images=passed[0],
        filename_prefix="seed_picker",
    )


def look_inside(start: Start) -> None:
    graph = start.graph
    sampled, picture, *_ = paint(start)
    graph.add("PreviewImage", 2, "The picture", PICTURE, images=picture[0])
    maps = graph.add("ConceptAttentionMaps", 3, latent=sampled[0])
    both = {"maps": maps[0], "image": picture[0]}
    graph.add("ConceptAttentionExplorer", 4, size=(620, 860), **both)
    graph.add("ConceptAttentionSheet", 5, size=(860, 420), maps=maps[0], name="balloon")
    labels = graph.add("ConceptAttentionLabels", 3, **both)
    graph.add("PreviewImage", 5, "Label map", (430, 430), images=labels[0])


@dataclass(frozen=True)
class Idea:
    """A workflow: how it is drawn, what its note says, and what its files are called."""

    draw: Callable[[Start], None]
    note: str
    demo: str | None
    flux: str | None


IDEAS = [
    Idea(
        first_masks,
        "# First masks\n\nPress **Run**. A balloon over a lake is painted, and every word in "
        f"**Record Concepts** comes out as a mask.\n\n{HOW_TO_RECORD}",
        "first_masks",
        "first_masks_flux_dev",
    ),
    Idea(
        photo_to_masks,
        "# Photo to masks\n\nChoose a picture in **Load Image** and write what is in it, in "
        "place of the words in **Locate Concepts in Image**, which suit many photos and none "
        f"exactly. Any size and shape.\n\n{HOW_TO_LOCATE}",
        None,
        "photo_to_masks",
    ),
    Idea(
        picture_to_masks,
        "# Picture to masks\n\nPress **Run**. The demo model paints a picture, without any "
        "concepts; then it looks at the finished picture and finds the words in it. In place of "
        f"the painted picture any other will do: **Load Image**.\n\n{HOW_TO_LOCATE}\n\nThe demo "
        "model knows storybook landscapes alone: for photos see *photo_to_masks*.",
        "picture_to_masks_demo",
        None,
    ),
    Idea(
        change_only_this,
        "# Change only this\n\nThe balloon is painted again in another colour; nothing else "
        "changes.\n\n1. **Pick Concept Mask** takes the balloon, a little larger (*grow*), with a "
        "soft edge (*feather*).\n2. **Set Latent Noise Mask** lets the second sampler paint "
        "there only.\n3. **Keep the rest** (Latent Composite Masked) and **Image Composite "
        "Masked** put the result into the first latent and the first picture: beyond the feather "
        "both are the very same.\n\nOther words in *name* and in the "
        "second prompt change another thing.",
        "change_only_this",
        "change_only_this_flux_dev",
    ),
    Idea(
        swap_background,
        "# Swap the background\n\nEverything but the balloon is painted again.\n\nIt is *Change "
        "only this* with *invert* on in **Pick Concept Mask**, and *grow* below 0, so that the "
        "new surroundings reach right up to the thing.",
        "swap_background",
        "swap_background_flux_dev",
    ),
    Idea(
        grade_one_thing,
        "# Grade one thing\n\nOnly the water changes its colour.\n\nA *soft* mask fits what has "
        "no sharp edge: water, fog, glow, fabric. *contrast* says how steep it is. Any other "
        "node that changes a picture may stand in place of **Image Blend**.",
        "grade_one_thing",
        "grade_one_thing_flux_dev",
    ),
    Idea(
        layers_to_file,
        "# Layers to file\n\nOne named layer per word above the whole picture, in a file of "
        "Photoshop's format, PSD; and the masks as PNG files called by their words.\n\n"
        "With *threshold* at `competition` no pixel is in two layers.\n\n**Save Layers** needs "
        "`pip install psd-tools` in ComfyUI's Python.",
        "layers_to_file",
        "layers_to_file_flux_dev",
    ),
    Idea(
        regions_that_find_themselves,
        "# Regions that find themselves\n\nA first, short run shows where the balloon wants to "
        "be. Its mask becomes a region with a prompt of its own for the second run: a yellow "
        "balloon, though the prompt for the whole picture says a red one.\n\nWrite in **Prompt "
        "Regions** what to paint where: `name: prompt`, one per line. *strength* says how much "
        "that counts beside the prompt for the whole picture.",
        "regions_that_find_themselves",
        "regions_that_find_themselves_flux_dev",
    ),
    Idea(
        compare_spaces,
        "# Compare spaces\n\nThe same picture, twice: concepts found in the *output space* of the "
        "attention (ConceptAttention) and by *cross-attention*, what earlier methods used.\n\n"
        "Both recordings belong to the very same latent, so **Concept Maps** is told by *model* "
        "which one is meant.",
        "compare_spaces",
        "compare_spaces_flux_dev",
    ),
    Idea(
        seed_picker,
        "# Seed picker\n\nFour seeds at once; only those go on in which the balloon and the "
        "boat landed.\n\n**Concept Scores** tells what each picture shows. **Concept Gate** "
        "says how much of the picture each word has to cover.",
        "seed_picker",
        "seed_picker_flux_dev",
    ),
    Idea(
        look_inside,
        "# Look inside\n\n**Concept Explorer**: point at a pixel, click for a mask, slide steps "
        "and blocks. It is also written as one HTML file to keep or send.\n\n**Concept Map "
        "Sheet**: one word in every block and step. Good ranges for **Concept Maps** can be read "
        "off it.",
        "look_inside",
        "look_inside_flux_dev",
    ),
]


def main() -> None:
    known = ask_comfyui()
    for idea in IDEAS:
        for name, begin in ((idea.demo, start_demo), (idea.flux, start_flux)):
            if name:
                graph = Graph(known)
                idea.draw(begin(graph, idea.note))
                graph.save(name)
                print(name)


if __name__ == "__main__":
    main()
