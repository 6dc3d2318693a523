"""One model on several devices: ComfyUI gives each some of the prompts, in a thread of its own.

Here both devices are the processor, under two names.
"""

import importlib

import comfy.model_management
import pytest
import torch
from conceptattention.conceptattention_core.hosts.comfyui.store import STORE

from ....comfyui.tiny import HERE, Tiny

DEVICES = [torch.device("cpu"), torch.device("cpu", 0)]


@pytest.fixture(params=HERE)
def tiny(request) -> Tiny:
    return HERE[request.param]


@pytest.fixture
def spread(monkeypatch, tiny):
    try:
        multigpu = importlib.import_module("comfy.multigpu")
    except ModuleNotFoundError:
        pytest.skip("this ComfyUI keeps a model on one device")
    STORE.clear()
    monkeypatch.setattr(
        comfy.model_management, "get_all_torch_devices", lambda exclude_current=False: DEVICES
    )

    def spread(model):
        model.cached_patcher_init = (tiny.model.__wrapped__, ())  # as a loader leaves it
        return multigpu.create_multigpu_deepclones(model, 2)

    return spread


@pytest.mark.parametrize("recorded_first", [True, False])
def test_on_several_devices_the_same_is_recorded_and_the_picture_stays(
    tiny, spread, recorded_first
):
    def sample(model):
        return tiny.sample(model, cfg=3.0, positive=tiny.prompt(1) + tiny.prompt(4))

    one = STORE.find(sample(tiny.recorded())).scores
    plain = sample(spread(tiny.model()))
    if recorded_first:
        recorded = sample(spread(tiny.recorded()))
    else:
        recorded = sample(tiny.recorded(model=spread(tiny.model())))
    assert torch.equal(recorded, plain)
    torch.testing.assert_close(STORE.find(recorded).scores, one, rtol=1e-4, atol=1e-4)
