"""What a model family has to say for itself. `families.py` lists those there are."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from ....attention import ImageVectors, JointBlock
from ....recording import Grid

Places = slice | Tensor
"""Which tokens of a sequence: a run of them, or each by its number."""


@dataclass(frozen=True)
class Layout:
    """Where the picture stands among the tokens of a joint attention."""

    length: int
    """Of all tokens: text, picture, and what else a family joins."""
    patches: Places


class Ride(Protocol):
    """Concepts on their way through one forward of a model."""

    @property
    def concepts(self) -> Tensor:
        """The stream as it enters block 0, `b t (head d)`."""
        ...

    def block(self, index: int, vec: Any) -> JointBlock:
        """A block's text side; `vec` is what the block was called with to be modulated by."""
        ...


class RideByAttention(Ride, Protocol):
    """The same where the attention itself is listened to."""

    def unplaced(self, queries: Tensor, image: Places) -> Tensor:
        """Image queries `b head p d` as they were before positions were applied."""
        ...


class RideByProjections(Ride, Protocol):
    """The same in a family that names the `attention` of its blocks: its projections are."""

    def image(
        self, index: int, q: Tensor, k: Tensor, v: Tensor, outputs: Tensor, image: Places
    ) -> ImageVectors:
        """The image side of a block, from what its attention projected and gave, all
        `b p (head d)`."""
        ...


class Family(ABC):
    name: ClassVar[str]

    arguments: ClassVar[dict[str, str]] = {}
    """What a block's `forward` calls its `img`, `txt` and `vec`, in a family whose blocks cannot be
    patched (they have no place in ComfyUI's `patches_replace`): these are listened to as modules.
    """

    @abstractmethod
    def matches(self, model: nn.Module) -> bool: ...

    @abstractmethod
    def blocks(self, model: Any) -> Sequence[nn.Module]:
        """The joint-attention blocks."""

    def attention(self, block: Any) -> Any | None:
        """A block's attention with to_q, to_k, to_v and to_out, in a family with `arguments` that
        looks for no other in ComfyUI's place for these: it is listened to by its projections.
        """
        return None

    @abstractmethod
    def grid(self, model: Any, h: int, w: int, latents: int = 1) -> Grid:
        """The patch grid over a latent of `h` by `w`, and of `latents` along time."""

    @abstractmethod
    def text_width(self, model: Any) -> int | None:
        """How many numbers a row of its text encoder has; None where the model does not say."""

    @abstractmethod
    def embed(self, clip: Any, words: list[str]) -> list[Tensor]:
        """For each concept the rows `t n` of its own tokens: no padding, no end token."""

    @abstractmethod
    def enter(self, model: Any, rows: Tensor, args: dict[str, Any], conds: dict[str, Any]) -> Ride:
        """Let concepts `t n` enter, given what block 0 and the model were called with."""

    def told(self, args: dict[str, Any]) -> Any:
        """What a ride is told of a block that is called with `args`, as its `vec`."""
        return args["vec"]

    def layout(self, model: Any, args: dict[str, Any], grid: Grid, ride: Any) -> Layout:
        """Where `patches` stand in the attention of a block called with `args`.

        Unless a family says otherwise: text, then the picture, then pictures to refer to.
        """
        text = args["txt"].shape[1]
        return Layout(text + args["img"].shape[1], slice(text, text + grid.patches))
