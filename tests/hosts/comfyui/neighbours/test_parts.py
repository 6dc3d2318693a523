"""Calls of the model for parts of the picture: tiles, windows, batches cut up."""

import inspect
from dataclasses import replace
from typing import Any

import comfy.model_management
import comfy.patcher_extension
import comfy.sample
import comfy.samplers
import comfy.sd
import comfy.utils
import comfy_extras.nodes_context_windows as windows
import pytest
import torch
from conceptattention.conceptattention_core import ConceptAttentionError
from conceptattention.conceptattention_core.hosts.comfyui.store import STORE
from torch import Tensor

from ....comfyui.tiny import HERE, call


def with_tiles(model: Any, steps: int) -> Any:
    """Tiled Diffusion's way, in the first `steps`: two tiles that overlap, in one batch."""
    tiles = [slice(0, 5), slice(2, 7)]

    def around_call(apply, args):
        x, t, given = args["input"], args["timestep"], args["c"]
        schedule = given["transformer_options"]["sample_sigmas"]
        if t[0] <= schedule[steps]:
            return apply(x, t, **given)
        given = {
            name: torch.cat([value] * 2) if isinstance(value, Tensor) else value
            for name, value in given.items()
        }
        shown = torch.cat([x[..., tile] for tile in tiles])
        made = apply(shown, torch.cat([t] * 2), **given).chunk(2)
        whole, times = torch.zeros_like(x), torch.zeros_like(x)
        for tile, part in zip(tiles, made):
            whole[..., tile] += part
            times[..., tile] += 1
        return whole / times

    tiled = model.clone()
    tiled.set_model_unet_function_wrapper(around_call)
    return tiled


def test_tiled_sampling_records_nothing_and_says_why(tiny):
    plain = tiny.sample(with_tiles(tiny.model(), 2), cfg=3.0)
    assert not torch.equal(plain, tiny.sample(tiny.model(), cfg=3.0))
    latent = tiny.sample(with_tiles(tiny.recorded(), 2), cfg=3.0)
    assert torch.equal(latent, plain)
    with pytest.raises(ConceptAttentionError, match="only parts of the picture .* as by tiled"):
        STORE.find(latent)


def test_steps_that_show_the_whole_picture_are_recorded_beside_tiled_ones(tiny):
    latent = tiny.sample(with_tiles(tiny.recorded(), 1), cfg=3.0)
    assert torch.equal(latent, tiny.sample(with_tiles(tiny.model(), 1), cfg=3.0))
    assert STORE.find(latent).steps == ((1, 1),)


def with_windows(model: Any, length: int, overlap: int, axis: int) -> Any:
    inputs = {"freenoise": False} if "freenoise" in windowing() else {}  # newer versions ask
    (windowed,) = call(
        windows.ContextWindowsManualNode,
        model=model, context_length=length, context_overlap=overlap, context_stride=1,
        context_schedule="standard_static", closed_loop=False, fuse_method="pyramid", dim=axis,
        **inputs,
    )  # fmt: skip
    return windowed


def windowing() -> Any:
    return inspect.signature(windows.ContextWindowsManualNode.execute).parameters


VIDEO = "Hunyuan Video and Image"


def test_context_windows_along_time_are_recorded_frame_by_frame():
    tiny = replace(HERE[VIDEO], frames=5)
    size = (1, 5, 7)
    latent = tiny.sample(with_windows(tiny.recorded(), 3, 1, axis=2), size, cfg=3.0)
    assert torch.equal(latent, tiny.sample(with_windows(tiny.model(), 3, 1, axis=2), size, cfg=3.0))
    assert not torch.equal(latent, tiny.sample(tiny.model(), size, cfg=3.0))
    found = STORE.find(latent)
    assert found.steps == ((0, 0), (1, 1))
    assert found.grid.time.frames == len(found.scores) == 5

    seen = [[] for _ in range(5)]
    before = [1] if "causal_window_fix" in windowing() else []
    for frames in ([0, 1, 2], [*before, 2, 3, 4]):
        noise = tiny.latent(*size)[:, :, frames]
        with torch.inference_mode():
            alone = comfy.sample.sample(
                tiny.recorded(), noise, 2, 3.0, "euler", "simple", tiny.prompt(1), tiny.prompt(2),
                torch.zeros_like(noise), seed=0, disable_pbar=True,
            )  # fmt: skip
        for frame, own in zip(frames, STORE.find(alone).scores[:, 0], strict=True):
            seen[frame].append(own)
    expected = torch.stack([torch.stack(own).mean(0) for own in seen])
    torch.testing.assert_close(found.scores[:, 0], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("family", "axis"), [(VIDEO, 3), ("Flux.1", 2), ("Flux.1", 0)])
def test_windows_along_another_axis_record_nothing_and_say_why(family, axis):
    tiny = HERE[family]
    size = (1 if axis else 2, 5, 7)
    latent = tiny.sample(with_windows(tiny.recorded(), 1, 0, axis), size, steps=1)
    assert torch.equal(latent, tiny.sample(with_windows(tiny.model(), 1, 0, axis), size, steps=1))
    with pytest.raises(ConceptAttentionError, match="tiled sampling, context windows"):
        STORE.find(latent)
