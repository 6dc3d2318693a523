"""Recordings are found again by the latent they belong to, and the store stays within bounds."""

import pytest
import torch
from conceptattention.conceptattention_core import ConceptAttentionError
from conceptattention.conceptattention_core.concepts import parse
from conceptattention.conceptattention_core.hosts.comfyui.store import NotRecorded, Store
from conceptattention.conceptattention_core.recording import Grid, Recording, RecordSpec

NEVER = "No concepts were recorded for this latent"


def latent(b: int = 2, seed: int = 0, h: int = 13, w: int = 22) -> torch.Tensor:
    return torch.randn(b, 16, h, w, generator=torch.Generator().manual_seed(seed))


def recording(b: int = 2, value: float = 0.0, words: str = "cat, sky", size: int = 3) -> Recording:
    """One whose scores are `value` plus the picture's place in its batch."""
    scores = value + torch.arange(float(b)).view(b, 1, 1, 1, 1, 1).expand(b, 2, 1, 2, size, size)
    grid = Grid.of_latent(2 * size, 2 * size)
    return Recording(
        scores.clone(), RecordSpec(parse(words)), grid, ((0, 0), (1, 1)), (0,), "Flux.1"
    )


def pictures(found: Recording) -> list[float]:
    """For each picture the value that `recording` gave it."""
    return [scores.unique().item() for scores in found.scores]


@pytest.fixture
def store() -> Store:
    return Store()


def test_a_recording_is_found_as_it_was_filed(store):
    filed = recording()
    store.file([latent()], filed)
    found = store.find(latent())
    assert torch.equal(found.scores, filed.scores)
    assert (found.spec, found.grid, found.steps, found.blocks, found.model) == (
        filed.spec, filed.grid, filed.steps, filed.blocks, filed.model,
    )  # fmt: skip


@pytest.mark.parametrize(
    "moved",
    [
        lambda x: x.bfloat16(),
        lambda x: x.half(),
        lambda x: x.double(),
        lambda x: x.bfloat16().float().half(),
        lambda x: x.clone(memory_format=torch.channels_last),
        lambda x: x + 1e-5,
    ],
)
@pytest.mark.parametrize("scale", [0.01, 1.0, 300.0])
def test_a_latent_that_was_cast_or_moved_is_still_known(store, moved, scale):
    store.file([latent(seed=1) * scale], recording(value=5))
    store.file([latent() * scale], recording())
    assert pictures(store.find(moved(latent() * scale))) == [0, 1]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [([1], [1]), ([2, 1, 0], [2, 1, 0]), ([0, 0, 2, 2], [0, 0, 2, 2]), ([0, 1], [0, 1])],
)
def test_pictures_may_be_taken_out_reordered_and_repeated(store, rows, expected):
    store.file([latent(3)], recording(3))
    assert pictures(store.find(latent(3)[rows])) == expected


def test_pictures_of_several_runs_may_be_put_together(store):
    store.file([latent(2, seed=1)], recording(2, value=0))
    store.file([latent(2, seed=2)], recording(2, value=10))
    together = torch.cat([latent(2, seed=2), latent(2, seed=1)])
    assert pictures(store.find(together)) == [10, 11, 0, 1]


def test_pictures_recorded_with_different_concepts_do_not_go_together(store):
    store.file([latent(1, seed=1)], recording(1, words="cat, sky"))
    store.file([latent(1, seed=2)], recording(1, words="dog, sky"))
    with pytest.raises(ConceptAttentionError, match="recorded with different concepts"):
        store.find(torch.cat([latent(1, seed=1), latent(1, seed=2)]))


def test_every_latent_that_came_out_of_a_run_finds_it(store):
    noisy, clean = latent(seed=1), latent(seed=2)
    store.file([noisy, clean], recording())
    assert torch.equal(store.find(noisy).scores, store.find(clean).scores)


def test_of_one_picture_recorded_twice_the_newest_counts(store):
    for value in (10, 20):
        store.file([latent()], recording(value=value))
    assert pictures(store.find(latent())) == [20, 21]
    assert len(store) == 2  # the first is gone


def test_a_spec_tells_recordings_of_one_picture_apart(store):
    specs = []
    for value, words in ((10, "cat, sky"), (20, "dog, sky")):
        filed = recording(value=value, words=words)
        specs.append(filed.spec)
        store.file([latent()], filed)
    assert [pictures(store.find(latent(), spec)) for spec in specs] == [[10, 11], [20, 21]]
    with pytest.raises(ConceptAttentionError, match=NEVER):
        store.find(latent(), RecordSpec(parse("sea, sky")))


def test_of_two_similar_pictures_the_nearer_one_is_found(store):
    similar = latent() + 0.002 * latent(seed=7)
    store.file([latent()], recording(value=10))
    store.file([similar], recording(value=20))
    assert pictures(store.find(latent())) == [10, 11]
    assert pictures(store.find(similar)) == [20, 21]


@pytest.mark.parametrize("size", [13, 128])
@pytest.mark.parametrize("corner", [0, 3, 9])
def test_a_picture_of_which_a_detail_was_regenerated_is_another_one(store, size, corner):
    # 32 by 32 pixels, of 1024 by 1024 in the larger one.
    before = latent(h=size, w=size) + 0.5  # latents have no mean of zero
    after = before.clone()
    place = slice(corner, corner + 4)
    after[:, :, place, place] = latent(seed=5, h=4, w=4)
    store.file([before], recording(value=10))
    store.file([after], recording(value=20))
    assert pictures(store.find(before.bfloat16())) == [10, 11]
    assert pictures(store.find(after.bfloat16())) == [20, 21]


@pytest.mark.parametrize("other", [latent(seed=9), latent(h=12), latent() * 1.1, -latent()])
def test_an_unrecorded_latent_is_an_error_that_says_what_to_do(store, other):
    store.file([latent()], recording())
    with pytest.raises(ConceptAttentionError, match=f"{NEVER}. Connect the LATENT that comes"):
        store.find(other)


def test_an_empty_store_finds_nothing(store):
    with pytest.raises(ConceptAttentionError, match=NEVER):
        store.find(latent())


def test_a_run_that_failed_to_a_black_picture_does_not_answer_for_others(store):
    store.file([latent()], recording(value=10))
    black = torch.full_like(latent(), float("nan"))
    store.file([black], recording(value=20))
    assert pictures(store.find(latent())) == [10, 11]
    with pytest.raises(ConceptAttentionError, match="values that are not numbers"):
        store.find(black)
    with pytest.raises(ConceptAttentionError, match=NEVER):
        store.find(latent(seed=3))


def test_a_recording_without_scores_says_why(store):
    store.file([latent()], NotRecorded(recording().spec, "because"))
    with pytest.raises(ConceptAttentionError, match="because"):
        store.find(latent())


def test_beyond_its_capacity_the_store_forgets_the_oldest():
    store = Store(capacity=100_000)
    for seed in range(20):
        store.file([latent(1, seed=seed)], recording(1, value=seed, size=40))  # 25,600 bytes
    assert len(store) == 3
    assert pictures(store.find(latent(1, seed=19))) == [19]
    assert pictures(store.find(latent(1, seed=17))) == [17]
    with pytest.raises(ConceptAttentionError, match="dropped to save memory"):
        store.find(latent(1, seed=16))
    with pytest.raises(ConceptAttentionError, match=NEVER):  # too long ago to be known
        store.find(latent(1, seed=0))


def test_the_newest_recording_stays_however_large():
    store = Store(capacity=1000)
    for seed in range(3):
        store.file([latent(2, seed=seed)], recording(2, value=seed, size=20))
    assert pictures(store.find(latent(2, seed=2))) == [2, 3]
    assert len(store) == 2


def test_runs_that_could_not_be_recorded_do_not_fill_the_store():
    store = Store(capacity=100_000)
    for seed in range(60):
        store.file([latent(1, seed=seed)], NotRecorded(recording().spec, "because"))
    assert len(store) < 30


def test_a_recording_found_is_not_the_one_in_the_store(store):
    store.file([latent()], recording())
    store.find(latent()).scores.zero_().add_(9)
    assert pictures(store.find(latent())) == [0, 1]


def test_cleared_is_empty(store):
    store.file([latent()], recording())
    store.clear()
    assert len(store) == 0
