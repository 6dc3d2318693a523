"""HiDream-I1 and E1: T5 and Llama are read, and every block is given a layer of Llama of its own.

A concept is read by both encoders alone, padded as a prompt is. In each block it has what a prompt
of its words has there: the rows of T5 and of Llama's last layer, which go on to the next block, and
those of the block's own layer, which do not. Text has no positions, and the pooled vector is zeros.

HiDream-E1 has the picture to edit at the right of its own, row by row: the columns of both.
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from comfy.ldm.hidream.model import HiDreamImageTransformer2DModel, HiDreamImageTransformerBlock
from einops import rearrange
from torch import Tensor, nn

from ....recording import Grid
from .base import Family, Layout, Places
from .positions import unplace, with_column
from .reading import T5, T5_END, count_until, expect, tokenize

LLAMA = "llama"
LLAMA_END = 128009

OF_T5, OF_LAST_LAYER, OF_OWN_LAYER = range(3)
"""What a row of a concept is: a column of its own says so."""


class HiDream(Family):
    name = "HiDream"
    arguments: ClassVar = {
        "img": "image_tokens",
        "txt": "text_tokens",
        "vec": "adaln_input",
        "pe": "rope",
    }

    def matches(self, model: nn.Module) -> bool:
        return isinstance(model, HiDreamImageTransformer2DModel)

    def blocks(self, model: HiDreamImageTransformer2DModel) -> nn.ModuleList:
        return model.double_stream_blocks

    def grid(self, model: HiDreamImageTransformer2DModel, h: int, w: int, latents: int = 1) -> Grid:
        return Grid.of_latent(h, w, patch=model.patch_size)

    def layout(
        self, model: HiDreamImageTransformer2DModel, args: dict[str, Any], grid: Grid, ride: Any
    ) -> Layout:
        image = args["img"].shape[1]
        layout = Layout(image + args["txt"].shape[1], slice(grid.patches))
        if image == grid.patches:
            return layout
        numbers = torch.arange(image, device=args["img"].device)
        own = rearrange(numbers, "(y x) -> y x", y=grid.y)[:, : grid.x]  # E1
        return replace(layout, patches=own.flatten())

    def text_width(self, model: HiDreamImageTransformer2DModel) -> int | None:
        return model.caption_projection[-1].linear.in_features

    def embed(self, clip: Any, words: list[str]) -> list[Tensor]:
        tokens = tokenize(clip, words)
        for key in (T5, LLAMA):
            expect(key, tokens, clip, self.name)
        return [self._read(clip, one) for one in tokens]

    def _read(self, clip: Any, tokens: dict[str, Any]) -> Tensor:
        """Rows `t (layer d)`, those of T5 in the place of Llama's first layer."""
        encoded = clip.encode_from_tokens(tokens, return_dict=True)
        t5 = encoded["cond"][0, : count_until(tokens[T5][0], T5_END)]
        t5 = t5[t5.any(dim=1)]  # zeros where T5 is not loaded
        stop = 1 + count_until(tokens[LLAMA][0], LLAMA_END, start=1)
        llama = rearrange(encoded["conditioning_llama3"][0, :, 1:stop], "layer t d -> t (layer d)")
        rows = {
            OF_T5: F.pad(t5, (0, llama.shape[1] - t5.shape[1])),
            OF_LAST_LAYER: llama,
            OF_OWN_LAYER: llama,
        }
        return torch.cat([with_column(own, [kind] * len(own)) for kind, own in rows.items()])

    def enter(
        self,
        model: HiDreamImageTransformer2DModel,
        rows: Tensor,
        args: dict[str, Any],
        conds: dict[str, Any],
    ) -> "HiDreamRide":
        txt, vec = args["txt"], args["vec"]
        *project, project_last, project_t5 = model.caption_projection
        chosen = model.llama_layers  # for each block, the last one for what goes on as well
        layers = rearrange(rows[:, :-1], "t (layer d) -> layer t d", layer=max(chosen) + 1)
        kinds = rows[:, -1:].to(txt.device)
        concepts = torch.where(
            kinds == OF_T5,
            project_t5(layers[:1].to(txt)),
            project_last(layers[chosen[-1]][None].to(txt)),
        )
        own_layers = [
            embed(layers[layer][None].to(txt))
            for embed, layer, _ in zip(project, chosen, model.double_stream_blocks)
        ]
        pooled = conds["y"].to(vec)
        vec = vec - model.p_embedder(pooled) + model.p_embedder(torch.zeros_like(pooled))
        return HiDreamRide(
            model,
            concepts.expand(len(txt), -1, -1),
            rearrange(args["pe"], "b n one d i j -> b one n d i j"),
            vec,
            kinds == OF_OWN_LAYER,
            own_layers,
        )


@dataclass(frozen=True)
class HiDreamRide:
    model: HiDreamImageTransformer2DModel
    concepts: Tensor
    positions: Tensor  # b 1 (p t) d/2 2 2
    vec: Tensor
    stays: Tensor  # t 1
    """Which rows are of the block's own layer."""
    own_layers: list[Tensor]
    """What these are in each block, `1 t d`."""

    def block(self, index: int, vec: Any) -> "HiDreamBlock":
        block = self.model.double_stream_blocks[index].block
        modulation = rearrange(
            block.adaLN_modulation(self.vec), "b (twelve d) -> twelve b 1 d", twelve=12
        )
        return HiDreamBlock(block, self.stays, self.own_layers[index], *modulation[6:])

    def unplaced(self, queries: Tensor, image: Places) -> Tensor:
        return unplace(queries, self.positions[:, :, image])


@dataclass(frozen=True)
class HiDreamBlock:
    """The text side of a block. The modulation is `b 1 d`."""

    block: HiDreamImageTransformerBlock
    stays: Tensor
    own_layer: Tensor
    shift: Tensor
    scale: Tensor
    gate: Tensor
    shift_mlp: Tensor
    scale_mlp: Tensor
    gate_mlp: Tensor

    def heads(self, concepts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        own = self.block.attn1
        concepts = torch.where(self.stays, self.own_layer, concepts)
        modulated = torch.addcmul(self.shift, self.block.norm1_t(concepts), 1 + self.scale)
        q, k, v = (
            rearrange(x, "b t (head d) -> b head t d", head=own.heads)
            for x in (
                own.q_rms_norm_t(own.to_q_t(modulated)),
                own.k_rms_norm_t(own.to_k_t(modulated)),
                own.to_v_t(modulated),
            )
        )
        return q, k, v

    def apply_rope(self, heads: Tensor) -> Tensor:
        return heads

    def update(self, concepts: Tensor, attended: Tensor) -> Tensor:
        concepts = concepts + self.gate * self.block.attn1.to_out_t(attended)
        modulated = torch.addcmul(self.shift_mlp, self.block.norm3_t(concepts), 1 + self.scale_mlp)
        return concepts + self.gate_mlp * self.block.ff_t(modulated)
