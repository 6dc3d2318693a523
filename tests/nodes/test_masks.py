"""Concept Masks and Pick Concept Mask."""

import pytest
import torch
from conceptattention.conceptattention_core import ConceptAttentionError
from conceptattention.nodes.masks import Masks, Pick

from .common import HALVES, defaults, run, territories


def test_masks_lie_on_their_pixels_and_absent_ones_are_empty():
    masks, _ = run(Masks, maps=territories(HALVES), threshold="fixed", level=0.5)
    left = torch.zeros(1, 64, 64)
    left[:, :, :32] = 1
    assert torch.equal(masks[0], left)
    assert torch.equal(masks[1], 1 - left)
    assert not masks[2].any()


def test_a_soft_mask_is_gradual_with_exact_ends():
    (mask,) = run(Pick, maps=territories(HALVES), name="cat", soft=True)
    assert (mask.min(), mask.max()) == (0, 1)
    assert len(mask.unique()) > 8


@pytest.mark.parametrize("name", ["cat,red dog", " CAT ,\n Red Dog ,", "cat，red dog", "cat\ncat"])
def test_several_names_give_their_masks_joined(name):
    maps = territories([[0, 1, 2, 2]] * 4)
    (joined,) = run(Pick, maps=maps, name=name, threshold="fixed")
    asked = 16 if "red dog" not in name.lower() else 32
    expected = torch.zeros(1, 64, 64)
    expected[:, :, :asked] = 1
    assert torch.equal(joined, expected)


def test_inverted_is_everything_else():
    maps = territories(HALVES)
    for soft in (False, True):
        (mask,) = run(Pick, maps=maps, name="cat", soft=soft)
        (rest,) = run(Pick, maps=maps, name="cat", soft=soft, invert=True)
        assert torch.equal(rest, 1 - mask)
        assert rest.unique().tolist()[:: len(rest.unique()) - 1] == [0, 1]


@pytest.mark.parametrize("name", ["", " , ,"])
def test_no_name_is_an_error_that_lists_the_concepts(name):
    with pytest.raises(ConceptAttentionError, match="No concept was named. Recorded: cat, red dog"):
        run(Pick, maps=territories(HALVES), name=name)


def test_an_empty_mask_is_told_on_the_node_and_in_the_log(caplog):
    maps = territories(HALVES, [[1, 1, 2, 2]] * 4)
    given = {**defaults(Pick), "maps": maps, "name": "red dog, sky, Cat"}
    with caplog.at_level("WARNING"):
        done = Pick.execute(**given)
    told = "Empty masks: sky (1 of 2), Cat (1 of 2). Concept Scores says how much there is"
    (shown,) = done.ui.as_dict()["text"]
    assert shown.startswith(told) and f"Pick Concept Mask: {shown}" in caplog.text
    caplog.clear()
    assert Pick.execute(**{**given, "name": "red dog"}).ui is None
    assert not caplog.text


def test_an_unknown_name_is_an_error_that_lists_the_concepts():
    with pytest.raises(ConceptAttentionError, match="named 'moon'. Recorded: cat, red dog, sky"):
        run(Pick, maps=territories(HALVES), name="cat, moon")
