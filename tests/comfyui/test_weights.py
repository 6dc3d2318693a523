"""Weights in other dress: LoRA, eight bits, low memory. Loading them is ComfyUI's business."""

from collections.abc import Callable
from typing import Any

import comfy.model_management
import comfy.sd
import pytest
import torch
from conceptattention.conceptattention_core.concepts import parse
from conceptattention.conceptattention_core.hosts.comfyui.demo import load_demo_model
from conceptattention.conceptattention_core.hosts.comfyui.locate import locate
from conceptattention.conceptattention_core.hosts.comfyui.store import STORE
from conceptattention.conceptattention_core.locating import LocateSpec
from conceptattention.conceptattention_core.recording import Recording, RecordSpec
from conceptattention.nodes.demo import FOLDER
from torch import Tensor

from .tiny import HERE, Tiny, random_weights

SPEC = RecordSpec(parse("sky, water, balloon"))


@pytest.fixture(params=HERE)
def tiny(request) -> Tiny:
    return HERE[request.param]


@pytest.fixture
def parts():
    with torch.inference_mode():
        return load_demo_model(FOLDER)


def with_lora(model: Any) -> Any:
    """The model with a LoRA of rank 2 on the attention of both streams in every joint block."""
    generator = torch.Generator().manual_seed(0)
    lora = {}
    for name, weight in model.model.diffusion_model.state_dict().items():
        if "attn." in name and name.endswith(".weight") and weight.ndim == 2:
            key = f"diffusion_model.{name.removesuffix('.weight')}"
            rows, columns = weight.shape
            lora[f"{key}.lora_A.weight"] = torch.randn(2, columns, generator=generator) / 10
            lora[f"{key}.lora_B.weight"] = torch.randn(rows, 2, generator=generator) / 10
    patched, _ = comfy.sd.load_lora_for_models(model, None, lora, 1.0, 0.0)
    assert patched.patches
    return patched


def with_baked_lora(model: Any) -> Any:
    """The same weights, as if they had been trained so."""
    patched = with_lora(model)
    patched.patch_model(torch.device("cpu"))
    try:
        baked = {
            name: weight.detach().clone()
            for name, weight in patched.model.diffusion_model.state_dict().items()
        }
    finally:
        patched.unpatch_model(torch.device("cpu"))
    return random_weights(model.model.model_config, baked)


def in_eight_bits(model: Any) -> Any:
    """The model with its weights kept as float8, computing in float32."""
    model.model.model_config.set_inference_dtype(torch.float8_e4m3fn, torch.float32)
    try:
        weights = model.model.diffusion_model.state_dict()
        eight = random_weights(model.model.model_config, dict(weights))
    finally:
        model.model.model_config.set_inference_dtype(torch.float32, None)
    kept = {weight.dtype for weight in eight.model.diffusion_model.state_dict().values()}
    assert torch.float8_e4m3fn in kept
    return eight


@pytest.fixture
def little_memory(monkeypatch) -> Callable[[Any], bool]:
    """Models are loaded as if one byte were free; tells whether that came about."""
    load = comfy.model_management.LoadedModel.model_load

    def load_little(self: Any, *args: Any, **more: Any) -> Any:
        return load(self, 1, *args[1:], **more)

    monkeypatch.setattr(comfy.model_management.LoadedModel, "model_load", load_little)
    return lambda model: bool(model.model.model_lowvram)


def heard(tiny: Tiny, model: Any) -> tuple[Tensor, Recording]:
    STORE.clear()
    latent = tiny.sample(tiny.recorded(model=model), cfg=3.0)
    return latent, STORE.find(latent)


def look(parts: tuple, model: Any) -> Recording:
    ramp = torch.linspace(0, 1, 64 * 80 * 3).reshape(1, 64, 80, 3)
    with torch.inference_mode():
        return locate(model, *parts[1:], ramp, SPEC, LocateSpec())


@pytest.mark.parametrize("dress", [with_lora, in_eight_bits])
def test_recording_changes_nothing(tiny, dress):
    model = dress(tiny.model())
    plain = tiny.sample(model, cfg=3.0)
    assert not torch.equal(plain, tiny.sample(tiny.model(), cfg=3.0))
    latent, _ = heard(tiny, model)
    assert torch.equal(latent, plain)


def test_a_lora_is_heard_like_weights_trained_so(tiny):
    _, bare = heard(tiny, tiny.model())
    _, patched = heard(tiny, with_lora(tiny.model()))
    _, baked = heard(tiny, with_baked_lora(tiny.model()))
    torch.testing.assert_close(patched.scores, baked.scores, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(patched.scores, bare.scores, rtol=1e-2, atol=1e-2)


def test_with_little_memory_a_lora_is_heard_all_the_same(tiny, little_memory):
    bare = random_weights(
        tiny.model().model.model_config, dict(tiny.model().model.diffusion_model.state_dict())
    )
    model = with_lora(bare)
    plain = tiny.sample(model, cfg=3.0)
    assert little_memory(model)
    latent, streamed = heard(tiny, model)
    assert torch.equal(latent, plain)
    _, baked = heard(tiny, with_baked_lora(tiny.model()))
    torch.testing.assert_close(streamed.scores, baked.scores, rtol=1e-4, atol=1e-4)


def test_pictures_are_looked_at_with_a_lora(parts):
    bare = look(parts, parts[0])
    patched = look(parts, with_lora(parts[0]))
    assert not torch.allclose(patched.scores, bare.scores, rtol=1e-2, atol=1e-2)
    baked = look(parts, with_baked_lora(parts[0]))
    torch.testing.assert_close(patched.scores, baked.scores, rtol=1e-3, atol=1e-3)
    assert torch.equal(look(parts, parts[0]).scores, bare.scores)


def test_pictures_are_looked_at_with_weights_of_eight_bits(parts):
    bare = look(parts, parts[0]).scores.softmax(3)
    eight = look(parts, in_eight_bits(parts[0])).scores.softmax(3)
    assert 0 < (eight - bare).abs().mean() < 0.1


def test_pictures_are_looked_at_with_little_memory(parts, little_memory):
    model = with_lora(parts[0])
    streamed = look(parts, model)
    assert little_memory(model)
    baked = look(parts, with_baked_lora(load_demo_model(FOLDER)[0]))
    torch.testing.assert_close(streamed.scores, baked.scores, rtol=1e-3, atol=1e-3)
