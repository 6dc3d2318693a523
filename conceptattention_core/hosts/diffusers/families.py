"""What a model family has to say for itself, and which families there are.

A family is one file beside this one and one line in `FAMILIES`. All plumbing lies in `patch.py`.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from torch import Tensor, nn

from ... import ConceptAttentionError
from ...attention import ImageVectors, JointBlock
from ...recording import Grid
from .flux import Flux


class Ride(Protocol):
    """Concepts on their way through one call of a transformer."""

    @property
    def concepts(self) -> Tensor:
        """The stream as it enters block 0, `b t (head d)`."""
        ...

    def block(self, index: int) -> JointBlock: ...

    def image(self, index: int, q: Tensor, k: Tensor, v: Tensor, outputs: Tensor) -> ImageVectors:
        """The image side of a block, from what its projections gave, all `b p (head d)`."""
        ...


class Family(Protocol):
    name: str
    time_unit: int
    """What the scheduler's timesteps are divided by on their way into the transformer."""

    def matches(self, transformer: Any) -> bool: ...

    def blocks(self, transformer: Any) -> nn.ModuleList:
        """The joint blocks. Each has a joint attention `attn` with to_q, to_k, to_v and to_out."""
        ...

    def text_length(self, pipe: Any) -> int:
        """How many tokens prompts are padded to, unless the pipeline is told otherwise."""
        ...

    def embed(self, pipe: Any, words: list[str], length: int) -> list[Tensor]:
        """For each concept the rows `t n` of its own tokens: no padding, no end token.

        Each is encoded alone, padded to `length` tokens.
        """
        ...

    def patch_pixels(self, pipe: Any) -> int:
        """Pixels along one side of a patch."""
        ...

    def grid(self, pipe: Any, call: Mapping[str, Any]) -> Grid:
        """The patch grid of the picture, given what the transformer was called with."""
        ...

    def encode(self, pipe: Any, pictures: Tensor) -> Tensor:
        """Pictures `b rgb h w`, 0..1, sides whole patches, as latents `b c h w` of unit scale.

        The mean of what the encoder believes, not a sample.
        """
        ...

    def prepare(
        self, pipe: Any, shape: torch.Size, caption: str, length: int
    ) -> Callable[[Tensor, float], dict[str, Any]]:
        """A function from a noised latent of `shape` (b c h w) and its noise level (0..1) to what
        the transformer is called with. Pooled text is zeros, guidance 0: the authors' defaults.
        """
        ...

    def enter(
        self,
        transformer: Any,
        rows: Tensor,
        call: Mapping[str, Any],
        first: Mapping[str, Any],
    ) -> Ride:
        """Let concepts `t n` enter, given what the transformer and block 0 were called with."""
        ...


FAMILIES: list[Family] = [Flux()]


def find(pipe: DiffusionPipeline) -> Family:
    transformer = getattr(pipe, "transformer", None)
    for family in FAMILIES:
        if family.matches(transformer):
            return family
    found = type(pipe).__name__
    if transformer is not None:
        found += f" ({type(transformer).__name__})"
    raise ConceptAttentionError(
        f"Concept attention needs joint text-image attention. Got {found}; "
        f"supported: {', '.join(family.name for family in FAMILIES)}."
    )
