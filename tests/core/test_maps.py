"""From a recording to maps: the laws of the softmax over concepts, and both orders by hand."""

import math
from dataclasses import replace
from itertools import product

import pytest
import torch
from conceptattention.conceptattention_core import ConceptAttentionError
from conceptattention.conceptattention_core.maps import (
    ORDERS,
    SCALES,
    ConceptMaps,
    ReadSpec,
    describe_presence,
    measure_presence,
    read_maps,
)
from conceptattention.conceptattention_core.ranges import DEEP
from conceptattention.conceptattention_core.recording import FrameLayout, Grid, Recording
from hypothesis import given
from hypothesis import strategies as st

from .examples import concept_maps, random, recording, soft_maps, territories

B, STEPS, BLOCKS, C, Y, X = 2, 3, 5, 3, 3, 7
SHAPE = (B, STEPS, BLOCKS, C, Y, X)
MEAN_LAST, MEAN_FIRST = "softmax, then mean", "mean, then softmax"


def read(found: Recording, **how) -> ConceptMaps:
    """Maps of all blocks, unless others are asked for."""
    return read_maps(found, ReadSpec(**{"blocks": "all", **how}))


def softmax_by_hand(values: list[float]) -> list[float]:
    powers = [math.exp(value) for value in values]
    return [power / sum(powers) for power in powers]


def maps_by_hand(scores: torch.Tensor, order: str) -> torch.Tensor:
    out = torch.zeros(B, C, Y, X)
    cells = list(product(range(scores.shape[1]), range(scores.shape[2])))
    for b, y, x in product(range(B), range(Y), range(X)):
        at = [[scores[b, step, block, c, y, x].item() for c in range(C)] for step, block in cells]
        if order == MEAN_LAST:
            shares = [softmax_by_hand(values) for values in at]
            mean = [sum(share[c] for share in shares) / len(cells) for c in range(C)]
        else:
            mean = softmax_by_hand([sum(v[c] for v in at) / len(cells) for c in range(C)])
        out[b, :, y, x] = torch.tensor(mean)
    return out


def test_the_deeper_half_of_the_blocks_is_read_by_default():
    found = recording(random(*SHAPE))
    assert torch.equal(read_maps(found).maps, read(found, blocks="3-4").maps)
    assert read_maps(found).spec.blocks == DEEP


@pytest.mark.parametrize("order", ORDERS)
def test_an_order_is_its_formula(order):
    scores = random(*SHAPE) * 3
    torch.testing.assert_close(
        read(recording(scores), order=order).maps, maps_by_hand(scores, order)
    )


def test_the_orders_differ():
    first, second = (read(recording(random(*SHAPE) * 3), order=o).maps for o in ORDERS)
    assert (first - second).abs().max() > 0.1


def test_the_default_is_the_papers_order():
    found = recording(random(*SHAPE))
    assert torch.equal(read(found).maps, read(found, order=MEAN_LAST).maps)


@given(
    seed=st.integers(0, 99),
    order=st.sampled_from(list(ORDERS)),
    scale=st.floats(0.01, 1000),
    temperature=st.floats(0.01, 1000),
)
def test_at_every_patch_the_concepts_share_one(seed, order, scale, temperature):
    scores = random(*SHAPE, seed=seed) * scale
    maps = read(recording(scores), order=order, temperature=temperature).maps
    assert maps.shape == (B, C, Y, X)
    assert maps.dtype == torch.float32
    assert (maps >= 0).all()
    torch.testing.assert_close(maps.sum(1), torch.ones(B, Y, X))


@given(st.permutations(range(C)), st.sampled_from(list(ORDERS)))
def test_permuted_concepts_give_permuted_maps(permutation, order):
    scores = random(*SHAPE)
    plain = read(recording(scores), order=order).maps
    permuted = read(recording(scores[:, :, :, permutation]), order=order).maps
    torch.testing.assert_close(permuted, plain[:, permutation])


@pytest.mark.parametrize("order", ORDERS)
def test_a_concept_given_twice_gets_equal_maps(order):
    scores = random(*SHAPE)
    scores[:, :, :, 2] = scores[:, :, :, 0]
    maps = read(recording(scores), order=order).maps
    torch.testing.assert_close(maps[:, 0], maps[:, 2])


def test_the_mean_over_blocks_is_the_mean_of_each_blocks_maps():
    found = recording(random(*SHAPE))
    each = [read(found, blocks=str(i)).maps for i in range(BLOCKS)]
    torch.testing.assert_close(torch.stack(each).mean(0), read(found).maps)


def test_the_mean_over_steps_is_the_mean_of_each_steps_maps():
    found = recording(random(*SHAPE))
    each = [read(found, steps=str(i)).maps for i in range(STEPS)]
    torch.testing.assert_close(torch.stack(each).mean(0), read(found).maps)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("steps", "blocks", "rows"),
    [
        ("all", "last 2", (slice(None), slice(3, 5))),
        ("1-2", "all", (slice(1, 3), slice(None))),
        ("first 2", "1-3", (slice(0, 2), slice(1, 4))),
        ("2", "4", (slice(2, 3), slice(4, 5))),
    ],
)
def test_ranges_choose_part_of_the_recording(order, steps, blocks, rows):
    scores = random(*SHAPE)
    part = recording(scores[:, rows[0]][:, :, rows[1]])
    assert torch.equal(
        read(recording(scores), steps=steps, blocks=blocks, order=order).maps,
        read(part, order=order).maps,
    )


def test_blocks_keep_the_models_own_numbers():
    found = recording(random(*SHAPE), blocks=(10, 11, 12, 13, 14))
    last = replace(found, scores=found.scores[:, :, 3:], blocks=((13, 13), (14, 14)))
    assert torch.equal(read(found, blocks="13-").maps, read(last).maps)
    with pytest.raises(ConceptAttentionError, match="Blocks '2-5' were not recorded.*: 10-14"):
        read(found, blocks="2-5")
    with pytest.raises(ConceptAttentionError, match="there are 15: 0 to 14"):
        read(found, blocks="15")


def test_a_step_that_was_averaged_with_its_neighbours_brings_them_along():
    found = recording(random(*SHAPE), steps=((0, 3), (4, 7), (8, 9)))
    middle = replace(found, scores=found.scores[:, 1:2], steps=((4, 7),))
    assert torch.equal(read(found, steps="5").maps, read(middle).maps)


def test_a_skipped_step_cannot_be_asked_for():
    found = recording(random(*SHAPE), steps=((0, 0), (1, 1), (4, 4)))
    with pytest.raises(ConceptAttentionError, match="Steps '2-3' were not recorded.*0, 1, 4"):
        read(found, steps="2-3")
    with pytest.raises(ConceptAttentionError, match="there are 5: 0 to 4"):
        read(found, steps="5")


@pytest.mark.parametrize("order", ORDERS)
def test_temperature_divides_the_scores(order):
    scores = random(*SHAPE)
    torch.testing.assert_close(
        read(recording(scores), order=order, temperature=0.25).maps,
        read(recording(scores * 4), order=order).maps,
    )


@pytest.mark.parametrize("temperature", [0, -1, float("nan")])
def test_a_temperature_that_is_not_above_zero_is_refused(temperature):
    with pytest.raises(ConceptAttentionError, match="must be above 0"):
        read(recording(random(*SHAPE)), temperature=temperature)


def test_an_unknown_order_is_refused():
    with pytest.raises(ConceptAttentionError, match=f"'mean'. Accepted: {MEAN_LAST}, {MEAN_FIRST}"):
        read(recording(random(*SHAPE)), order="mean")


def test_the_recording_stays_as_it_was():
    scores = random(*SHAPE)
    for order in ORDERS:
        read(recording(scores), order=order, temperature=3.0)
    assert torch.equal(scores, random(*SHAPE))


def test_maps_say_how_they_were_made():
    spec = read(recording(random(*SHAPE)), steps="1-", temperature=2.0).spec
    assert (spec.steps, spec.temperature, spec.space) == ("1-", 2.0, "output")


def test_all_blocks_are_those_that_were_recorded():
    found = recording(random(*SHAPE), blocks=(10, 11, 12, 13, 14))
    found = replace(found, spec=replace(found.spec, blocks="10-"))
    assert read(found).spec.blocks == "10-"
    assert read(found, blocks="12-").spec.blocks == "12-"


def test_a_space_that_was_not_recorded_is_refused():
    found = recording(random(*SHAPE))
    assert read(found, space="output").spec == read(found).spec
    with pytest.raises(ConceptAttentionError, match="'value', but 'output' was recorded"):
        read(found, space="value")
    with pytest.raises(ConceptAttentionError, match="'heat'. Accepted: output, cross-attention"):
        ReadSpec(space="heat")


@pytest.mark.parametrize("what", ["steps", "blocks"])
@pytest.mark.parametrize("text", ["deep", "5-2", "first 0"])
def test_a_range_that_never_matches_is_refused_before_reading(what, text):
    with pytest.raises(ConceptAttentionError, match=f"'{text}' as a range of {what}. Accepted:"):
        ReadSpec(**{what: text})


def test_maps_are_found_by_name():
    maps = soft_maps()
    assert torch.equal(maps.of("SUN"), maps.maps[:, 1])


def test_the_hidden_background_competes_but_is_not_shown():
    maps = soft_maps(names="sun")
    assert maps.maps.shape[1] == 2
    assert torch.equal(maps.shown, maps.maps[:, :1])


def test_coverage_is_the_share_of_patches_won():
    maps = territories([[0, 0, 1], [0, 1, 1]], "sun, sky, moon", Grid.of_latent(4, 6))
    (figures,) = measure_presence(maps)
    assert [figure.name for figure in figures] == ["sun", "sky", "moon"]
    assert [figure.coverage for figure in figures] == [0.5, 0.5, 0]
    assert [figure.peak for figure in figures] == [1, 1, 0]
    assert [figure.mean for figure in figures] == [0.5, 0.5, 0]
    assert [figure.present for figure in figures] == [True, True, False]


def test_a_concept_is_present_from_half_a_percent_of_the_picture():
    for patches, present in ((4, True), (3, False)):
        owners = torch.zeros(1, 20, 37).long()  # 740 patches; 0.5 % are 3.7
        owners.view(-1)[:patches] = 1
        maps = concept_maps(torch.nn.functional.one_hot(owners, 3).permute(0, 3, 1, 2).float())
        assert measure_presence(maps)[0][1].present is present


def test_pictures_of_a_batch_are_judged_apart():
    maps = soft_maps(b=2)
    one, two = measure_presence(maps)
    assert measure_presence(replace(maps, maps=maps.maps[1:]))[0] == two != one


# --- standardised ---------------------------------------------------------------------------------


def test_a_concept_that_is_strong_everywhere_no_longer_hides_the_others():
    scores = random(1, 2, 3, 3, 6, 5)
    scores[:, :, :, 0] += 1.5  # sun leads at most patches, and wins nearly everywhere
    plain, fair = (read(recording(scores), scale=scale) for scale in SCALES)
    assert (plain.winners() == 0).float().mean() > 0.7
    assert (fair.winners() == 0).float().mean() < 0.5


@given(gain=st.floats(0.5, 2), shift=st.floats(-0.3, 0.3))
def test_standardised_maps_do_not_depend_on_a_concepts_own_gain_and_level(gain, shift):
    scores = random(2, 2, 3, 3, 6, 5)
    other = scores.clone()
    other[:, :, :, 1] = gain * other[:, :, :, 1] + shift
    first, second = (read(recording(s), scale="standardised").maps for s in (scores, other))
    torch.testing.assert_close(first, second, atol=1e-4, rtol=0)


@pytest.mark.parametrize("order", ORDERS)
def test_an_absent_concept_stays_absent_when_standardised(order):
    scores = random(2, 2, 3, 3, 6, 5)
    scores[0, :, :, 2] -= 20  # in the first picture alone
    maps = read(recording(scores), order=order, scale="standardised").maps
    assert (maps[0, 2] == 0).all()
    assert maps[1, 2].max() > 1 / 3
    torch.testing.assert_close(maps.sum(1), torch.ones(2, 6, 5))


def test_a_concept_of_one_value_everywhere_does_not_divide_by_zero():
    scores = random(1, 1, 1, 3, 4, 4)
    scores[:, :, :, 1] = 0.5
    assert read(recording(scores), scale="standardised").maps.isfinite().all()
    assert read(recording(random(1, 1, 1, 3, 1, 1)), scale="standardised").maps.isfinite().all()


# --- one picture, and words about it --------------------------------------------------------------


@pytest.mark.parametrize("b", range(B))
def test_one_picture_of_a_batch_takes_its_recording_along(b):
    maps = read(recording(random(*SHAPE)), temperature=2.0)
    alone = maps.of_image(b)
    assert torch.equal(alone.maps, maps.maps[b : b + 1])
    assert (alone.concepts, alone.grid, alone.spec) == (maps.concepts, maps.grid, maps.spec)
    assert torch.equal(read(alone.recording, temperature=2.0).maps, alone.maps)
    assert len(maps.maps) == len(maps.recording.scores) == B  # the batch stays as it was


def test_a_description_has_a_line_for_each_shown_concept_of_each_picture():
    maps = territories([[0, 0, 0, 1]] * 2, "a very long name, b", Grid.of_latent(4, 8))
    assert describe_presence(maps).splitlines() == [
        "a very long name  covers  75.0%  peak 1.00  mean 0.75",
        "b                 covers  25.0%  peak 1.00  mean 0.25",
    ]
    absent = territories([[0, 0]], "sun, moon", Grid.of_latent(2, 4))
    pair = replace(absent, maps=absent.maps.repeat(2, 1, 1, 1))
    moon = "moon  covers   0.0%  peak 0.00  mean 0.00   absent"
    assert describe_presence(pair).splitlines()[::3] == ["picture 1", "picture 2"]
    assert describe_presence(pair).splitlines()[2::3] == [moon, moon]


def test_a_description_leaves_the_hidden_background_out():
    assert len(describe_presence(soft_maps(b=1, names="sun")).splitlines()) == 1
    many = ",".join(f"thing {i}" for i in range(64))
    assert len(describe_presence(soft_maps(b=2, names=many)).splitlines()) == 2 * 65


@pytest.mark.parametrize("won", [1, 2, 7])
def test_exactly_half_a_percent_of_the_picture_is_present(won):
    owners = torch.zeros(1, 10 * won, 20).long()
    owners.view(-1)[:won] = 1
    maps = concept_maps(torch.nn.functional.one_hot(owners, 3).permute(0, 3, 1, 2).float())
    assert measure_presence(maps)[0][1].present


# --- Videos ---------------------------------------------------------------------------------------


def video(latents: int, frames_per_latent: int, seed: int = 0):
    """A recording of two videos."""
    time = FrameLayout(latents=latents, frames_per_latent=frames_per_latent)
    found = recording(random(2 * time.frames, STEPS, BLOCKS, C, Y, X, seed=seed))
    return replace(found, grid=replace(found.grid, time=time))


def test_every_picture_of_a_video_has_maps_that_blend_from_frame_to_frame():
    found = video(latents=3, frames_per_latent=4)
    frames = read(
        replace(found, grid=replace(found.grid, time=FrameLayout()))
    ).maps  # 6, one by one
    maps = read(found).maps
    assert maps.shape == (2 * 9, C, Y, X)
    torch.testing.assert_close(maps.sum(1), torch.ones(2 * 9, Y, X))
    for b in range(2):
        own, pictures = frames[3 * b : 3 * b + 3], maps[9 * b : 9 * b + 9]
        assert torch.equal(pictures[0], own[0])
        torch.testing.assert_close(pictures[1], torch.lerp(own[0], own[1], 0.4))
        torch.testing.assert_close(pictures[5], torch.lerp(own[1], own[2], 0.625))
        assert torch.equal(pictures[8], own[2])


def test_pictures_that_lie_behind_one_another_keep_their_own_maps():
    found = video(latents=4, frames_per_latent=1)
    apart = read(replace(found, grid=replace(found.grid, time=FrameLayout()))).maps
    assert torch.equal(read(found).maps, apart)


def test_one_picture_of_a_video_comes_with_its_own_map_and_recording():
    maps = read(video(latents=3, frames_per_latent=4)).of_image(12)
    assert torch.equal(maps.maps, read(video(latents=3, frames_per_latent=4)).maps[12:13])
    assert len(maps.recording.scores) == maps.recording.pictures == 1
