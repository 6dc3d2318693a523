"""Maps as pictures."""

from pathlib import Path

import folder_paths
import torch
from comfy_api.latest import io, ui

from ..conceptattention_core.output import render
from ..conceptattention_core.output.explorer import make_page
from .before import check_names, refusal
from .door import accepting
from .wires import check_picture, maps_input, next_path, schema, tell, writing

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
    @accepting
    def execute(cls, maps, image, view) -> io.NodeOutput:
        notices = check_picture(maps, image)
        views = torch.stack(
            [
                render.to_image(VIEWS[view](render.to_picture(picture), maps, b))
                for b, picture in enumerate(image)
            ]
        )
        return io.NodeOutput(views, ui=tell(cls, notices, ui.PreviewImage(views, cls=cls)))


class Labels(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "ConceptAttentionLabels",
            "Concept Label Map",
            description="Each pixel in the flat colour of its strongest concept, and the same as "
            "numbers.",
            search_aliases=["concept attention", "segmentation map", "id map"],
            inputs=[
                maps_input(),
                io.Image.Input("image", tooltip="The picture that the maps belong to."),
            ],
            outputs=[
                io.Image.Output(
                    display_name="image", tooltip="Flat colours with a legend, one per picture."
                ),
                io.Mask.Output(
                    display_name="numbers",
                    tooltip="For each pixel the position of its concept, from 0, divided by 255: "
                    "saved as a PNG file of 8 bits, its values are the positions.",
                ),
            ],
        )

    @classmethod
    @accepting
    def execute(cls, maps, image) -> io.NodeOutput:
        notices = check_picture(maps, image)
        pictures = [render.to_picture(one) for one in image]
        numbers = [render.label_map(maps, b, picture) for b, picture in enumerate(pictures)]
        views = [render.paint_labels(found, maps, b) for b, found in enumerate(numbers)]
        return io.NodeOutput(
            torch.stack([render.to_image(view) for view in views]),
            torch.stack([torch.from_numpy(one).float() / 255 for one in numbers]),
            ui=tell(cls, notices),
        )


class Sheet(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "ConceptAttentionSheet",
            "Concept Map Sheet",
            description="The map of one concept in every block and step: where the model knows "
            "what, and when.",
            search_aliases=["concept attention", "blocks", "steps", "research"],
            is_output_node=True,
            inputs=[
                maps_input(),
                io.String.Input("name", placeholder="balloon", tooltip="A recorded concept."),
            ],
            outputs=[
                io.Image.Output(
                    display_name="image",
                    tooltip="Blocks from top to bottom, steps from left to right, one sheet per "
                    "picture.",
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, name=None) -> bool | str:
        return refusal(lambda: check_names(name, "maps", needed=True))

    @classmethod
    @accepting
    def execute(cls, maps, name) -> io.NodeOutput:
        views = torch.stack(
            [render.to_image(render.blocks_by_steps(maps, name, b)) for b in range(len(maps.maps))]
        )
        return io.NodeOutput(views, ui=ui.PreviewImage(views, cls=cls))


class Explorer(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "ConceptAttentionExplorer",
            "Concept Explorer",
            description="Point at a pixel and see its concepts, click for a mask, slide steps, "
            "blocks and threshold. On the node, and as one HTML file to keep or send.",
            search_aliases=["concept attention", "interactive", "hover", "html"],
            is_output_node=True,
            inputs=[
                maps_input(),
                io.Image.Input("image", tooltip="The picture that the maps belong to."),
                io.String.Input(
                    "filename_prefix",
                    default="ConceptAttention/explorer",
                    tooltip="Where in the output folder; a number is added, nothing is replaced. "
                    "One file per picture.",
                ),
            ],
            outputs=[
                io.String.Output(
                    display_name="paths",
                    is_output_list=True,
                    tooltip="The HTML files. They need no network and no ComfyUI.",
                )
            ],
        )

    @classmethod
    @accepting
    def execute(cls, maps, image, filename_prefix) -> io.NodeOutput:
        notices = check_picture(maps, image)
        paths = []
        for b, picture in enumerate(image):
            page = make_page(render.to_picture(picture), maps, b)
            with writing(filename_prefix):
                path = next_path(filename_prefix, ".html")
                path.write_text(page, "utf-8")
            paths.append(path)
        output = Path(folder_paths.get_output_directory())
        shown = [
            {
                "filename": path.name,
                "subfolder": path.parent.relative_to(output).as_posix(),
                "type": "output",
            }
            for path in paths
        ]
        return io.NodeOutput(
            [str(path) for path in paths], ui=tell(cls, notices, {"explorer": shown})
        )
