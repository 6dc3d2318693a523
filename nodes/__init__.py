"""The nodes: each is a schema and one call into `conceptattention_core`."""

import server
from comfy_api.latest import ComfyExtension, io

from .before import keep_prompt
from .demo import DemoModel
from .layers import CutOut, Layers, SaveLayers, SaveMasks
from .locate import Locate
from .masks import Masks, Pick, Split
from .record import Maps, Record
from .regions import Boxes, Regions
from .scores import Gate, Scores
from .view import Explorer, Labels, Overlay, Sheet

NODES: list[type[io.ComfyNode]] = [
    *(Record, Locate, Maps),
    *(Masks, Pick, Split),
    *(Overlay, Explorer, Labels, Sheet, Scores, Gate),
    *(CutOut, Layers, SaveLayers, SaveMasks, Boxes, Regions),
    DemoModel,
]


class ConceptAttentionExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        if (page := getattr(server.PromptServer, "instance", None)) is not None:
            page.add_on_prompt_handler(keep_prompt)
        return NODES
