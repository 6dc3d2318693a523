"""How much of each concept there is, in numbers, and a gate that goes by them."""

import dataclasses
import json

from comfy_api.latest import io, ui

from ..conceptattention_core.concepts import split
from ..conceptattention_core.maps import describe, presence
from .wires import check_picture, maps_input, schema


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
    def execute(cls, maps) -> io.NodeOutput:
        figures = presence(maps)
        shown = [[figures[b][c] for c in maps.concepts.shown] for b in range(len(figures))]
        table = [
            [{**dataclasses.asdict(one), "present": one.present} for one in picture]
            for picture in shown
        ]
        absent = dict.fromkeys(one.name for picture in shown for one in picture if not one.present)
        text = describe(maps)
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
            ],
        )

    @classmethod
    def execute(cls, maps, image, names, coverage) -> io.NodeOutput:
        check_picture(maps, image)
        wanted = [maps.concepts.find(name) for name in split(names)] or maps.concepts.shown
        passed = [
            b
            for b, figures in enumerate(presence(maps))
            if all(figures[c].coverage >= coverage / 100 for c in wanted)
        ]
        if not passed:
            told = ", ".join(maps.concepts.names[c] for c in wanted)
            return io.NodeOutput(
                *(None, None),  # ComfyUI 0.3.64 reads no block without outputs
                block_execution=f"Concept Gate: none of {len(image)} pictures shows {told}, each "
                f"on at least {coverage:g} % of it. Another seed, or a lower coverage?",
            )
        return io.NodeOutput(image[passed], ", ".join(map(str, passed)))
