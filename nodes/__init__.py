"""The nodes: each is a schema and one call into `conceptattention_core`."""

import sys

from comfy_api.latest import ComfyExtension, io

from ..conceptattention_core.hosts.comfyui import api
from .before import keep_prompt
from .demo import DemoModel
from .layers import CutOut, Layers, SaveLayers, SaveMasks
from .locate import Locate
from .masks import Masks, Pick, Split
from .notices import running_server
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
        sys.modules.setdefault(api.NAME, api)  # for other packs: no folder here has a module's name
        if (server := running_server()) is not None:
            server.add_on_prompt_handler(keep_prompt)
        return NODES
