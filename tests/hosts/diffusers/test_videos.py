"""Videos: other versions of CogVideoX, and encoders that are missing."""

import copy

import pytest
import torch
from conceptattention.conceptattention_core import ConceptAttentionError
from conceptattention.conceptattention_core.hosts.diffusers.locate import locate
from conceptattention.conceptattention_core.hosts.diffusers.patch import record
from conceptattention.conceptattention_core.maps import ReadSpec, read_maps
from diffusers import CogVideoXImageToVideoPipeline

from .helpers import SPEC, encode_and_decode, generate, locate_and_sample
from .tiny.cogvideox import tiny_cogvideox
from .tiny.hunyuan_video import tiny_hunyuan_video


def test_every_frame_of_a_video_has_maps():
    pipe = tiny_hunyuan_video()
    with record(pipe, SPEC) as session:
        frames = generate(pipe)
    maps = read_maps(session.recording(), ReadSpec(blocks="all")).maps
    assert frames.shape[:2] == (1, len(maps)) == (1, 9)


def test_positions_may_be_added_before_the_first_block():
    pipe = tiny_cogvideox(rotary=False)
    with record(pipe, SPEC) as session:
        recorded = generate(pipe)
    assert torch.equal(generate(pipe), recorded)
    assert session.recording().scores.shape == (3, 3, 3, 3, 3, 5)


def test_patches_may_go_along_time():
    pipe = tiny_cogvideox(version="1.5")
    with record(pipe, SPEC) as session:
        recorded = generate(pipe)
    assert torch.equal(generate(pipe), recorded)
    grid = session.recording().grid
    assert (grid.time.latents, grid.time.frames) == (4, 2)
    assert session.recording().scores.shape == (2, 3, 3, 3, 3, 5)


def test_every_frame_has_maps_without_padding_in_front():
    pipe = tiny_cogvideox(version="1.5")
    with record(pipe, SPEC) as session:
        frames = generate(pipe)
    recording = session.recording().of_length(frames.shape[1])
    assert len(read_maps(recording, ReadSpec(blocks="all")).maps) == recording.pictures == 9


@pytest.mark.parametrize("version", [{"rotary": False}, {"version": "1.5"}])
def test_other_versions_locate_as_they_sample(version):
    pipe = tiny_cogvideox(**version)
    located, sampled = locate_and_sample(pipe)
    assert located.pictures == len(located.scores) == 1
    torch.testing.assert_close(located.scores[:, 0], sampled.scores[:, 1], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(*encode_and_decode(pipe), atol=1e-5, rtol=1e-5)


def test_a_pipeline_that_needs_an_image_does_not_locate():
    pipe = CogVideoXImageToVideoPipeline(**tiny_cogvideox().components)
    with pytest.raises(ConceptAttentionError, match="is not called without image"):
        locate(pipe, torch.rand(1, 3, 48, 80), SPEC)


@pytest.mark.parametrize("make", [tiny_cogvideox, tiny_hunyuan_video])
def test_a_pipeline_without_its_text_encoder_is_refused(make):
    bare = copy.copy(make())
    bare.text_encoder = None
    with pytest.raises(ConceptAttentionError, match="reads concepts with"), record(bare, SPEC):
        pass
