"""The text tokens that stand for concepts, all concepts of a recording in one sequence."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property

import torch
from torch import Tensor

from . import ConceptAttentionError
from .attention import token_mean
from .recording import RecordSpec


@dataclass(frozen=True, eq=False)
class ConceptTokens:
    """Tokens of one or more concepts, in the concepts' order."""

    rows: Tensor
    """What the text encoder gave, `t n`."""
    owner: Tensor
    """`t`: for each token its concept, counted from 0."""
    place: Tensor
    """`t`: where each stands in the text, counted from the text's end: the last token is -1.
    Zeros where a text has no positions."""
    kind: Tensor
    """`t`: what a row is, in a family that reads a concept in several ways; else zeros."""

    @classmethod
    def of(
        cls, rows: Tensor, place: Sequence[int] | None = None, kind: Sequence[int] | None = None
    ) -> "ConceptTokens":
        """The tokens of one concept, from its rows `t n`."""
        zeros = [0] * len(rows)
        numbers = (zeros, place or zeros, kind or zeros)
        return cls(rows, *(torch.tensor(list(own), dtype=torch.long) for own in numbers))

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def mean(self) -> Tensor:
        """`c t`: the mean over the tokens of each concept, see `token_mean`."""
        return token_mean(self.owner)

    @cached_property
    def counts(self) -> list[int]:
        """How many tokens each concept has."""
        return self.owner.bincount().tolist()

    def positions(self, length: int | Tensor) -> Tensor:
        """`t`: where the tokens stand in a text of so many tokens; `b t` for lengths `b 1`.

        A concept stands where it would stand as the prompt; in a text that is shorter than its
        template, at the start.
        """
        place = self.place if isinstance(length, int) else self.place.to(length)
        return (length + place).clamp_min(0)


def pack_tokens(spec: RecordSpec, concepts: Sequence[ConceptTokens]) -> ConceptTokens:
    """The tokens of all concepts of `spec` as one sequence, from each one's own."""
    for concept, own in zip(spec.concepts.concepts, concepts, strict=True):
        if len(own) == 0:
            raise ConceptAttentionError(
                f"The text encoder reads nothing in '{concept.words}' ({concept.name}). "
                "Give it words: 'name: words'."
            )
    chosen = [_first(own) if spec.tokens == "first" else own for own in concepts]
    owned = [replace(own, owner=torch.full_like(own.owner, c)) for c, own in enumerate(chosen)]
    names = [field.name for field in fields(ConceptTokens)]
    return ConceptTokens(*(torch.cat([getattr(own, name) for own in owned]) for name in names))


def _first(own: ConceptTokens) -> ConceptTokens:
    return ConceptTokens(own.rows[:1], own.owner[:1], own.place[:1], own.kind[:1])
