"""Other packs on ERNIE-Image, whose attention looks for no other."""

import importlib
from typing import Any

import pytest
import torch
from comfy.ldm.modules.attention import optimized_attention
from conceptattention.conceptattention_core import ConceptAttentionError
from conceptattention.conceptattention_core.hosts.comfyui.store import STORE
from torch import Tensor, nn

from ....comfyui.tiny import HERE, Tiny


@pytest.fixture
def ernie() -> Tiny:
    if "ERNIE-Image" not in HERE:
        pytest.skip("this ComfyUI does not have the family")
    return HERE["ERNIE-Image"]


def test_another_attention_for_all_models_is_recorded_in_what_it_gives(ernie, monkeypatch):
    """ComfyUI's own choice of one (`--use-sage-attention`), and packs that change it."""
    usual = STORE.find(ernie.sample(ernie.recorded())).scores
    module = importlib.import_module("comfy.ldm.ernie.model")
    attention = module.optimized_attention
    monkeypatch.setattr(
        module, "optimized_attention", lambda *args, **how: attention(*args, **how) * 0.75
    )
    latent = ernie.sample(ernie.recorded())
    assert torch.equal(latent, ernie.sample(ernie.model()))
    heard = STORE.find(latent).scores
    torch.testing.assert_close(heard[:, 0, 0], usual[:, 0, 0] * 0.75, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(heard[:, 0, 1], usual[:, 0, 1] * 0.75, rtol=1e-2, atol=1e-2)


def projecting_at_once(own: Any, x: Tensor, positions: Tensor) -> Tensor:
    """An attention with one projection in place of three."""
    weights = torch.cat([layer.weight for layer in (own.to_q, own.to_k, own.to_v)])
    q, k, v = nn.functional.linear(x, weights).chunk(3, dim=-1)
    return own.to_out[0](optimized_attention(q, k, v, own.heads))


def in_parts(own: Any, x: Tensor, positions: Tensor) -> Tensor:
    """An attention of each half of the sequence to itself."""
    half = x.shape[1] // 2
    return torch.cat(
        [
            type(own).forward(own, x[:, part], image_rotary_emb=positions[:, part])
            for part in (slice(half), slice(half, None))
        ],
        dim=1,
    )


@pytest.mark.parametrize("attention", [projecting_at_once, in_parts])
def test_a_replaced_attention_records_nothing_and_says_why(ernie, attention):
    def replaced(model: Any) -> Any:
        clone = model.clone()
        name = "diffusion_model.layers.1.self_attention"
        own = clone.get_model_object(name)

        def forward(x, attention_mask=None, image_rotary_emb=None):
            return attention(own, x, image_rotary_emb)

        clone.add_object_patch(f"{name}.forward", forward)
        return clone

    latent = ernie.sample(replaced(ernie.recorded()))
    assert torch.equal(latent, ernie.sample(replaced(ernie.model())))
    assert not torch.equal(latent, ernie.sample(ernie.model()))
    with pytest.raises(ConceptAttentionError, match="Nothing was captured while .* its blocks"):
        STORE.find(latent)
