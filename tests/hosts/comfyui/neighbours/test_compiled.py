"""Compiled models."""

from itertools import product
from typing import Any

import pytest
import torch
from comfy_api.torch_helpers import set_torch_compile_wrapper
from conceptattention.conceptattention_core.hosts.comfyui.store import STORE

from ....comfyui.tiny import HERE

KEPT = "transformer_options"  # newer versions do not look whether these have changed


@pytest.mark.parametrize("family", ["Flux.1", "SD3"])
def test_a_compiled_model_is_recorded_and_its_graphs_stay_its_own(family):
    tiny = HERE[family]

    def compiled(model: Any) -> Any:
        clone = model.clone()  # as TorchCompileModel does, with the fastest backend to compile
        options = {"guard_filter_fn": lambda entries: [KEPT not in e.name for e in entries]}
        set_torch_compile_wrapper(clone, backend="eager", options=options)
        return clone

    expected = {seed: STORE.find(tiny.sample(tiny.recorded(), seed=seed)).scores for seed in (0, 1)}
    STORE.clear()
    recorded, plain = compiled(tiny.recorded()), compiled(tiny.model())
    for model, seed in product((recorded, plain, recorded), expected):
        latent = tiny.sample(model, seed=seed)
        assert torch.equal(latent, tiny.sample(tiny.model(), seed=seed))
        if model is recorded:
            assert torch.equal(STORE.find(latent).scores, expected[seed])
            STORE.clear()
