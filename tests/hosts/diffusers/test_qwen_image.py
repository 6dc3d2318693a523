"""Qwen-Image: what concepts are read with, and pictures to refer to."""

import copy

import pytest
import torch
from conceptattention.conceptattention_core import ConceptAttentionError
from conceptattention.conceptattention_core.hosts.diffusers.families.qwen_image import QwenImage
from conceptattention.conceptattention_core.hosts.diffusers.families.reading import own_span
from conceptattention.conceptattention_core.hosts.diffusers.patch import record
from conceptattention.conceptattention_core.recording import Grid

from .test_laws import SPEC
from .tiny.qwen_image import tiny_qwen


@pytest.fixture(scope="module")
def qwen():
    return tiny_qwen()


def test_a_template_is_told_from_a_text_by_the_empty_text():
    assert own_span([7, 7, 3, 4, 8], [7, 7, 8]) == range(2, 4)
    assert own_span([7, 7, 3, 3], [7, 7]) == range(2, 4)
    assert own_span([7, 7, 7, 8, 8], [7, 7, 8]) == range(2, 4)  # words of the template again
    assert own_span([7, 8], [7, 8]) == range(2, 2)


def test_places_count_from_the_end_of_the_text(qwen):
    with record(qwen, SPEC) as listener:
        # "red balloon", "sky" and "the green sea" inside ": {} end"
        assert listener.tour.rows[:, -1].tolist() == [-3, -2, -2, -4, -3, -2]


def test_pictures_to_refer_to_stay_outside_the_grid(qwen):
    call = {"img_shapes": [[(1, 3, 5), (1, 4, 4)]]}
    assert QwenImage().grid(qwen, call) == Grid(3, 5, 16, 48, 80)


def test_a_second_noise_level_is_for_pictures_to_refer_to(qwen):
    family, model = QwenImage(), qwen.transformer
    two = torch.randn(2, model.inner_dim)
    turns = torch.ones(9, 16, dtype=torch.complex64)
    call = {"encoder_hidden_states": torch.zeros(1, 9, 32)}
    rows = torch.cat([torch.randn(4, 32), torch.full((4, 1), -1.0)], dim=1)
    rides = [
        family.enter(model, rows, call, {"temb": temb, "image_rotary_emb": (turns, turns)})
        for temb in (two, two[:1])
    ]
    assert torch.equal(rides[0].block(0).shift, rides[1].block(0).shift)


def test_a_pipeline_without_a_language_model_is_refused(qwen):
    bare = copy.copy(qwen)
    bare.text_encoder = None
    expected = pytest.raises(ConceptAttentionError, match="with its language model")
    with expected, record(bare, SPEC):
        pass
