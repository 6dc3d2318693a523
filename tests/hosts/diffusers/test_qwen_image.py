"""Qwen-Image: what concepts are read with, and pictures to refer to."""

import copy

import pytest
import torch
from conceptattention.conceptattention_core import ConceptAttentionError
from conceptattention.conceptattention_core.hosts.diffusers.calls import BlockCall, ModelCall
from conceptattention.conceptattention_core.hosts.diffusers.families.qwen_image import QwenImage
from conceptattention.conceptattention_core.hosts.diffusers.families.reading import own_span
from conceptattention.conceptattention_core.hosts.diffusers.patch import record
from conceptattention.conceptattention_core.recording import Grid
from conceptattention.conceptattention_core.tokens import ConceptTokens

from .helpers import SPEC
from .tiny.qwen_image import tiny_qwen


@pytest.fixture(scope="module")
def qwen():
    return tiny_qwen()


def test_a_template_is_known_by_the_empty_text():
    assert own_span([7, 7, 3, 4, 8], [7, 7, 8]) == range(2, 4)
    assert own_span([7, 7, 3, 3], [7, 7]) == range(2, 4)
    assert own_span([7, 7, 7, 8, 8], [7, 7, 8]) == range(2, 4)  # words of the template again
    assert own_span([7, 8], [7, 8]) == range(2, 2)


def test_places_count_from_the_end_of_the_text(qwen):
    with record(qwen, SPEC) as session:
        # "red balloon", "sky" and "the green sea" inside ": {} end"
        assert session.plan.tokens.place.tolist() == [-3, -2, -2, -4, -3, -2]


def test_reference_images_stay_outside_the_grid(qwen):
    call = ModelCall(*torch.zeros(3, 1, 1), img_shapes=[[(1, 3, 5), (1, 4, 4)]])
    assert QwenImage().grid(qwen, call) == Grid(3, 5, 16, 48, 80)


def test_a_second_noise_level_is_for_reference_images(qwen):
    family, model = QwenImage(), qwen.transformer
    two = torch.randn(2, model.inner_dim)
    rotary = torch.ones(9, 16, dtype=torch.complex64)
    call = ModelCall(torch.zeros(1, 15, 64), torch.zeros(1, 9, 32), torch.ones(1))
    tokens = ConceptTokens.of(torch.randn(4, 32), [-4, -3, -2, -1])
    streams = [
        family.start_stream(
            model, tokens, call, BlockCall(temb=temb, image_rotary_emb=(rotary, rotary))
        )
        for temb in (two, two[:1])
    ]
    sides = [stream.text_side(family.blocks(model)[0]) for stream in streams]
    assert torch.equal(sides[0].modulation.shift, sides[1].modulation.shift)


def test_a_pipeline_without_a_language_model_is_refused(qwen):
    bare = copy.copy(qwen)
    bare.text_encoder = None
    expected = pytest.raises(ConceptAttentionError, match="with its language model")
    with expected, record(bare, SPEC):
        pass
