"""Split Mask into Parts, and how the mask nodes finish masks."""

import pytest
import torch
from conceptattention.conceptattention_core.concepts import parse
from conceptattention.conceptattention_core.masks import MaskSpec, draw_masks
from conceptattention.nodes.masks import Masks, Pick, Split
from conceptattention.nodes.record import Maps
from hypothesis import given
from hypothesis import strategies as st

from ..comfyui.tiny import call
from .common import box_mask, few, image, run, sampled, territories


def test_parts_come_by_size_each_picture_of_a_batch_by_itself():
    masks = torch.cat(
        [box_mask((0, 0, 2, 2), (10, 10, 20, 20), (30, 0, 34, 4)), box_mask((5, 5, 8, 8)),
         box_mask()]
    )  # fmt: skip
    parts, numbers = run(Split, mask=masks, islands=0.0)
    assert numbers == [1, 2, 3]
    assert [part.shape for part in parts] == [(3, 40, 56)] * 3
    assert [part.sum((1, 2)).tolist() for part in parts] == [[100, 9, 0], [16, 0, 0], [4, 0, 0]]
    assert torch.equal(sum(parts), masks)


def test_parts_below_a_percentage_of_the_picture_are_left_out():
    mask = box_mask((0, 0, 16, 14), (20, 0, 20 + 8, 14), (40, 0, 47, 16))  # 10, 5 and 5 %
    for islands, kept in ((0.0, 3), (5.0, 3), (5.1, 1), (10.0, 1), (10.1, 1)):
        parts, numbers = run(Split, mask=mask, islands=islands)
        assert numbers == list(range(1, kept + 1))
        assert bool(parts[0].any()) == (islands <= 10)


def test_an_empty_mask_is_one_empty_part():
    parts, numbers = run(Split, mask=box_mask())
    assert numbers == [1] and torch.equal(parts[0], box_mask())


@few
@given(st.lists(st.tuples(st.integers(0, 55), st.integers(0, 39)), max_size=40))
def test_parts_together_are_the_mask_and_never_overlap(pixels):
    mask = box_mask(*((x, y, x + 2, y + 1) for x, y in pixels))
    parts, _ = run(Split, mask=mask, islands=0.0)
    assert torch.equal(sum(parts), mask)
    sizes = [part.sum().item() for part in parts]
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize("soft", [False, True])
def test_widgets_that_an_old_prompt_lacks_mean_their_defaults(soft):
    maps, pixels = territories([[0, 1, 1, 2], [0, 0, 1, 2]] * 2), image(1, 64, 64)
    old = {"threshold": "mean", "level": 0.5, "soft": soft, "keep_absent": False}
    masks, _ = call(Masks, maps=maps, image=pixels, **old)
    complete, _ = run(Masks, maps=maps, image=pixels, **old)
    assert all(torch.equal(one, other) for one, other in zip(masks, complete, strict=True))
    (picked,) = call(Pick, maps=maps, image=pixels, name="cat", invert=False, **old)
    assert torch.equal(picked, masks[0])


WIDGETS = {
    "threshold": st.sampled_from(["mean", "otsu", "fixed", "hysteresis", "competition"]),
    "level": st.floats(0, 1), "soft": st.booleans(), "keep_absent": st.booleans(),
    "edges": st.booleans(), "contrast": st.floats(0.1, 20), "fill_holes": st.booleans(),
    "islands": st.floats(0, 20), "largest": st.booleans(), "grow": st.integers(-6, 6),
    "feather": st.integers(0, 6), "edge_radius": st.integers(0, 40),
    "edge_smoothness": st.floats(1e-4, 1),
}  # fmt: skip


@few
@given(st.fixed_dictionaries(WIDGETS), st.integers(0, 9))
def test_what_the_widgets_say_is_how_masks_are_drawn(widgets, seed):
    generator = torch.Generator().manual_seed(seed)
    maps = territories(torch.randint(0, 3, (4, 4), generator=generator).tolist())
    pixels = image(1, 64, 64)
    spec = MaskSpec(
        edges=widgets["edges"], threshold=widgets["threshold"], amount=widgets["level"],
        soft=widgets["soft"], contrast=widgets["contrast"], keep_absent=widgets["keep_absent"],
        holes=widgets["fill_holes"], islands=widgets["islands"] / 100, largest=widgets["largest"],
        grow=widgets["grow"], feather=widgets["feather"], radius=widgets["edge_radius"],
        smoothness=widgets["edge_smoothness"],
    )  # fmt: skip
    expected = draw_masks(maps, spec=spec, image=pixels)
    masks, _ = run(Masks, maps=maps, image=pixels, **widgets)
    assert torch.equal(torch.stack(masks), expected)
    for invert in (False, True):
        (picked,) = run(Pick, maps=maps, image=pixels, name="sky", invert=invert, **widgets)
        assert torch.equal(picked, 1 - expected[2] if invert else expected[2])


def test_grow_and_feather_count_pixels_and_islands_percent():
    maps = territories([[0, 0, 1, 1], [0, 0, 1, 1], [1, 1, 1, 1], [1, 1, 1, 0]])

    def cat(**widgets) -> torch.Tensor:
        return run(Pick, maps=maps, name="cat", threshold="fixed", **widgets)[0][0]

    plain = cat()
    small = plain[48:, 48:].sum().item() / 64**2  # of the picture
    assert 0 < small < plain[:32, :32].sum() / 64**2
    assert cat(islands=small * 100 - 0.1)[48:, 48:].any()
    without = cat(islands=small * 100 + 0.1)
    assert not without[48:, 48:].any()
    assert torch.equal(without[:40, :40], plain[:40, :40])

    reach = int(plain[0].nonzero().max())
    assert int(cat(grow=5)[0].nonzero().max()) == reach + 5
    assert int(cat(grow=-5)[0].nonzero().max()) == reach - 5
    soft = cat(feather=4)[0]
    assert (soft[: reach - 3] == 1).all()
    assert not soft[reach + 5 : 64].any()
    assert ((soft > 0) & (soft < 1)).sum() >= 4


@pytest.mark.parametrize("size", [(37, 51), (64, 64), (101, 67)])
@pytest.mark.parametrize("names", ["cat", "cat, red dog, sky"])
def test_masks_of_a_competition_and_of_the_background_tile_an_odd_picture(names, size):
    wanted = parse(names, background=True)
    generator = torch.Generator().manual_seed(3)
    owners = torch.randint(0, len(wanted), (2, 4, 4), generator=generator).tolist()
    maps = territories(*owners, names=f"{names}, background")
    pixels = image(2, *size)
    masks, found = run(Masks, maps=maps, image=pixels, threshold="competition")
    assert found == list(wanted.names)
    assert torch.equal(sum(masks), torch.ones(2, *size))


def test_a_competition_keeps_what_is_below_half_a_percent():
    owners = [[0] * 15 for _ in range(15)]
    owners[7][7] = 1  # one of 225 patches: absent, by the rule for other thresholds
    masks, _ = run(Masks, maps=territories(owners), threshold="competition")
    assert masks[1].any()
    assert torch.equal(sum(masks), torch.ones(1, 240, 240))


def test_with_a_hidden_background_competing_masks_leave_it_the_rest():
    _, latent = sampled(background=True)
    (maps,) = run(Maps, latent=latent, order="mean, then softmax")
    pixels = image(2, 37, 51)
    masks, names = run(Masks, maps=maps, image=pixels, threshold="competition")
    assert names == ["cat", "red dog", "sky"]
    (rest,) = run(Pick, maps=maps, image=pixels, name="background", threshold="competition")
    assert torch.equal(sum(masks) + rest, torch.ones(2, 37, 51))
