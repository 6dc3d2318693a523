"""ERNIE-Image: what its attention is given is put together from its projections."""

import importlib

import pytest
import torch
from conceptattention.conceptattention_core import forward
from conceptattention.conceptattention_core.attention import step
from conceptattention.conceptattention_core.hosts.comfyui.families import family_of
from conceptattention.conceptattention_core.hosts.comfyui.store import STORE

from ....comfyui.tiny import HERE, TINY


def test_of_projections_the_same_is_made_as_by_the_attention_itself(monkeypatch):
    if "ERNIE-Image" not in HERE:
        pytest.skip("this ComfyUI does not have the family")
    tiny = TINY["ERNIE-Image"]
    module = importlib.import_module("comfy.ldm.ernie.model")
    attention = module.optimized_attention
    given, heard = [], []

    def listen(q, k, v, heads, **how):
        out = attention(q, k, v, heads, **how)
        given.append([x[:, : 5 * 7].clone() for x in (q, k, v, out)])
        return out

    def keep(block, concepts, image, *rest):
        q, k, v = (
            x.transpose(1, 2).flatten(2) for x in (image.queries(), image.keys, image.values)
        )
        heard.append([q, k, v, image.outputs])
        return step(block, concepts, image, *rest)

    monkeypatch.setattr(module, "optimized_attention", listen)
    monkeypatch.setattr(forward, "step", keep)
    tiny.sample(tiny.recorded(), (2, 5, 7), steps=1)
    assert len(heard) == len(given) == 3
    for own, expected in zip(heard, given, strict=True):
        torch.testing.assert_close(own, expected, rtol=1e-5, atol=1e-5)


def test_a_concept_longer_than_the_prompt_stands_at_its_start(monkeypatch):
    if "ERNIE-Image" not in HERE:
        pytest.skip("this ComfyUI does not have the family")
    tiny = TINY["ERNIE-Image"]
    family = family_of(tiny.model().model.diffusion_model)
    own_start, started = family.start_stream, []

    def keep(network, tokens, block, call):
        stream = own_start(network, tokens, block, call)
        own = stream.text_side(0, family.modulation(block)).rotary
        started.append((block.rotary.clone(), own.matrices.clone()))
        return stream

    monkeypatch.setattr(family, "start_stream", keep)
    recorded = tiny.recorded("very red dog")
    tiny.sample(recorded, (1, 5, 7), steps=1, positive=tiny.prompt(1, tokens=2))
    ((positions, own),) = started
    assert positions.shape[1] == 35 + 2
    expected = positions[:, [35, 35, 36]].movedim(2, 1)
    assert torch.equal(own[:, :, :3], expected)  # a lone concept has a hidden one beside it


def test_a_concept_longer_than_the_prompt_is_recorded_in_every_family(tiny):
    positive = tiny.prompt(1, tokens=1)
    latent = tiny.sample(tiny.recorded("very big red dog, sky"), positive=positive)
    assert torch.equal(latent, tiny.sample(tiny.model(), positive=positive))
    assert STORE.find(latent).scores.isfinite().all()


def test_as_many_concepts_as_tokens_are_not_taken_for_these():
    """They go through the layers that are listened to."""
    if "ERNIE-Image" not in HERE:
        pytest.skip("this ComfyUI does not have the family")
    tiny = TINY["ERNIE-Image"]
    prompt = tiny.prompt(1, tokens=2)
    model = tiny.recorded("cat, dog, sky, sea, sun, ice")
    latent = tiny.sample(model, (1, 2, 2), positive=prompt)
    assert torch.equal(latent, tiny.sample(tiny.model(), (1, 2, 2), positive=prompt))
    assert STORE.find(latent).scores.shape == (1, 2, 3, 6, 2, 2)
