"""The nodes: each is a schema and one call into `conceptattention_core`."""

from comfy_api.latest import ComfyExtension, io

from .demo import DemoModel
from .locate import Locate
from .masks import Masks, Pick
from .record import Maps, Record
from .view import Overlay

NODES: list[type[io.ComfyNode]] = [Record, Locate, Maps, Masks, Pick, Overlay, DemoModel]


class ConceptAttentionExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES
