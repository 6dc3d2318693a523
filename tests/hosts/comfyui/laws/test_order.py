"""Concepts compete, and their order means nothing."""

import pytest
import torch
from conceptattention.conceptattention_core import ConceptAttentionError
from conceptattention.conceptattention_core.concepts import parse
from conceptattention.conceptattention_core.hosts.comfyui.store import STORE
from conceptattention.conceptattention_core.maps import ORDERS, ReadSpec, read_maps
from conceptattention.conceptattention_core.recording import Recording

from ....comfyui.tiny import CONCEPTS, Tiny


def record_of(tiny: Tiny, words: str = CONCEPTS, **spec) -> Recording:
    return STORE.find(tiny.sample(tiny.recorded(words, **spec), cfg=3.0))


@pytest.mark.parametrize("order", ORDERS)
def test_permuted_concepts_give_permuted_maps_that_share_one(tiny, order):
    plain = read_maps(
        record_of(tiny, "cat, red dog, sky"), ReadSpec(order=order, blocks="all")
    ).maps
    turned = read_maps(
        record_of(tiny, "sky, cat, red dog"), ReadSpec(order=order, blocks="all")
    ).maps
    torch.testing.assert_close(turned, plain[:, [2, 0, 1]], rtol=0, atol=1e-4)
    torch.testing.assert_close(plain.sum(1), torch.ones_like(plain[:, 0]))
    assert plain.std() > 1e-3  # far more than what they may differ by


def test_the_same_words_under_two_names_get_equal_maps(tiny):
    maps = read_maps(record_of(tiny, "left: red dog, sky, right: red dog")).maps
    left, sky, right = maps.unbind(1)
    # equal rows of one product may round differently, by where they stand in it
    assert (left - right).abs().max() < 0.05 * (left - sky).abs().max()


def test_first_token_means_the_first_one_only(tiny):
    first = record_of(tiny, "dog: red dog, sky", tokens="first")
    # in numbered text a lone token stands elsewhere than the first of two
    if not tiny.numbered and tiny.readings == 1:
        assert torch.equal(first.scores, record_of(tiny, "dog: red, sky").scores)
    assert not torch.equal(first.scores, record_of(tiny, "dog: red dog, sky").scores)


def test_a_range_of_blocks_is_that_part_of_all_blocks(tiny):
    everything = record_of(tiny)
    for blocks in ("1", "1-", "first 1", "last 2"):
        part = record_of(tiny, blocks=blocks)
        rows = [everything.blocks.index(block) for block in part.blocks]
        assert torch.equal(part.scores, everything.scores[:, :, rows])
    with pytest.raises(ConceptAttentionError, match="Asked for blocks '7', but there are 3"):
        tiny.recorded(blocks="7")


def test_the_recording_covers_the_padded_patch_grid_of_the_picture(tiny):
    recording = STORE.find(tiny.sample(tiny.recorded(), (2, 5, 7), steps=3))
    grid = recording.grid
    assert (grid.h, grid.w) == (5 * tiny.scale, 7 * tiny.scale)
    assert (grid.y, grid.x) == (-(-5 // tiny.patch), -(-7 // tiny.patch))
    assert grid.patch == tiny.patch * tiny.scale
    pictures = 2 * max(tiny.frames, 1)
    assert recording.scores.shape == (pictures, 3, len(recording.blocks), 3, grid.y, grid.x)
    assert recording.concepts == parse(CONCEPTS)
