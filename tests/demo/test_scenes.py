"""The scenes: exact masks, repeatable drawing, honest captions."""

import numpy as np
import pytest

from demo.scenes import ALIASES, COLOURS, SKIES, WORDS, lay_out, scene, write_caption
from demo.training.vocabulary import list_words

SEEDS = range(12)


@pytest.mark.parametrize("seed", SEEDS)
def test_masks_tile_the_picture(seed):
    drawn = scene(seed, 64)
    assert drawn.image.shape == (64, 64, 3)
    assert drawn.image.dtype == np.uint8
    assert set(drawn.masks) <= set(WORDS)
    assert (sum(mask.astype(int) for mask in drawn.masks.values()) == 1).all()
    assert all(mask.any() for mask in drawn.masks.values())


def test_a_seed_gives_the_same_scene():
    first, second = scene(7, 64), scene(7, 64)
    assert first.prompt == second.prompt
    assert (first.image == second.image).all()
    assert all((first.masks[word] == second.masks[word]).all() for word in second.masks)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_seed_gives_the_same_composition_at_any_size(seed):
    small, large = scene(seed, 64), scene(seed, 128)
    assert small.prompt == large.prompt
    assert set(small.masks) == set(large.masks)
    for word, mask in small.masks.items():
        share = large.masks[word].reshape(64, 2, 64, 2).mean((1, 3))
        assert (np.abs(share - mask) > 0.5).mean() < 0.01, word


@pytest.mark.parametrize("seed", SEEDS)
def test_things_are_at_least_two_patches_wide(seed):
    masks = scene(seed, 128).masks
    for word in set(masks) & {"sun", "moon", "clouds", "balloon", "house", "tree", "boat"}:
        wide, high = (np.ptp(np.flatnonzero(masks[word].any(axis))) + 1 for axis in (0, 1))
        assert max(wide, high) >= 16, word  # a patch is 8 of these pixels


def named_words(prompt: str) -> set[str]:
    said = prompt.replace(",", " ").split()
    return {
        word
        for word in WORDS
        if any(name.split()[-1] in said for name in (word, *ALIASES.get(word, ())))
    }


@pytest.mark.parametrize("seed", SEEDS)
def test_captions_name_only_what_is_drawn(seed):
    drawn = scene(seed, 64)
    assert named_words(drawn.prompt) <= set(drawn.masks)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_complete_caption_names_everything(seed):
    layout = lay_out(np.random.default_rng(seed))
    caption = write_caption(layout, np.random.default_rng(seed), complete=True)
    assert named_words(caption) == set(scene(seed, 64).masks)
    assert all(thing.colour in caption for thing in layout.things if thing.colour)


def test_captions_stay_within_the_vocabulary():
    known = set(list_words())
    for seed in range(40):
        caption = write_caption(lay_out(np.random.default_rng(seed)), np.random.default_rng(seed))
        assert set(caption.replace(",", " , ").replace("-", " - ").split()) <= known


def test_words_come_apart():
    """No two things always appear together, or the model could not tell them apart."""
    sets = [set(scene(seed, 32).masks) for seed in range(150)]
    for thing, place in (("boat", "water"), ("sun", "clouds"), ("moon", "sky"), ("house", "grass")):
        both = sum({thing, place} <= words for words in sets)
        alone = sum(thing in words and place not in words for words in sets)
        assert both > 0
        assert alone > 0 or place == "sky"
    assert {"day", "sunset", "night"} == set(SKIES)
    assert len(COLOURS) == 8
