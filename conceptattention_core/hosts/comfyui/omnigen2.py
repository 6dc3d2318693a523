"""OmniGen2: text, pictures to refer to and the picture are one sequence, with weights in common.

A concept is read by the language model inside the template of a prompt, from which its own tokens
are taken; it stands at the places that they have there. Captions are refined before they meet the
picture; so every concept is refined by itself, as a caption of its own. There is no pooled vector.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from comfy.ldm.omnigen.omnigen2 import OmniGen2Transformer2DModel, OmniGen2TransformerBlock
from einops import rearrange, repeat
from torch import Tensor, nn

from ...recording import Grid
from .family import Family, Layout
from .positions import apart, numbered, place, turns_of, unplace
from .reading import read_template
from .refining import refine


class OmniGen2(Family):
    name = "OmniGen2"
    arguments: ClassVar = {"img": "hidden_states", "vec": "temb", "pe": "image_rotary_emb"}

    def matches(self, model: nn.Module) -> bool:
        return isinstance(model, OmniGen2Transformer2DModel)

    def blocks(self, model: OmniGen2Transformer2DModel) -> nn.ModuleList:
        return model.layers

    def grid(self, model: OmniGen2Transformer2DModel, h: int, w: int, latents: int = 1) -> Grid:
        return Grid.of_latent(h, w, patch=model.patch_size)

    def layout(
        self, model: OmniGen2Transformer2DModel, args: dict[str, Any], patches: int
    ) -> Layout:
        """Text, pictures to refer to, and the picture last."""
        length = args["img"].shape[1]
        return Layout(length, slice(length - patches, length))

    def embed(self, clip: Any, words: list[str]) -> list[Tensor]:
        return numbered(read_template(clip, words, self.name))

    def enter(
        self,
        model: OmniGen2Transformer2DModel,
        rows: Tensor,
        args: dict[str, Any],
        conds: dict[str, Any],
    ) -> "OmniGenRide":
        img = args["img"]
        positions = rearrange(args["pe"], "b n one d i j -> b one n d i j")
        rows, lengths = apart(rows)
        rows, turns = turns_of(rows, positions, conds["num_tokens"])
        embedded = model.time_caption_embed.caption_embedder(rows[None].to(img))
        refined = refine(embedded, lengths, turns, model.context_refiner)
        return OmniGenRide(model, refined.expand(len(img), -1, -1), positions, turns)


@dataclass(frozen=True)
class OmniGenRide:
    model: OmniGen2Transformer2DModel
    concepts: Tensor
    positions: Tensor  # b 1 n d/2 2 2
    turns: Tensor  # 1 1 t d/2 2 2

    def block(self, index: int, vec: Tensor) -> "OmniGenBlock":
        block = self.model.layers[index]
        level = block.norm1.linear(block.norm1.silu(vec))
        modulation = rearrange(level, "b (four d) -> four b 1 d", four=4)
        return OmniGenBlock(block, *modulation, turns=self.turns)

    def unplaced(self, queries: Tensor, image: slice) -> Tensor:
        return unplace(queries, self.positions[:, :, image])


@dataclass(frozen=True)
class OmniGenBlock:
    """A block, as concepts go through it. The modulation is `b 1 d`."""

    block: OmniGen2TransformerBlock
    scale: Tensor
    gate: Tensor
    scale_mlp: Tensor
    gate_mlp: Tensor
    turns: Tensor

    def heads(self, concepts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        own = self.block.attn
        modulated = self.block.norm1.norm(concepts) * (1 + self.scale)
        q, k, v = (
            rearrange(project(modulated), "b t (head d) -> b head t d", d=own.dim_head)
            for project in (own.to_q, own.to_k, own.to_v)
        )
        times = own.heads // own.kv_heads
        k, v = (
            repeat(x, "b head t d -> b (head times) t d", times=times) for x in (own.norm_k(k), v)
        )
        return own.norm_q(q), k, v

    def place(self, heads: Tensor) -> Tensor:
        return place(heads, self.turns)

    def update(self, concepts: Tensor, attended: Tensor) -> Tensor:
        attended = self.block.norm2(self.block.attn.to_out[0](attended))
        concepts = concepts + self.gate.tanh() * attended
        modulated = self.block.ffn_norm1(concepts) * (1 + self.scale_mlp)
        hidden = self.block.ffn_norm2(self.block.feed_forward(modulated))
        return concepts + self.gate_mlp.tanh() * hidden
