"""Prompt Regions: masks as regions with prompts of their own."""

import pytest
import torch
from conceptattention.conceptattention_core import ConceptAttentionError
from conceptattention.conceptattention_core.hosts.comfyui.store import STORE

from ..comfyui.tiny import POOLED_WIDTH
from .common import TINY_FLUX, box_mask, regions, rows_of, thirds


def test_regions_follow_the_prompt_for_the_whole_picture():
    base = TINY_FLUX.prompt(1) + TINY_FLUX.prompt(4, strength=0.3)
    made = regions(thirds(), ["sun", "moon", "sky"], base, strength=0.7)
    assert len(base) == 2  # it is somebody else's
    assert all(one is other for one, other in zip(made[:2], base))
    for (rows, options), mask, name in zip(made[2:], thirds(), ["sun", "moon", "sky"], strict=True):
        assert torch.equal(rows, rows_of(name))
        assert torch.equal(options["mask"], mask)
        assert options["mask_strength"] == 0.7
        assert options["set_area_to_bounds"] is False
        assert torch.equal(options["pooled_output"], torch.ones(1, POOLED_WIDTH))
        assert options["guidance"] == 3.5
        assert "strength" not in options


def test_a_region_says_no_guidance_where_the_prompt_has_none():
    ((_, options),) = regions(thirds()[:1], ["sun"], [[rows_of("a"), {}]])[1:]
    assert "guidance" not in options


def test_an_empty_mask_makes_no_region():
    made = regions([box_mask(), *thirds()[:1]], ["sun", "moon"])
    assert [torch.equal(rows, rows_of("moon")) for rows, _ in made[1:]] == [True]


def test_prompts_find_their_masks_by_name_in_any_case():
    made = regions(
        thirds(), ["Sun", "red sky", "日本"],
        prompts="RED  SKY: a storm\n日本： snow, deep\nsun: a (golden:1.3) disc".replace("  ", " "),
    )  # fmt: skip
    expected = ["a (golden:1.3) disc", "a storm", "snow, deep"]
    assert all(torch.equal(one[0], rows_of(words)) for one, words in zip(made[1:], expected))
    assert len({one[0].sum().item() for one in made[1:]}) == 3


def test_only_mentioned_masks_make_a_region_when_asked_for():
    widgets = {"only_mentioned": True, "prompts": "moon: cheese"}
    (region,) = regions(thirds(), ["sun", "moon", "sky"], **widgets)[1:]
    assert torch.equal(region[0], rows_of("cheese"))
    assert torch.equal(region[1]["mask"], thirds()[1])
    assert len(regions(thirds(), ["sun", "moon", "sky"], only_mentioned=True)) == 1


def test_a_prompt_for_no_mask_is_refused_with_the_names_there_are():
    with pytest.raises(ConceptAttentionError) as refused:
        regions(thirds(), ["sun", "moon", "red sky"], prompts="sun: a\nmars: b")
    assert str(refused.value) == (
        "'prompts' mentions 'mars', which is none of the masks' names: sun, moon, red sky."
    )


def test_a_mask_called_background_can_have_its_own_prompt():
    made = regions(thirds()[:2], ["cat", "background"], prompts="background: a dark forest")
    assert torch.equal(made[2][0], rows_of("a dark forest"))


def left_half() -> torch.Tensor:
    return box_mask((0, 0, 32, 64), h=64, w=64).expand(2, -1, -1)


def test_a_region_changes_the_picture_where_its_mask_is():
    base = TINY_FLUX.prompt(1)
    plain = TINY_FLUX.sample(TINY_FLUX.model(), (2, 8, 8), steps=1)
    made = regions([left_half()], ["a golden cat"], base)
    steered = TINY_FLUX.sample(TINY_FLUX.model(), (2, 8, 8), steps=1, positive=made)
    change = (steered - plain).abs().amax(1)
    assert change[:, :, :4].min() > 1e-4
    assert change[:, :, 4:].max() < 1e-5  # in a single step; later ones see the left half
    weak = regions([left_half()], ["a golden cat"], base, strength=0.1)
    weakly = TINY_FLUX.sample(TINY_FLUX.model(), (2, 8, 8), steps=1, positive=weak)
    assert (weakly - plain).abs().max() < (steered - plain).abs().max() / 2


@pytest.mark.parametrize("other", [(1, 64, 64), (3, 40, 56)])
def test_masks_of_different_pictures_make_no_regions_together(other):
    masks = [thirds()[0].expand(2, -1, -1), torch.ones(other)]
    with pytest.raises(ConceptAttentionError) as refused:
        regions(masks, ["sun", "sky"])
    n, h, w = other
    assert str(refused.value) == (
        f"The masks belong to different pictures: sun 2 of 40 x 56, sky {n} of {h} x {w}. "
        "Connect those of one Concept Masks."
    )


def test_a_single_mask_is_a_region_of_every_picture():
    base = TINY_FLUX.prompt(1)
    one, both = (
        regions([mask, left_half()], ["a cat", "a dog"], base)
        for mask in (left_half()[:1], left_half())
    )
    painted = [TINY_FLUX.sample(TINY_FLUX.model(), (2, 8, 8), positive=it) for it in (one, both)]
    assert torch.equal(*painted)


def test_masks_of_another_size_are_scaled_to_the_picture():
    base = TINY_FLUX.prompt(1)
    large = box_mask((0, 0, 128, 256), h=256, w=256).expand(2, -1, -1)
    painted = [
        TINY_FLUX.sample(TINY_FLUX.model(), (2, 8, 8), positive=regions([mask], ["cat"], base))
        for mask in (large, left_half())
    ]
    assert torch.equal(*painted)


@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_recording_changes_nothing_beside_regions_and_is_found(cfg):
    second = box_mask((10, 20, 60, 60), h=64, w=64)
    made = regions([left_half(), second], ["cat", "red dog"])
    plain = TINY_FLUX.sample(TINY_FLUX.model(), (2, 8, 8), cfg=cfg, positive=made)
    recorded = TINY_FLUX.sample(TINY_FLUX.recorded(), (2, 8, 8), cfg=cfg, positive=made)
    assert torch.equal(recorded, plain)
    scores = STORE.find(recorded).scores
    assert len(scores) == 2 and scores.isfinite().all()
