"""What is kept of a run, and how much memory that takes."""

import pytest
import torch
from conceptattention.conceptattention_core import ConceptAttentionError
from conceptattention.conceptattention_core.concepts import parse
from conceptattention.conceptattention_core.recording import (
    FrameLayout,
    Grid,
    Recorder,
    RecordSpec,
)
from hypothesis import given
from hypothesis import strategies as st

from .examples import NAMES, random

B, C, Y, X = 2, 3, 3, 5
GRID = Grid.of_latent(2 * Y, 2 * X)
BLOCKS = (4, 5)


def recorder(steps: int, spec: RecordSpec | None = None) -> Recorder:
    return Recorder(spec or RecordSpec(parse(NAMES)), GRID, BLOCKS, steps, "Tiny")


def forward(seed: int) -> list[torch.Tensor]:
    """Raw scores `b c p` of each block."""
    return list(random(len(BLOCKS), B, C, Y * X, seed=seed))


def as_grid(scores: list[torch.Tensor]) -> torch.Tensor:
    """`b block c y x`, filled number by number."""
    out = torch.zeros(B, len(BLOCKS), C, Y, X)
    for block, of_block in enumerate(scores):
        for p in range(Y * X):
            out[:, block, :, p // X, p % X] = of_block[:, :, p]
    return out


def test_steps_and_blocks_stay_apart():
    run = recorder(steps=3)
    for step in range(3):
        run.add(step, forward(seed=step))
    recording = run.finish()
    assert recording.scores.shape == (B, 3, len(BLOCKS), C, Y, X)
    assert recording.steps == ((0, 0), (1, 1), (2, 2))
    assert (recording.blocks, recording.model) == (((4, 4), (5, 5)), "Tiny")
    for step in range(3):
        assert torch.equal(recording.scores[:, step], as_grid(forward(seed=step)))


def test_several_forwards_in_a_step_are_averaged():
    run = recorder(steps=2)
    for step, seed in ((0, 1), (1, 2), (0, 3), (0, 4)):
        run.add(step, forward(seed))
    first, second = run.finish().scores.unbind(1)
    expected = torch.stack([as_grid(forward(seed)) for seed in (1, 3, 4)]).mean(0)
    torch.testing.assert_close(first, expected)
    assert torch.equal(second, as_grid(forward(2)))


def test_a_skipped_step_is_left_out_not_zero():
    run = recorder(steps=5)
    for step in (1, 4):
        run.add(step, forward(step))
    recording = run.finish()
    assert recording.steps == ((1, 1), (4, 4))
    for i, step in enumerate((1, 4)):
        assert torch.equal(recording.scores[:, i], as_grid(forward(step)))


@given(steps=st.integers(1, 30), affordable=st.integers(1, 40))
def test_beyond_the_budget_neighbouring_steps_are_averaged(steps, affordable):
    x = 2**18 // affordable  # 2**18 floats are 1 MiB
    spec = RecordSpec(parse(NAMES), budget_mib=1)
    run = Recorder(spec, Grid.of_latent(2, 2 * x), (0,), steps, "Tiny")
    heard = [float(step) ** 2 for step in range(steps)]
    for step, value in enumerate(heard):
        run.add(step, [torch.full((1, 1, x), value)])
    recording = run.finish()

    assert recording.nbytes <= 2**20
    assert len(recording.steps) == min(steps, affordable)
    covered = [step for first, last in recording.steps for step in range(first, last + 1)]
    assert covered == list(range(steps))
    spans = [last - first for first, last in recording.steps]
    assert max(spans) - min(spans) <= 1
    for i, (first, last) in enumerate(recording.steps):
        mean = sum(heard[first : last + 1]) / (last + 1 - first)
        torch.testing.assert_close(recording.scores[0, i], torch.full((1, 1, 1, x), mean))


def test_one_step_larger_than_the_budget_is_kept_as_the_mean_of_all_steps():
    x = 2**18 + 1
    spec = RecordSpec(parse(NAMES), budget_mib=1)
    run = Recorder(spec, Grid.of_latent(2, 2 * x), (0,), 3, "Tiny")
    for step in range(3):
        run.add(step, [torch.full((1, 1, x), float(step))])
    recording = run.finish()
    assert recording.steps == ((0, 2),)
    assert torch.equal(recording.scores, torch.ones(1, 1, 1, 1, 1, x))


@given(blocks=st.integers(1, 12), affordable=st.integers(1, 15))
def test_blocks_are_averaged_where_a_step_is_beyond_the_budget(blocks, affordable):
    x = 2**18 // affordable
    spec = RecordSpec(parse(NAMES), budget_mib=1)
    run = Recorder(spec, Grid.of_latent(2, 2 * x), range(3, 3 + blocks), 2, "Tiny")
    for step in range(2):
        run.add(step, [torch.full((1, 1, x), float(step + block)) for block in range(blocks)])
    recording = run.finish()

    assert recording.nbytes <= 2**20
    assert len(recording.blocks) == min(blocks, affordable)
    covered = [block for first, last in recording.blocks for block in range(first, last + 1)]
    assert covered == list(range(3, 3 + blocks))
    for i, (first, last) in enumerate(recording.blocks):
        expected = (first + last) / 2 - 3
        for j, (begin, end) in enumerate(recording.steps):
            found = recording.scores[0, j, i]
            torch.testing.assert_close(found, torch.full_like(found, expected + (begin + end) / 2))


def test_a_video_of_33_pictures_in_full_size_stays_within_the_budget():
    """HunyuanVideo at 1280 x 720, 20 blocks, 28 steps; 8 concepts, and as many as there may be."""
    for count, steps, blocks in ((8, 3, 20), (64, 1, 8)):
        names = ", ".join(f"concept {i}" for i in range(count))
        grid = Grid.of_latent(90, 160, time=FrameLayout(latents=9, frames_per_latent=4))
        run = Recorder(RecordSpec(parse(names)), grid, range(20), 28, "Tiny")
        scores = torch.zeros(1, count, grid.patches)
        for step in (0, 13, 27):
            run.add(step, [scores] * 20)
        recording = run.finish()
        assert recording.nbytes <= 64 * 2**20
        assert (len(recording.steps), len(recording.blocks)) == (steps, blocks)
        assert recording.pictures == 33


# --- Videos ---------------------------------------------------------------------------------------


def test_the_frames_of_a_video_follow_one_another_as_pictures_do():
    grid = Grid.of_latent(2 * Y, 2 * X, time=FrameLayout(latents=3, frames_per_latent=4))
    run = Recorder(RecordSpec(parse(NAMES)), grid, BLOCKS, 1, "Tiny")
    scores = random(B, C, 3, Y, X)
    run.add(0, [scores.flatten(2), scores.flatten(2) * 2])
    recording = run.finish()
    assert recording.scores.shape == (B * 3, 1, len(BLOCKS), C, Y, X)
    for b in range(B):
        for frame in range(3):
            assert torch.equal(recording.scores[b * 3 + frame, 0, 0], scores[b, :, frame])


@pytest.mark.parametrize(
    ("time", "frames", "pictures"),
    [
        (FrameLayout(), 1, 1),
        (FrameLayout(latents=4), 4, 4),  # pictures behind one another
        (FrameLayout(latents=9, frames_per_latent=4), 9, 33),  # HunyuanVideo
        (
            FrameLayout(latents=13, frames_per_latent=4, patch=2),
            7,
            49,
        ),  # CogVideoX 1.5, one cell of padding
    ],
)
def test_every_picture_of_a_video_has_its_place_among_the_frames(time, frames, pictures):
    assert (time.frames, time.pictures) == (frames, pictures)
    places = [time.frame_of(picture) for picture in range(pictures)]
    assert places == sorted(places)
    assert places[0] == 0
    assert places[-1] <= frames - 1


def test_a_frame_stands_in_the_middle_of_its_pictures():
    time = FrameLayout(latents=4, frames_per_latent=4)  # 0 | 1 2 3 4 | 5 6 7 8 | 9 10 11 12
    assert time.frame_of(2) < 1 < time.frame_of(3)
    assert (time.frame_of(6) + time.frame_of(7)) / 2 == 2
    doubled = FrameLayout(
        latents=6, frames_per_latent=4, patch=2
    )  # 0 1 2 3 4 | 5 ... 12 | 13 ... 20
    assert doubled.frame_of(0) == 0
    assert (doubled.frame_of(8) + doubled.frame_of(9)) / 2 == 1


def test_cells_in_front_that_are_thrown_away_have_no_pictures():
    for lead in (1, 2):
        kept, padded = (
            FrameLayout(latents=3, frames_per_latent=4),
            FrameLayout(latents=3 + lead, frames_per_latent=4, lead_padding=lead),
        )
        assert padded.pictures == kept.pictures == 9
        for picture in range(9):
            place = lead + kept.frame_of(picture)
            assert padded.frame_of(picture) == pytest.approx(place)


def test_a_recording_is_told_how_many_pictures_came_out():
    grid = Grid.of_latent(2 * Y, 2 * X, time=FrameLayout(latents=4, frames_per_latent=4, patch=2))
    run = Recorder(RecordSpec(parse(NAMES)), grid, BLOCKS, 1, "Tiny")
    run.add(0, [random(B, C, 2 * Y * X)] * len(BLOCKS))
    recording = run.finish()
    assert recording.of_length(13).grid == grid
    shorter = recording.of_length(9)
    assert shorter.grid.time == FrameLayout(latents=4, frames_per_latent=4, patch=2, lead_padding=1)
    assert (shorter.pictures, recording.pictures) == (2 * 9, 2 * 13)
    for pictures in (5, 10, 17):  # more than a patch of padding, part of a cell, too many
        with pytest.raises(ConceptAttentionError, match=f"of 13 pictures .* none of {pictures}"):
            recording.of_length(pictures)


def test_one_picture_of_a_video_comes_with_the_frame_next_to_it():
    grid = Grid.of_latent(2 * Y, 2 * X, time=FrameLayout(latents=3, frames_per_latent=4))
    run = Recorder(RecordSpec(parse(NAMES)), grid, BLOCKS, 1, "Tiny")
    run.add(0, [random(B, C, 3 * Y * X)] * len(BLOCKS))
    recording = run.finish()
    assert recording.pictures == 2 * 9
    for picture, frame in ((0, 0), (3, 1), (8, 2), (9, 3), (12, 4), (17, 5)):
        alone = recording.of_image(picture)
        assert torch.equal(alone.scores[0], recording.scores[frame])
        assert (alone.pictures, alone.grid.patches) == (1, Y * X)
    with pytest.raises(ConceptAttentionError, match="no image 18 .* it has 18, from 0"):
        recording.of_image(18)


def test_scores_of_any_precision_become_float32_and_stay_untouched():
    scores = [s.bfloat16() for s in forward(0)]
    before = [s.clone() for s in scores]
    run = recorder(steps=1)
    run.add(0, scores)
    run.add(0, [2 * s for s in scores])
    recorded = run.finish().scores
    assert recorded.dtype == torch.float32
    torch.testing.assert_close(recorded[:, 0], 1.5 * as_grid([s.float() for s in before]))
    assert all(torch.equal(now, then) for now, then in zip(scores, before))


def test_nothing_captured_is_an_error_that_says_what_to_do():
    with pytest.raises(ConceptAttentionError, match="Nothing was captured while Tiny sampled"):
        recorder(steps=3).finish()


@pytest.mark.parametrize(
    ("h", "w", "y", "x"), [(16, 16, 8, 8), (13, 22, 7, 11), (1, 3, 1, 2), (17, 5, 9, 3)]
)
def test_a_grid_covers_the_latent_padded_to_whole_patches(h, w, y, x):
    assert Grid.of_latent(h, w) == Grid(y, x, patch=16, h=8 * h, w=8 * w)


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(ConceptAttentionError, match="'some' for tokens. Accepted: all, first"):
        RecordSpec(parse(NAMES), tokens="some")
    with pytest.raises(ConceptAttentionError, match="0 MiB"):
        RecordSpec(parse(NAMES), budget_mib=0)
