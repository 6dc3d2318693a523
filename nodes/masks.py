"""Maps to masks that stock nodes take as they are."""

from comfy_api.latest import io
from torch import Tensor

from ..conceptattention_core.concepts import split_names
from ..conceptattention_core.masks import check_images, draw_masks, split_masks, union
from .before import check_names, refusal
from .door import accepting
from .inputs import finish_inputs, image_input, maps_input, mask_inputs, mask_spec
from .notices import show_notices
from .wires import advanced, schema


class Masks(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "ConceptAttentionMasks",
            "Concept Masks",
            description="One mask per concept, in the order they were written.",
            search_aliases=["concept attention", "segment", "words to masks"],
            inputs=[maps_input(), image_input(), *mask_inputs(), *finish_inputs()],
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
    @accepting
    def execute(cls, maps, image=None, **widgets) -> io.NodeOutput:
        notices = check_images(maps, image)
        masks = draw_masks(maps, spec=mask_spec(**widgets), image=image)
        names = [maps.concepts.names[c] for c in maps.concepts.shown]
        return io.NodeOutput(list(masks), names, ui=show_notices(cls, notices))


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
                image_input(),
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
                *finish_inputs(),
            ],
            outputs=[
                io.Mask.Output(display_name="mask", tooltip="One mask per picture of the batch.")
            ],
        )

    @classmethod
    def validate_inputs(cls, name=None) -> bool | str:
        return refusal(lambda: check_names(name, "maps", needed=True))

    @classmethod
    @accepting
    def execute(cls, maps, name, invert, image=None, **widgets) -> io.NodeOutput:
        notices = check_images(maps, image)
        names = split_names(name)
        masks = draw_masks(maps, names, mask_spec(**widgets), image=image)
        mask = union(masks)
        shown = show_notices(cls, notices + _list_empty(names, masks))
        return io.NodeOutput(1 - mask if invert else mask, ui=shown)


def _list_empty(names: list[str], masks: Tensor) -> list[str]:
    """Which of these masks `c b h w` are empty, in a notice; none where none is."""
    empty = {
        name: int((~own.flatten(1).any(1)).sum())
        for name, own in zip(names, masks, strict=True)
        if not own.flatten(1).any(1).all()
    }
    if not empty:
        return []
    pictures = masks.shape[1]
    listed = ", ".join(f"{name} ({count} of {pictures})" for name, count in empty.items())
    return [f"Empty masks: {listed}. Concept Scores says how much there is of each concept."]


class Split(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "ConceptAttentionSplit",
            "Split Mask into Parts",
            description="Each part of a mask by itself, the largest first: three boats, three "
            "masks.",
            search_aliases=["concept attention", "instances", "connected components"],
            inputs=[
                io.Mask.Input("mask", tooltip="Any mask."),
                io.Float.Input(
                    "islands",
                    default=0.1,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip="Parts smaller than this percentage of the picture are left out.",
                ),
            ],
            outputs=[
                io.Mask.Output(
                    display_name="masks",
                    is_output_list=True,
                    tooltip="A list with one mask per part. A picture of the batch with fewer "
                    "parts than another has empty ones.",
                ),
                io.Int.Output(
                    display_name="numbers",
                    is_output_list=True,
                    tooltip="The parts' numbers, from 1.",
                ),
            ],
        )

    @classmethod
    @accepting
    def execute(cls, mask, islands) -> io.NodeOutput:
        parts = split_masks(mask, islands / 100)
        return io.NodeOutput(list(parts), list(range(1, len(parts) + 1)))
