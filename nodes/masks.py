"""Maps to masks that stock nodes take as they are."""

from comfy_api.latest import io

from ..conceptattention_core.concepts import split
from ..conceptattention_core.masks import draw, union
from .wires import advanced, maps_input, mask_inputs, picture_input, schema, size_of


class Masks(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "ConceptAttentionMasks",
            "Concept Masks",
            description="One mask per concept, in the order they were written.",
            search_aliases=["concept attention", "segment", "words to masks"],
            inputs=[maps_input(), picture_input(), *mask_inputs()],
            outputs=[
                io.Mask.Output(
                    display_name="masks",
                    is_output_list=True,
                    tooltip="A list with one mask per concept, all zeros where it is not shown. "
                    "Each has one mask per picture of the batch.",
                ),
                io.String.Output(
                    display_name="names", is_output_list=True, tooltip="The concepts, in order."
                ),
            ],
        )

    @classmethod
    def execute(cls, maps, threshold, level, soft, keep_absent, image=None) -> io.NodeOutput:
        masks = draw(
            maps,
            threshold=threshold,
            amount=level,
            soft=soft,
            keep_absent=keep_absent,
            size=size_of(maps, image),
        )
        names = [maps.concepts.names[c] for c in maps.concepts.shown]
        return io.NodeOutput(list(masks), names)


class Pick(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "ConceptAttentionPick",
            "Pick Concept Mask",
            description="The mask of one concept, or of several together.",
            search_aliases=["concept attention", "segment", "select mask"],
            inputs=[
                maps_input(),
                picture_input(),
                io.String.Input(
                    "name",
                    placeholder="balloon",
                    tooltip="A recorded concept, or several separated by commas: their masks are "
                    "joined. 'background' picks the hidden one.",
                ),
                *mask_inputs(),
                advanced(
                    io.Boolean.Input(
                        "invert", default=False, tooltip="Everything but the named concepts."
                    )
                ),
            ],
            outputs=[
                io.Mask.Output(display_name="mask", tooltip="One mask per picture of the batch.")
            ],
        )

    @classmethod
    def execute(
        cls, maps, name, threshold, level, soft, keep_absent, invert, image=None
    ) -> io.NodeOutput:
        mask = union(
            draw(
                maps,
                split(name),
                threshold=threshold,
                amount=level,
                soft=soft,
                keep_absent=keep_absent,
                size=size_of(maps, image),
            )
        )
        return io.NodeOutput(1 - mask if invert else mask)
