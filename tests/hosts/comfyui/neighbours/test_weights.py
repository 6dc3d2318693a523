"""Weights in other dress: LoRA, eight bits, low memory. Loading them is ComfyUI's business."""

from collections.abc import Callable
from typing import Any

import comfy.model_management
import comfy.ops
import comfy.sd
import pytest
import torch
import torch.nn.functional as F
from conceptattention.conceptattention_core.concepts import parse
from conceptattention.conceptattention_core.hosts.comfyui.demo import load_demo_model
from conceptattention.conceptattention_core.hosts.comfyui.locate import locate
from conceptattention.conceptattention_core.hosts.comfyui.store import STORE
from conceptattention.conceptattention_core.locating import LocateSpec
from conceptattention.conceptattention_core.recording import Recording, RecordSpec
from conceptattention.nodes.demo import FOLDER
from torch import Tensor, nn

from ....comfyui.tiny import HERE, Tiny, random_weights
from ....comfyui.tiny.common import lora_for

SPEC = RecordSpec(parse("sky, water, balloon"))


@pytest.fixture(params=HERE)
def tiny(request) -> Tiny:
    return HERE[request.param]


@pytest.fixture
def parts():
    with torch.inference_mode():
        return load_demo_model(FOLDER)


def with_lora(model: Any) -> Any:
    patched, _ = comfy.sd.load_lora_for_models(model, None, lora_for(model), 1.0, 0.0)
    assert patched.patches
    return patched


def with_baked_lora(model: Any) -> Any:
    """The same weights, as if they had been trained so."""
    comfy.model_management.unload_all_models()  # one that is loaded would stay as it is
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


class Packed(nn.Module):
    """A layer in GGUF's way: its weight is bytes, and no matrix, until its forward unpacks it."""

    def _load_from_state_dict(self, weights: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        weight, bias = weights[f"{prefix}weight"], weights.get(f"{prefix}bias")
        scale = weight.abs().amax(1, keepdim=True).clamp_min(1e-9) / 127
        parts = scale, (weight / scale).round().to(torch.int8)
        packed = torch.cat([part.flatten().view(torch.uint8) for part in parts])
        self.rows = len(weight)
        self.weight = nn.Parameter(packed, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    def unpacked(self) -> Tensor:
        scale, whole = self.weight.split([4 * self.rows, len(self.weight) - 4 * self.rows])
        return scale.view(torch.float32)[:, None] * whole.view(torch.int8).view(self.rows, -1)


class PackedLayers(comfy.ops.manual_cast):
    class Linear(Packed, comfy.ops.manual_cast.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return F.linear(input, self.unpacked(), self.bias)

    class Embedding(Packed, comfy.ops.manual_cast.Embedding):
        def forward(self, input: Tensor, out_dtype: Any = None) -> Tensor:
            return F.embedding(input, self.unpacked())


def in_packed_layers(model: Any) -> Any:
    """The model with layers of its own, as ComfyUI-GGUF loads one."""
    model.model.model_config.custom_operations = PackedLayers
    try:
        weights = dict(model.model.diffusion_model.state_dict())
        packed = random_weights(model.model.model_config, weights)
    finally:
        model.model.model_config.custom_operations = None
    assert any(isinstance(layer, Packed) for layer in packed.model.diffusion_model.modules())
    return packed


def in_unpacked_layers(model: Any) -> Any:
    """The model with the weights of `in_packed_layers` in ordinary layers."""
    packed = in_packed_layers(model).model.diffusion_model
    weights = dict(packed.state_dict())
    for name, layer in packed.named_modules():
        if isinstance(layer, Packed):
            weights[f"{name}.weight"] = layer.unpacked()
    return random_weights(model.model.model_config, weights)


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


def test_a_lora_is_recorded_like_weights_trained_so(tiny):
    _, bare = heard(tiny, tiny.model())
    _, patched = heard(tiny, with_lora(tiny.model()))
    _, baked = heard(tiny, with_baked_lora(tiny.model()))
    torch.testing.assert_close(patched.scores, baked.scores, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(patched.scores, bare.scores, rtol=1e-2, atol=1e-2)


def test_layers_that_unpack_their_weights_are_recorded_like_ordinary_ones(tiny):
    model = in_packed_layers(tiny.model())
    try:
        plain = tiny.sample(model, cfg=3.0)
    except RuntimeError:
        pytest.skip("ComfyUI itself cannot run this family in such layers")
    latent, packed = heard(tiny, model)
    assert torch.equal(latent, plain)
    _, ordinary = heard(tiny, in_unpacked_layers(tiny.model()))
    torch.testing.assert_close(packed.scores, ordinary.scores, rtol=1e-5, atol=1e-5)


def test_with_little_memory_a_lora_is_recorded_all_the_same(tiny, little_memory):
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
