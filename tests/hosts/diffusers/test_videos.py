"""Videos: other versions of CogVideoX, and encoders that are missing."""

import copy

import pytest
import torch
from conceptattention.conceptattention_core import ConceptAttentionError
from conceptattention.conceptattention_core.hosts.diffusers.patch import record
from conceptattention.conceptattention_core.maps import reduce

from .test_laws import SPEC, paint
from .tiny.cogvideox import tiny_cogvideox
from .tiny.hunyuan_video import tiny_hunyuan_video


def test_every_frame_of_a_video_has_maps():
    pipe = tiny_hunyuan_video()
    with record(pipe, SPEC) as listener:
        frames = paint(pipe)
    maps = reduce(listener.recording(), blocks="all").maps
    assert frames.shape[:2] == (1, len(maps)) == (1, 9)


def test_positions_may_be_added_before_the_first_block():
    pipe = tiny_cogvideox(rotary=False)
    with record(pipe, SPEC) as listener:
        recorded = paint(pipe)
    assert torch.equal(paint(pipe), recorded)
    assert listener.recording().scores.shape == (3, 3, 3, 3, 3, 5)


def test_patches_may_go_along_time():
    pipe = tiny_cogvideox(version="1.5")
    with record(pipe, SPEC) as listener:
        recorded = paint(pipe)
    assert torch.equal(paint(pipe), recorded)
    grid = listener.recording().grid
    assert (grid.time.latents, grid.time.frames) == (4, 2)
    assert listener.recording().scores.shape == (2, 3, 3, 3, 3, 5)


@pytest.mark.parametrize("make", [tiny_cogvideox, tiny_hunyuan_video])
def test_a_pipeline_without_its_text_encoder_is_refused(make):
    bare = copy.copy(make())
    bare.text_encoder = None
    with pytest.raises(ConceptAttentionError, match="reads concepts with"), record(bare, SPEC):
        pass
