"""How much of each concept there is, in numbers, and a gate that goes by them."""

import dataclasses
import json

from comfy_api.latest import io, ui

from ..conceptattention_core import ConceptAttentionError
from ..conceptattention_core.concepts import split_names
from ..conceptattention_core.maps import describe_presence, measure_presence, select_images
from ..conceptattention_core.masks import check_images
from .before import check_names, refusal
from .door import accepting
from .inputs import maps_input
from .wires import schema


class Scores(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "ConceptAttentionScores",
            "Concept Scores",
            description="Which words landed: coverage, peak and mean of each concept in each "
            "picture.",
            search_aliases=["concept attention", "presence", "coverage"],
            is_output_node=True,
            inputs=[maps_input()],
            outputs=[
                io.String.Output(display_name="text", tooltip="A table for people."),
                io.String.Output(
                    display_name="json",
                    tooltip="For each picture a list of name, present, coverage, peak, mean; "
                    "figures 0 to 1.",
                ),
                io.String.Output(
                    display_name="absent",
                    tooltip="The concepts that some picture of the batch does not show, "
                    "comma-separated.",
                ),
            ],
        )

    @classmethod
    @accepting
    def execute(cls, maps) -> io.NodeOutput:
        figures = measure_presence(maps)
        shown = [[figures[b][c] for c in maps.concepts.shown] for b in range(len(figures))]
        table = [
            [{**dataclasses.asdict(one), "present": one.present} for one in picture]
            for picture in shown
        ]
        absent = dict.fromkeys(one.name for picture in shown for one in picture if not one.present)
        text = describe_presence(maps)
        return io.NodeOutput(
            text,
            json.dumps(table, ensure_ascii=False, indent=1),
            ", ".join(absent),
            ui=ui.PreviewText(text),
        )


class Gate(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "ConceptAttentionGate",
            "Concept Gate",
            description="Lets only those pictures of a batch through that show every named "
            "concept. With a batch of seeds: a seed picker.",
            search_aliases=["concept attention", "seed picker", "filter batch"],
            inputs=[
                maps_input(),
                io.Image.Input("image", tooltip="The pictures that the maps belong to."),
                io.String.Input(
                    "names",
                    default="",
                    placeholder="all concepts",
                    tooltip="Concepts that a picture has to show, comma-separated. Empty: all.",
                ),
                io.Float.Input(
                    "coverage",
                    default=0.5,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip="The least percentage of the picture in which each of them has to be "
                    "the strongest.",
                ),
                io.Latent.Input(
                    "latent",
                    optional=True,
                    tooltip="The latents of the pictures, to go on with those that pass.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="image",
                    tooltip="The pictures that passed. If none did, nothing that follows runs.",
                ),
                io.String.Output(
                    display_name="passed",
                    tooltip="Positions in the batch of those that passed, from 0, comma-separated.",
                ),
                io.Latent.Output(
                    display_name="latent",
                    tooltip="The latents of those that passed, where some were connected.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, names=None) -> bool | str:
        return refusal(lambda: check_names(names, "maps", needed=False))

    @classmethod
    @accepting
    def execute(cls, maps, image, names, coverage, latent=None) -> io.NodeOutput:
        check_images(maps, image)
        if latent is not None and len(latent["samples"]) != len(image):
            raise ConceptAttentionError(
                f"The latent batch has {len(latent['samples'])} items, the image batch "
                f"{len(image)} pictures. Connect the latent that the pictures were decoded from."
            )
        wanted = [
            maps.concepts.index_of(name) for name in split_names(names)
        ] or maps.concepts.shown
        passed = select_images(maps, wanted, coverage / 100)
        if not passed:
            listed = ", ".join(maps.concepts.names[c] for c in wanted)
            return io.NodeOutput(
                *(None, None, None),  # ComfyUI 0.3.64 reads no block without outputs
                block_execution=f"Concept Gate: none of {len(image)} pictures shows {listed}, each "
                f"on at least {coverage:g} % of it. Another seed, or a lower coverage?",
            )
        kept = None if latent is None else take(latent, passed)
        return io.NodeOutput(image[passed], ", ".join(map(str, passed)), kept)


def take(latent: dict, passed: list[int]) -> dict:
    """These items of a batch of latents. They keep their numbers in it and so their noise."""
    numbers = latent.get("batch_index", list(range(len(latent["samples"]))))
    kept = {
        **latent,
        "samples": latent["samples"][passed],
        "batch_index": [numbers[b] for b in passed],
    }
    if (masks := latent.get("noise_mask")) is not None:
        kept["noise_mask"] = masks[[b % len(masks) for b in passed]]
    return kept
