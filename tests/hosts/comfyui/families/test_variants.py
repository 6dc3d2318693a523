"""The other models of a family, and what else a prompt may bring along to a model.

Each is the family's tiny model with what makes the difference: other layers, more channels, a
prompt that is longer or has pictures or a control network with it.
"""

from dataclasses import replace

import pytest
import torch
from conceptattention.conceptattention_core.attention import Method
from conceptattention.conceptattention_core.hosts.comfyui.store import STORE

from ....comfyui.tiny import HERE, TINY
from ..laws.common import Witness, scores_as_prompt
from .common import SIZE, VARIANTS, Variant, hunyuan_image, with_prompt


@pytest.fixture(params=VARIANTS)
def variant(request) -> Variant:
    asked = VARIANTS[request.param]
    if asked.family not in HERE or not asked.is_here():
        pytest.skip("this ComfyUI does not have the model")
    STORE.clear()
    return asked


def test_recording_changes_nothing_and_records_every_picture(variant):
    tiny, (b, h, _) = variant.make(), variant.size
    recorded, plain = (
        tiny.sample(model, variant.size, cfg=variant.cfg)
        for model in (tiny.recorded(), tiny.model())
    )
    assert torch.equal(recorded, plain)
    found = STORE.find(recorded)
    assert found.scores.shape[:4] == (b * found.grid.time.frames, 2, 3, 3)
    assert found.grid.time.latents == max(tiny.frames, 1)
    assert found.grid.y == -(-h // tiny.patch)
    assert found.scores.isfinite().all()


def test_riding_equals_being_the_prompt(variant):
    tiny = variant.make()
    witness = Witness(tiny, b=variant.size[0])
    latent = tiny.sample(
        witness.on(tiny.recorded()), variant.size, steps=1, positive=tiny.prompt(1, pooled=0.0)
    )
    recording = STORE.find(latent)
    with torch.inference_mode():
        words = [["cat"], ["red", "dog"], ["sky"]]
        expected = scores_as_prompt(tiny, witness, words, "output", recording.grid)
    assert len(expected) == len(recording.blocks) > 1
    for index, scores in enumerate(expected):
        error = (recording.scores[:, 0, index] - scores).abs().max() / scores.abs().max()
        assert error <= 1e-5, f"block {index}: {error}"


def test_a_picture_that_comes_before_the_video_is_not_in_its_maps():
    """Image to video, the older way, which ComfyUI does for one video at a time."""
    tiny, size, scores = TINY["Hunyuan Video and Image"], (1, *SIZE[1:]), []
    STORE.clear()
    for seed in (8, 9):
        before = replace(tiny, frames=1).latent(1, *SIZE[1:], seed=seed)
        told = with_prompt(tiny, ref_latent=before)
        recorded = told.sample(told.recorded(method=Method("nothing", "value")), size, steps=1)
        assert torch.equal(recorded, told.sample(told.model(), size, steps=1))
        scores.append(STORE.find(recorded).scores[:, :, 0])
    # in the first block, values of the video's own patches have not seen it yet
    assert torch.equal(*scores)


def test_letters_to_be_written_come_to_the_text():
    witness = Witness(hunyuan_image(), b=2)
    tiny = witness.tiny
    tiny.sample(witness.on(tiny.model()), SIZE, steps=1, positive=tiny.prompt(1, tokens=5))
    assert witness.args[0]["txt"].shape[1] == 5 + 4


@pytest.mark.parametrize("name", [name for name in VARIANTS if "ControlNet" in name])
def test_what_is_recorded_is_the_controlled_picture(name):
    variant = VARIANTS[name]
    free, controlled = (
        STORE.find(tiny.sample(tiny.recorded(), SIZE, steps=1)).scores
        for tiny in (TINY[variant.family], variant.make())
    )
    assert torch.equal(free[:, :, 0], controlled[:, :, 0])  # it comes after the first block
    assert not torch.allclose(free[:, :, 1], controlled[:, :, 1])
