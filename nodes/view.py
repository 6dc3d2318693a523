"""Maps as pictures."""

import torch
from comfy_api.latest import io, ui

from ..conceptattention_core import render
from .wires import maps_input, schema, size_of

VIEWS = {
    "regions": render.overlay,
    "heat maps": render.sheet,
}


class Overlay(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "ConceptAttentionOverlay",
            "Concept Overlay",
            description="Shows what is where: every concept in its colour over the picture, with a "
            "legend, or each concept's heat map.",
            search_aliases=["concept attention", "preview masks", "heat map"],
            is_output_node=True,
            inputs=[
                maps_input(),
                io.Image.Input("image", tooltip="The picture that the maps belong to."),
                io.Combo.Input(
                    "view",
                    options=list(VIEWS),
                    default="regions",
                    tooltip="regions: each pixel in the colour of its strongest concept. "
                    "heat maps: one map per concept, side by side, on one scale.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="The view, one per picture."),
            ],
        )

    @classmethod
    def execute(cls, maps, image, view) -> io.NodeOutput:
        size_of(maps, image)
        views = torch.stack(
            [
                render.to_image(VIEWS[view](render.to_picture(picture), maps, b))
                for b, picture in enumerate(image)
            ]
        )
        return io.NodeOutput(views, ui=ui.PreviewImage(views, cls=cls))
