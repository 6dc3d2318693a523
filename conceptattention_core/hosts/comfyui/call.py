"""One call of the model in a sampling run: the concepts beside the positive prompt."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from ...attention import ImageVectors
from ...forward import ConceptForward, RecordPlan, StopForward
from ...text_side import ConceptStream
from .families.base import BlockCall, Family, Layout, ModelCall, Once
from .guard import Guard, own_copy
from .windows import VisiblePart

POSITIVE = 0  # in transformer_options["cond_or_uncond"]


@dataclass(frozen=True)
class BlockInput:
    """The concepts before a block."""

    index: int
    """Of the block."""
    layout: Layout
    """Where the patches stand in its attention."""
    modulation: Any
    """What it is modulated with, for the positive prompt."""


@dataclass(frozen=True, eq=False)
class HostCall:
    """A call of the model as ComfyUI makes it."""

    function: Callable[..., Tensor]
    """Calls the model as it was called, without what wraps it."""
    given: dict[str, Any]
    """Its arguments: `x`, `t`, `c_concat`, `c_crossattn`, ..."""
    options: dict[str, Any]
    """Its `transformer_options`, before blocks were patched for the concepts."""
    timesteps: Tensor
    """`b`: the noise level, in the unit that the network is called with."""


class CallForward(ConceptForward):
    """The concepts on their way through the blocks in one call of the model.

    Of the batch, the rows of the positive prompts count: `chunks` says which prompts these are.
    Nothing in it leads back to it, so that its tensors are gone as soon as the call is over.
    """

    def __init__(
        self,
        family: Family,
        plan: RecordPlan,
        guard: Guard,
        network: nn.Module,
        part: VisiblePart,
        chunks: list[int],
        call: HostCall,
        pictures: int,
        once: Once,
    ):
        super().__init__(plan)
        self.family, self.guard, self.network, self.part = family, guard, network, part
        self.chunks, self.call, self.once = chunks, call, once
        self.batch, self.size = len(call.given["x"]), pictures
        self.stream: ConceptStream | None = None

    def before_block(self, index: int, block: BlockCall) -> BlockInput | None:
        """The concepts before a block, if they are due there; they start before block 0."""
        if self.guard.reason is not None:
            return None
        if index == 0 and self.stream is None:
            own = block.select(lambda value: own_copy(self.positive(value)))
            self.stream = self.family.start_stream(
                self.network, self.plan.tokens, own, self._model_call()
            )
            self.start(self.stream.concepts)
        if self.stream is None or not self.is_due(index):
            return None
        layout = self.family.layout(self.network, block, self.part.grid, self.stream)
        return BlockInput(index, layout, self.positive(self.family.modulation(block)))

    def after_attention(self, at: BlockInput, q: Tensor, k: Tensor, v: Tensor, out: Tensor) -> None:
        """Take one block, given its joint attention `b head n d`, and what it gave `b n d`."""
        stream, patches = self.stream, at.layout.patches
        if stream is None or not self.is_due(at.index):
            return

        def queries() -> Tensor:
            return self.positive(q)[:, :, patches]

        image = ImageVectors(
            keys=self.positive(k)[:, :, patches],
            values=self.positive(v)[:, :, patches],
            outputs=self.positive(out)[:, patches],
            queries_before_rope=lambda: stream.queries_before_rope(queries(), patches),
            queries=queries,
        )
        self.step(stream.text_side(at.index, at.modulation), image)

    def after_projections(
        self, at: BlockInput, q: Tensor, k: Tensor, v: Tensor, out: Tensor
    ) -> None:
        """The same, given what its attention projected and gave, all `b n (head d)`."""
        stream, patches = self.stream, at.layout.patches
        if stream is None or not self.is_due(at.index):
            return
        q, k, v, out = (self.positive(x)[:, patches] for x in (q, k, v, out))
        image = self.family.image(self.network, at.index, stream, q, k, v, out, patches)
        self.step(stream.text_side(at.index, at.modulation), image)

    def mean_scores(self) -> list[Tensor]:
        """`b c p` for each scored block: the mean over the positive prompts of a picture."""
        return [
            rearrange(scores, "(chunk b) c p -> chunk b c p", b=self.size).mean(0)
            for scores in self.scores
        ]

    def _given(self) -> dict[str, Any]:
        """What the model was called with for the positive prompt."""
        return {name: self.positive(value) for name, value in self.call.given.items()}

    def _model_call(self) -> ModelCall:
        given = self.call.given
        text, pooled, length = (
            self.positive(given.get(name)) for name in ("c_crossattn", "y", "num_tokens")
        )
        timesteps = self.positive(self.call.timesteps)
        return ModelCall(timesteps, text, pooled, length, self._call_again, self.once)

    def _call_again(self, text: Tensor, blocks: Mapping[tuple[str, int], Callable]) -> None:
        given = self._given()
        given.pop("attention_mask", None)  # it hides the prompt's padding
        if given.get("y") is not None:
            given["y"] = torch.zeros_like(given["y"])
        options = {
            **self.call.options,
            "patches": {},
            "patches_replace": {"dit": dict(blocks)},
            "cond_or_uncond": [POSITIVE] * len(self.chunks),
        }
        with suppress(StopForward):
            given = {**given, "c_crossattn": text, "control": None}
            self.call.function(**given, transformer_options=options)

    def positive(self, value: Any) -> Any:
        """The rows of the positive prompt; what has no row per picture is returned as it is."""
        if isinstance(value, tuple):
            return tuple(self.positive(part) for part in value)
        if isinstance(value, Tensor):
            if value.ndim == 0 or len(value) != self.batch:
                return value
            rows = [value[i * self.size : (i + 1) * self.size] for i in self.chunks]
            return rows[0] if len(rows) == 1 else torch.cat(rows)
        if is_dataclass(value) and not isinstance(value, type):  # the modulation of a block
            parts = {part.name: self.positive(getattr(value, part.name)) for part in fields(value)}
            return replace(value, **parts)
        return value
