"""Captions that do not depend on the noise level are refined once in a run, not in each call."""

from collections.abc import Callable

import pytest
import torch
from comfy.patcher_extension import WrappersMP
from conceptattention.conceptattention_core.hosts.comfyui.store import STORE
from torch import nn

from ...comfyui.tiny import HERE, TINY, Tiny

STEPS, CONCEPTS = 3, 3
REFINERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    **dict.fromkeys(
        ("Lumina 2", "Z-Image", "OmniGen2", "Boogu"), lambda model: model.context_refiner[0]
    ),
    "Krea 2": lambda model: model.txtfusion,
}


@pytest.fixture(params=REFINERS)
def name(request) -> str:
    if request.param not in HERE:
        pytest.skip("this ComfyUI does not have the family")
    return request.param


def refinements(name: str, tiny: Tiny, model) -> int:
    """How often a run calls the refiner for concepts, beside its own call in each step."""
    calls = []
    refiner = REFINERS[name](model.model.diffusion_model)
    hook = refiner.register_forward_hook(lambda *_: calls.append(1))
    try:
        tiny.sample(model, steps=STEPS)
    finally:
        hook.remove()
    return len(calls) - STEPS


def with_changing_weights(model):
    """A model whose calls are made while ComfyUI has hooks on its weights."""
    changing = model.clone()

    def around_call(executor, *args, **kwargs):
        patcher = executor.class_obj.current_patcher
        before, patcher.current_hooks = patcher.current_hooks, object()
        try:
            return executor(*args, **kwargs)
        finally:
            patcher.current_hooks = before

    changing.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "changing", around_call)
    return changing


def test_concepts_are_refined_once_a_run(name):
    model = TINY[name].recorded()
    for _ in range(2):  # nothing is kept from run to run
        assert refinements(name, TINY[name], model) == CONCEPTS


def test_where_weights_change_in_a_run_concepts_are_refined_in_each_call(name):
    tiny = TINY[name]
    STORE.clear()
    once = STORE.find(tiny.sample(tiny.recorded(), steps=STEPS)).scores
    STORE.clear()
    model = tiny.recorded(model=with_changing_weights(tiny.model()))
    assert refinements(name, tiny, model) == CONCEPTS * STEPS
    assert torch.equal(STORE.find(tiny.sample(model, steps=STEPS)).scores, once)


def test_a_prompt_of_another_length_moves_the_concepts(name):
    """Their places count from the text's end, so that they are refined anew."""
    tiny = TINY[name]
    expected = []
    for tokens in (5, 9):
        STORE.clear()
        latent = tiny.sample(tiny.recorded(), positive=tiny.prompt(1, tokens=tokens), steps=1)
        expected.append(STORE.find(latent).scores)
    both = tiny.prompt(1, tokens=5) + tiny.prompt(1, tokens=9)
    STORE.clear()
    latent = tiny.sample(tiny.recorded(), positive=both, steps=1)
    mean = torch.stack(expected).mean(0)
    torch.testing.assert_close(STORE.find(latent).scores, mean, rtol=1e-4, atol=1e-4)
