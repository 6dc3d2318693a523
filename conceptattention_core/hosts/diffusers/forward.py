"""One call of a transformer: the image side of each joint block, and the concepts beside it."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from ... import ConceptAttentionError
from ...forward import ConceptForward, RecordPlan
from ...recording import Grid
from .calls import BlockCall, ModelCall
from .families.base import ConceptStream, Family
from .families.joint_attention import image_vectors

PROJECTIONS = ("to_q", "to_k", "to_v")
FUSED = "to_qkv"

Projected = dict[str, dict[tuple[int, ...], Tensor]]
"""What projections of a block gave, by name, then by rows and tokens: attention may go in parts."""


class TransformerForward:
    """The concepts in one call of a transformer, for the images in some rows of its batch."""

    def __init__(
        self,
        family: Family,
        plan: RecordPlan,
        grid: Grid,
        transformer: nn.Module,
        call: ModelCall,
        rows: Sequence[int],
        blocks: Sequence[Any],
    ):
        self.family, self.grid, self.transformer = family, grid, transformer
        self.call, self.rows = call, rows
        self.blocks = blocks
        """The joint blocks with hooks. Others may stand in for them during the call."""
        self.concepts = ConceptForward(plan)
        self._stream: ConceptStream | None = None
        self._patches = slice(0)
        self._projected: Projected = {}
        """Of the block that is due."""
        self._further: Projected = {}
        """Of the block before it, since the concepts have passed it."""

    def start(self, index: int, arguments: Mapping[str, Any]) -> None:
        """Let the concepts start with the first block, given what it is called with."""
        if index != 0 or self._stream is not None:
            return
        first, call = BlockCall.of(arguments), self.call.select(self.rows)
        tokens = self.concepts.plan.tokens
        self._stream = self.family.start_stream(self.transformer, tokens, call, first)
        self.concepts.start(self._stream.concepts.expand(len(self.rows), -1, -1))
        before = self.family.tokens_before_patches(self.call, first)  # reference images come after
        self._patches = slice(before, before + self.grid.patches)

    def check(self, index: int, name: str, layer: nn.Module) -> None:
        """Raise where a layer has been replaced since it got its hook."""
        now: Any = getattr(self.family.attention(self.blocks[index]), name, None)
        if layer is not (now[0] if isinstance(now, nn.ModuleList) else now):
            raise ConceptAttentionError(
                f"{name} of block {index} was replaced while the transformer ran. Load adapters "
                "and change layers between its calls."
            )

    def keep(self, index: int, name: str, projected: Tensor) -> None:
        """Keep what a projection gave, `b n (head d)`, of the block that is due or was passed."""
        kept = self._kept_of(index)
        if kept is not None:
            names = PROJECTIONS if name == FUSED else (name,)
            for one, part in zip(names, projected.chunk(len(names), dim=-1), strict=True):
                kept.setdefault(one, {})[part.shape[:2]] = part

    def _kept_of(self, index: int) -> Projected | None:
        due = self.concepts.index
        return {due: self._projected, due - 1: self._further}.get(index)

    def step(self, index: int, attended: Tensor) -> None:
        """Take the concepts through a block, given what the image attended, `b n (head d)`."""
        stream, kept = self._stream, self._kept_of(index)
        if stream is None or kept is None:
            return
        parts = [kept.get(name, {}).get(attended.shape[:2]) for name in PROJECTIONS]
        found = [part for part in (*parts, attended) if part is not None]
        if len(found) <= len(PROJECTIONS):
            return
        if not self.concepts.is_due(index):
            self._refuse_further_part(index, attended)
            return
        q, k, v, outputs = (self._select(x) for x in found)
        self._projected.clear()
        self._further.clear()
        block = self.blocks[index]
        attention = self.family.attention(block)
        image = image_vectors(attention, q, k, v, outputs, stream.image_rope)
        self.concepts.step(stream.text_side(block), image)

    def _refuse_further_part(self, index: int, attended: Tensor) -> None:
        """Raise if the images may be in a further part of a block's attention as well."""
        is_part = max(self.rows) < len(attended) < len(self.call.hidden_states)
        processor: Any = getattr(self.family.attention(self.blocks[index]), "processor", None)
        # diffusers' own processors compute the perturbed pass last
        if is_part and not type(processor).__module__.startswith("diffusers."):
            raise ConceptAttentionError(
                "Attention is computed in parts that cannot be told apart: more than one of "
                "them may be the prompt's, as where a perturbed pass is computed beside it."
            )

    def _select(self, whole: Tensor) -> Tensor:
        """The patches of the images, `b p (head d)`, of what there is of the whole call."""
        if max(self.rows) >= len(whole) or whole.shape[1] < self._patches.stop:
            raise ConceptAttentionError(
                f"Attention is computed in parts ({len(whole)} rows of "
                f"{len(self.call.hidden_states)}), among which the prompt's cannot be found."
            )
        first, *_, last = (*self.rows, self.rows[-1])
        if last - first + 1 == len(self.rows) and list(self.rows) == sorted(self.rows):
            return whole[first : last + 1, self._patches]
        return whole[list(self.rows), self._patches]
