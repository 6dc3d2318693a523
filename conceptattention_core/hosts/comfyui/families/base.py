"""What a model family declares. `FAMILIES` in this folder lists those there are.

A usual family is a class with a few attributes and two functions: `start_stream` makes the
concepts' stream as the model makes its text's, `text_side` names the layers of one block.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from operator import attrgetter
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from ....attention import ImageVectors
from ....classes import is_a
from ....recording import Grid
from ....text_side import ConceptStream, TokenIndex
from ....tokens import ConceptTokens

# Where the image stands among the tokens of a joint attention
AFTER_TEXT, FIRST, LAST = "after text", "first", "last"

Names = Mapping[str, str | tuple[str, ...]]
"""What a block calls each field of a `BlockCall`; a tuple's arguments make one field."""

PATCHED: dict[str, str] = {"image": "img", "text": "txt", "modulation": "vec", "rotary": "pe"}
"""The names where ComfyUI has a place for patches (`patches_replace`)."""


@dataclass(frozen=True, eq=False)
class BlockCall:
    """What a joint block is called with. What a model does not have is None."""

    image: Tensor | None = None
    """`b p d`: patches, and those of reference images."""
    text: Tensor | None = None
    """`b t d`."""
    sequence: Tensor | None = None
    """`b n d`: text and image as one, in blocks that have one sequence."""
    modulation: Any = None
    """What the block is modulated with: the embedded noise level, or shifts, scales and gates."""
    rotary: Any = None
    """The positions of the joint sequence or of the image, as the model has them."""
    text_rotary: Any = None
    """Those of the text, where it has its own."""
    text_length: int | None = None
    """How many tokens of the text take part in the attention, where padding does not."""
    zero_index: Any = None
    """Which tokens belong to reference images, whose noise level is zero (Lumina)."""
    options: Mapping[str, Any] | None = None
    """ComfyUI's `transformer_options`."""
    original: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    """The block itself, as a patch calls it."""

    @classmethod
    def of(
        cls,
        names: Names,
        arguments: Mapping[str, Any],
        options: Mapping[str, Any] | None,
        original: Callable | None = None,
    ) -> "BlockCall":
        """From a block's `arguments`; `names` says what the block calls each of these fields."""
        given: dict[str, Any] = {
            field: arguments.get(theirs)
            if isinstance(theirs, str)
            else tuple(arguments.get(one) for one in theirs)
            for field, theirs in names.items()
        }
        return cls(**given, options=options, original=original)

    @property
    def stream(self) -> Tensor:
        """Of which kind the concepts' stream is: the text, or the sequence that it is part of."""
        stream = self.text if self.text is not None else self.sequence
        assert stream is not None
        return stream

    @property
    def length(self) -> int:
        """How many tokens meet in the attention."""
        text = self.text_length
        if self.text is not None:
            text = self.text.shape[1] if text is None else min(self.text.shape[1], text)
        parts = [part.shape[1] for part in (self.image, self.sequence) if part is not None]
        return sum(parts) + (text or 0)

    def select(self, choose: Callable[[Any], Any]) -> "BlockCall":
        """The same call with `choose` of each tensor: some rows of its batch."""
        kept = ("options", "original")
        chosen = {
            field.name: choose(getattr(self, field.name))
            for field in fields(self)
            if field.name not in kept
        }
        return replace(self, **chosen)


class CallAgain(Protocol):
    """Calls the model with another text."""

    def __call__(self, text: Tensor, blocks: Mapping[tuple[str, int], Callable]) -> None:
        """`text` (b t n) stands in place of the positive prompt, zeros in place of its pooled
        vector; `blocks` are all that is patched, and may end the call by `StopForward`."""
        ...


class Once(Protocol):
    """Makes what does not depend on the noise level: once for all calls of a run."""

    def __call__(self, key: Tensor, make: Callable[[], Tensor]) -> Tensor:
        """What `make` gave when it was last called with an equal `key`, or what it gives now."""
        ...


@dataclass(frozen=True, eq=False)
class ModelCall:
    """What the model is called with for the positive prompt."""

    timesteps: Tensor
    """`b`: the noise level, in the unit that the network is called with."""
    text: Tensor | None = None
    """`b t n`: the prompt's rows (`c_crossattn`)."""
    pooled: Tensor | None = None
    """`b n`: the prompt's pooled vector (`y`)."""
    text_length: int | None = None
    """How many tokens the prompt has without padding (`num_tokens`)."""
    again: CallAgain | None = None
    """Calls the model with another text; for the generic path."""
    once: Once = lambda key, make: make()
    """Keeps what is the same in every call of the run."""

    @property
    def text_tokens(self) -> int:
        """How many tokens the prompt has."""
        if self.text_length is not None:
            return self.text_length
        assert self.text is not None
        return self.text.shape[1]


@dataclass(frozen=True)
class Layout:
    """Where the image stands among the tokens of a joint attention."""

    length: int
    """Of all tokens: text, image, and what else a family joins."""
    patches: TokenIndex
    """Which of them are the image's patches, in the order of the grid."""


class ConceptReader(Protocol):
    """How a family reads concepts."""

    def read(self, clip: Any, words: list[str], family: str) -> list[ConceptTokens]:
        """For each concept its own tokens: no padding, no end token."""
        ...


class Family(ABC):
    name: ClassVar[str]
    """As messages and documents call it."""
    model: ClassVar[str] = ""
    """The full name of the model's class: not every version of ComfyUI has it."""
    stack: ClassVar[str] = ""
    """What the model calls its joint-attention blocks."""
    latent_pixels: ClassVar[int] = 8
    """Pixels along one side of a cell of the latent."""
    image_at: ClassVar[str] = AFTER_TEXT
    """Where the image stands in the joint attention: `AFTER_TEXT`, `FIRST` or `LAST`."""
    reads: ClassVar[ConceptReader]
    """How concepts are read."""
    text_width_at: ClassVar[str] = "txt_in.in_features"
    """Where the model says how many numbers a row of its text encoder has."""
    hooked: ClassVar[bool] = False
    """Whether blocks are hooked as modules, because ComfyUI has no place for patches on them."""
    arguments: ClassVar[Names] = PATCHED
    """What a block calls each field of a `BlockCall`."""

    def matches(self, model: nn.Module) -> bool:
        """Whether a model is of this family."""
        return is_a(model, self.model)

    def blocks(self, model: Any) -> Sequence[nn.Module]:
        """The joint-attention blocks."""
        return getattr(model, self.stack)

    def attention(self, block: Any) -> Any | None:
        """A hooked block's attention with to_q, to_k, to_v and to_out, where no other attention can
        take its place: it is recorded by its projections."""
        return None

    def grid(self, model: Any, h: int, w: int, latents: int = 1) -> Grid:
        """The patch grid over a latent of `h` by `w`, and of `latents` along time."""
        return Grid.of_latent(h, w, patch=model.patch_size, scale=self.latent_pixels)

    def text_width(self, model: Any) -> int | None:
        """How many numbers a row of its text encoder has.

        None where the model does not say; AttributeError where it has not the layer that would.
        """
        return attrgetter(self.text_width_at)(model)

    def embed(self, clip: Any, words: list[str]) -> list[ConceptTokens]:
        """For each concept its own tokens: no padding, no end token."""
        return self.reads.read(clip, words, self.name)

    @abstractmethod
    def start_stream(
        self, model: Any, tokens: ConceptTokens, block: BlockCall, call: ModelCall
    ) -> ConceptStream:
        """The concepts before block 0, given what this block and the model are called with."""

    def modulation(self, block: BlockCall) -> Any:
        """What `ConceptStream.text_side` is given of a block's call."""
        return block.modulation

    def layout(self, model: Any, block: BlockCall, grid: Grid, stream: ConceptStream) -> Layout:
        """Where the patches stand in the attention of a block."""
        length = block.length
        start = 0
        if self.image_at == LAST:
            start = length - grid.patches
        elif self.image_at == AFTER_TEXT and block.text is not None:
            start = block.text.shape[1]
        return Layout(length, slice(start, start + grid.patches))

    def image(
        self,
        model: Any,
        index: int,
        stream: ConceptStream,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        outputs: Tensor,
        patches: TokenIndex,
    ) -> ImageVectors:
        """The image side of a block that is recorded by its projections, all `b p (head d)`."""
        raise NotImplementedError(f"{self.name} is not recorded by projections")
