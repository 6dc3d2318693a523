"""The shared text side: its order of operations, its modulation, and rotary positions undone."""

import pytest
import torch
from conceptattention.conceptattention_core.rotary import Rotary, apply_rope, undo_rope
from conceptattention.conceptattention_core.text_side import (
    ConceptStream,
    KeysOnly,
    Modulation,
    TextSide,
    split_four,
    split_joined,
    split_six,
)
from torch import Tensor, nn

from .examples import random

B, T, HEADS, D = 2, 5, 3, 4


def rotary(n: int, halves: bool = False) -> Rotary:
    angles = torch.linspace(0, 3, n)[:, None] * torch.tensor([1.0, 0.3])
    cos, sin = angles.cos(), angles.sin()
    matrices = torch.stack([cos, -sin, sin, cos], dim=-1).unflatten(-1, (2, 2))
    return Rotary(matrices[None, None], halves)


def test_a_block_is_norm_modulation_attention_gate_then_the_mlp():
    width = HEADS * D
    qkv, out, mlp = (nn.Linear(width, n) for n in (3 * width, width, width))
    norm = nn.LayerNorm(width, elementwise_affine=False)
    parts = random(B, 6 * width, seed=1)
    attention_part, mlp_part = split_six(parts)
    side = TextSide(
        norm=norm, project=lambda x: split_joined(qkv(x), HEADS), modulation=attention_part,
        out=out, norm_mlp=norm, mlp=mlp, modulation_mlp=mlp_part,
    )  # fmt: skip
    shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = parts[:, None].chunk(6, dim=-1)
    concepts, attended = random(B, T, width, seed=2), random(B, T, width, seed=3)
    q, _, v = side.heads(concepts)
    expected = qkv(norm(concepts) * (1 + scale) + shift)
    assert q.shape == (B, HEADS, T, D)
    torch.testing.assert_close(q.transpose(1, 2).flatten(2), expected[..., :width])
    torch.testing.assert_close(v.transpose(1, 2).flatten(2), expected[..., 2 * width :])
    stream = concepts + gate * out(attended)
    stream = stream + gate_mlp * mlp(norm(stream) * (1 + scale_mlp) + shift_mlp)
    torch.testing.assert_close(side.update(concepts, attended), stream)


def test_without_a_text_behind_its_keys_a_stream_stays_as_it_is():
    side = KeysOnly(
        norm=nn.Identity(),
        project=lambda x: split_joined(x, 1),
        modulation=Modulation(None, torch.zeros(1)),
    )
    concepts = random(B, T, 6)
    assert side.update(concepts, random(B, T, 2)) is concepts


@pytest.mark.parametrize("axes", [(B, 4 * D), (B, 1, 4 * D)])
def test_blocks_without_a_shift_bound_their_gates(axes):
    parts = random(*axes) * 9
    attention, mlp = split_four(parts)
    normed = random(B, T, D, seed=1)
    scale, gate, _, gate_mlp = parts.reshape(B, 1, -1).chunk(4, dim=-1)
    torch.testing.assert_close(attention(normed), normed * (1 + scale))
    torch.testing.assert_close(attention.gated(normed), normed * gate.tanh())
    torch.testing.assert_close(mlp.gated(normed), normed * gate_mlp.tanh())


@pytest.mark.parametrize("fused", [True, False])
def test_a_fused_modulation_differs_by_rounding_alone(fused):
    shift, scale, x = (random(B, 1, D, seed=n) for n in range(3))
    found = Modulation(shift, scale, fused=fused)(x)
    torch.testing.assert_close(found, x * (1 + scale) + shift)


@pytest.mark.parametrize("halves", [False, True])
def test_rope_turns_pairs_of_channels_and_is_undone(halves):
    heads = random(B, HEADS, T, D)
    turned = apply_rope(heads, rotary(T, halves))
    own = rotary(T).matrices[0, 0, -1, 0]  # of the last token's first pair
    first, second = (0, D // 2) if halves else (0, 1)
    pair = heads[0, 0, -1, [first, second]]
    torch.testing.assert_close(turned[0, 0, -1, [first, second]], own @ pair)
    torch.testing.assert_close(undo_rope(turned, rotary(T, halves)), heads)
    assert apply_rope(heads, None) is heads


def test_cosines_and_sines_that_stand_twice_give_the_same_rotation():
    angles = torch.linspace(0, 3, T)[:, None] * torch.tensor([1.0, 0.3])
    told = [one.repeat_interleave(2, dim=1) for one in (angles.cos(), angles.sin())]
    torch.testing.assert_close(Rotary.of_cos_sin(*told).matrices, rotary(T).matrices)


@pytest.mark.parametrize("of_patches", [False, True])
def test_queries_are_had_back_from_where_the_patches_stand(of_patches):
    whole, patches = rotary(T + 2), slice(2, T + 2)
    queries = random(B, HEADS, T, D)
    turned = apply_rope(queries, whole.at(patches))

    def no_side(index: int, modulation: Tensor) -> KeysOnly:
        raise AssertionError

    stream = ConceptStream(
        concepts=queries,
        text_side=no_side,
        rotary=whole.at(patches) if of_patches else whole,
        of_patches=of_patches,
    )
    torch.testing.assert_close(stream.queries_before_rope(turned, patches), queries)
