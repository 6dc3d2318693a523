"""Maps as images."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import folder_paths
import numpy as np
import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ..conceptattention_core.maps import ConceptMaps
from ..conceptattention_core.masks import check_images
from ..conceptattention_core.output.explorer import make_page
from ..conceptattention_core.output.render import draw_blocks_by_steps
from ..conceptattention_core.output.rendered import RenderedMaps
from ..conceptattention_core.pixels import to_bytes, to_floats
from .before import check_names, refusal
from .door import accepting
from .files import next_path, writing
from .inputs import maps_input
from .notices import show_notices
from .wires import schema

VIEWS = {
    "regions": RenderedMaps.overlay,
    "heat maps": RenderedMaps.sheet,
}


def _render(maps: ConceptMaps, image: Tensor) -> Iterator[RenderedMaps]:
    """The maps of each of the images `b h w rgb` on its pixels."""
    return (RenderedMaps(maps.of_image(b), to_bytes(one)) for b, one in enumerate(image))


def _stack(drawings: Iterable[np.ndarray]) -> Tensor:
    """Drawings of bytes, all of one size, as an IMAGE or a MASK: floats from 0 to 1."""
    return torch.stack([to_floats(one) for one in drawings])


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
        notices = check_images(maps, image)
        views = _stack(VIEWS[view](one) for one in _render(maps, image))
        return io.NodeOutput(views, ui=show_notices(cls, notices, ui.PreviewImage(views, cls=cls)))


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
        notices = check_images(maps, image)
        rendered = list(_render(maps, image))
        return io.NodeOutput(
            _stack(one.label_map() for one in rendered),
            _stack(one.labels for one in rendered),
            ui=show_notices(cls, notices),
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
        views = _stack(draw_blocks_by_steps(maps, name, b) for b in range(len(maps)))
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
        notices = check_images(maps, image)
        paths = []
        for b, picture in enumerate(image):
            page = make_page(to_bytes(picture), maps, b)
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
            [str(path) for path in paths], ui=show_notices(cls, notices, {"explorer": shown})
        )
