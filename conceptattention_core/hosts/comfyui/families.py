"""What a model family has to say for itself, and which families there are.

A family is one file beside this one and one line in `FAMILIES`. All plumbing lies in `patch.py`.
"""

from typing import Any, Protocol

from torch import Tensor, nn

from ... import ConceptAttentionError
from ...attention import JointBlock
from ...recording import Grid
from .auraflow import AuraFlow
from .chroma import Chroma
from .flux import Flux
from .flux2 import Flux2
from .longcat import LongCat
from .qwen_image import QwenImage
from .sd3 import SD3


class Ride(Protocol):
    """Concepts on their way through one forward of a model."""

    @property
    def concepts(self) -> Tensor:
        """The stream as it enters block 0, `b t (head d)`."""
        ...

    def block(self, index: int, vec: Any) -> JointBlock:
        """A block's text side; `vec` is what the block was called with to be modulated by."""
        ...

    def unplaced(self, queries: Tensor, image: slice) -> Tensor:
        """Image queries `b head p d` as they were before positions were applied."""
        ...


class Family(Protocol):
    name: str

    def matches(self, model: nn.Module) -> bool: ...

    def depth(self, model: nn.Module) -> int:
        """How many joint-attention blocks the model has."""
        ...

    def embed(self, clip: Any, words: list[str]) -> list[Tensor]:
        """For each concept the rows `t n` of its own tokens: no padding, no end token."""
        ...

    def grid(self, model: nn.Module, h: int, w: int) -> Grid:
        """The patch grid over a latent of `h` by `w`."""
        ...

    def enter(
        self, model: nn.Module, rows: Tensor, args: dict[str, Any], conds: dict[str, Any]
    ) -> Ride:
        """Let concepts `t n` enter, given what block 0 and the model were called with."""
        ...


FAMILIES: list[Family] = [
    Flux(),
    Chroma(),
    SD3(),
    Flux2(),
    QwenImage(),
    LongCat(),
    AuraFlow(),
]


def find(model: nn.Module) -> Family:
    for family in FAMILIES:
        if family.matches(model):
            return family
    raise ConceptAttentionError(
        f"Concept attention needs joint text-image attention. Got {type(model).__name__}; "
        f"supported: {', '.join(family.name for family in FAMILIES)}."
    )
