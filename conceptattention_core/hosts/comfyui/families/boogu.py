"""Boogu: blocks of two streams, then blocks of one sequence, as OmniGen2's are.

Concepts ride through both kinds, for text and picture attend to each other in either; the first
number the blocks first. A concept is read by the language model inside the template of a prompt,
from which its own tokens are taken; it stands at the places that they have there. Captions are
refined before they meet the picture; so every concept is refined by itself, as a caption of its
own. There is no pooled vector. The picture's attention to itself, beside the joint one in blocks
of two streams, has no text and is not compared.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from ....classes import is_a
from ....recording import Grid
from ._omnigen_stream import OmniGenBlock, OmniGenRide, modulate, text_heads
from .base import Family, Layout
from .positions import numbered, place
from .reading import read_template

if TYPE_CHECKING:  # ComfyUI 0.3.64 does not have it
    from comfy.ldm.boogu.model import BooguDoubleStreamBlock, BooguTransformer2DModel


class Boogu(Family):
    name = "Boogu"
    arguments: ClassVar = {
        "img": "img_hidden_states",
        "txt": "instruct_hidden_states",
        "pe": "joint_rotary_emb",
        "joined": "hidden_states",  # both, in blocks of one sequence
        "vec": "temb",
    }

    def matches(self, model: nn.Module) -> bool:
        return is_a(model, "comfy.ldm.boogu.model.BooguTransformer2DModel")

    def blocks(self, model: "BooguTransformer2DModel") -> Sequence[nn.Module]:
        return [*model.double_stream_layers, *model.single_stream_layers]

    def grid(self, model: "BooguTransformer2DModel", h: int, w: int, latents: int = 1) -> Grid:
        return Grid.of_latent(h, w, patch=model.patch_size)

    def layout(
        self, model: "BooguTransformer2DModel", args: dict[str, Any], grid: Grid, ride: Any
    ) -> Layout:
        """Text, pictures to refer to, and the picture last."""
        parts = [args[name] for name in ("txt", "img", "joined") if args.get(name) is not None]
        length = sum(part.shape[1] for part in parts)
        return Layout(length, slice(length - grid.patches, length))

    def text_width(self, model: "BooguTransformer2DModel") -> int | None:
        return model.time_caption_embed.caption_embedder[1].in_features

    def embed(self, clip: Any, words: list[str]) -> list[Tensor]:
        return numbered(read_template(clip, words, self.name))

    def enter(
        self,
        model: "BooguTransformer2DModel",
        rows: Tensor,
        args: dict[str, Any],
        conds: dict[str, Any],
    ) -> OmniGenRide:
        return BooguRide.enter(model, rows, args, conds)


class BooguRide(OmniGenRide):
    def block(self, index: int, vec: Tensor) -> "BooguBlock | OmniGenBlock":
        of_two_streams = self.model.double_stream_layers
        if index >= len(of_two_streams):
            single = self.model.single_stream_layers[index - len(of_two_streams)]
            return OmniGenBlock.at(single, vec, self.turns)
        block = of_two_streams[index]
        scale, gate, scale_mlp, gate_mlp = modulate(block.instruct_norm1, vec)
        # of the second norm the block uses the first two parts, the gate as a shift
        scale_again, shift_mlp, _, _ = modulate(block.instruct_norm2, vec)
        return BooguBlock(
            block, scale, gate, scale_again, shift_mlp, scale_mlp, gate_mlp, self.turns
        )


@dataclass(frozen=True)
class BooguBlock:
    """The text side of a block of two streams. The modulation is `b 1 d`."""

    block: "BooguDoubleStreamBlock"
    scale: Tensor
    gate: Tensor
    scale_again: Tensor
    shift_mlp: Tensor
    scale_mlp: Tensor
    gate_mlp: Tensor
    turns: Tensor

    def heads(self, concepts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        own = self.block.img_instruct_attn
        modulated = self.block.instruct_norm1.norm(concepts) * (1 + self.scale)
        project = own.processor
        return text_heads(
            own,
            project.instruct_to_q(modulated),
            project.instruct_to_k(modulated),
            project.instruct_to_v(modulated),
        )

    def apply_rope(self, heads: Tensor) -> Tensor:
        return place(heads, self.turns)

    def update(self, concepts: Tensor, attended: Tensor) -> Tensor:
        own = self.block.img_instruct_attn
        attended = self.block.instruct_attn_norm(
            own.to_out[0](own.processor.instruct_out(attended))
        )
        # what goes into the MLP is the stream from before the attention
        before = self.block.instruct_norm2.norm(concepts) * (1 + self.scale_again)
        modulated = torch.addcmul(self.shift_mlp, before, 1 + self.scale_mlp)
        hidden = self.block.instruct_feed_forward(self.block.instruct_ffn_norm1(modulated))
        concepts = concepts + self.gate.tanh() * attended
        return concepts + self.gate_mlp.tanh() * self.block.instruct_ffn_norm2(hidden)
