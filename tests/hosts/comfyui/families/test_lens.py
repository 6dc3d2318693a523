"""Lens: an empty prompt is no text at all."""

import pytest
import torch
from conceptattention.conceptattention_core.hosts.comfyui.store import STORE

from ....comfyui.tiny import HERE, TINY


def test_over_an_empty_prompt_concepts_are_recorded():
    if "Lens" not in HERE:
        pytest.skip("this ComfyUI does not have the family")
    tiny = TINY["Lens"]
    positive, negative = tiny.prompt(1, tokens=0), tiny.prompt(2, tokens=0)
    recorded = tiny.sample(tiny.recorded(), cfg=3.0, positive=positive, negative=negative)
    plain = tiny.sample(tiny.model(), cfg=3.0, positive=positive, negative=negative)
    assert torch.equal(recorded, plain)
    assert STORE.find(recorded).scores.std() > 0
