"""Concept Scores and Concept Gate."""

import json

import comfy.sample
import pytest
import torch
from conceptattention.conceptattention_core import ConceptAttentionError
from conceptattention.conceptattention_core.concepts import parse
from conceptattention.conceptattention_core.maps import measure_presence
from conceptattention.nodes.record import Maps
from conceptattention.nodes.scores import Gate, Scores

from .common import (
    CORNER,
    HALVES,
    SEEDS,
    SIXTY_FOUR,
    TINY_FLUX,
    gate,
    image,
    picture,
    run,
    sampled,
    territories,
)


@pytest.mark.parametrize("names", ["cat, red dog, sky", "cat, red dog", SIXTY_FOUR, "🎈"])
def test_scores_are_those_of_presence_as_table_and_as_json(names):
    background = parse(names).names[-1] == "background"
    maps = territories(CORNER, HALVES, names=names)
    text, found, absent = run(Scores, maps=maps)
    shown = [[figures[c] for c in maps.concepts.shown] for figures in measure_presence(maps)]
    assert json.loads(found) == [
        [
            {"name": one.name, "coverage": one.coverage, "peak": one.peak, "mean": one.mean,
             "present": one.present}
            for one in figures
        ]
        for figures in shown
    ]  # fmt: skip
    lines = text.splitlines()
    assert [line for line in lines if line.startswith("picture ")] == ["picture 1", "picture 2"]
    assert len(lines) == 2 * (1 + len(maps.concepts.shown))
    for figures, block in zip(shown, (lines[: len(lines) // 2], lines[len(lines) // 2 :])):
        for one, line in zip(figures, block[1:], strict=True):
            assert line.startswith(one.name)
            assert f"{one.coverage:.1%}" in line and line.endswith("absent") != one.present
    missing = [one.name for one in shown[0] if not one.present]
    assert absent == ", ".join(missing)
    assert ("background" in text + found + absent) is False or not background


def test_absent_names_what_some_picture_does_not_show():
    maps = territories([[1, 1], [1, 1]], [[0, 0], [2, 2]])
    assert run(Scores, maps=maps)[2] == "cat, sky, red dog"
    assert run(Scores, maps=territories([[0, 1], [2, 2]]))[2] == ""


def test_scores_are_shown_on_the_node():
    done = Scores.execute(territories(HALVES))
    assert done.ui.as_dict()["text"] == (done.result[0],)
    assert "picture 1" not in done.result[0]  # there is just one


@pytest.mark.parametrize(
    ("widgets", "passed"),
    [
        ({"names": "cat"}, [1, 2, 3, 4]),
        ({"names": "RED DOG,\ncat"}, [1, 2, 3, 4]),
        ({"names": "cat", "coverage": 6.25}, [1, 2, 3, 4]),
        ({"names": "cat", "coverage": 6.3}, [1, 3, 4]),
        ({"names": "cat", "coverage": 25.1}, [1, 4]),
        ({}, [3]),
        ({"names": " , "}, [3]),
        ({"coverage": 0.0}, [0, 1, 2, 3, 4]),
        ({"names": "red dog", "coverage": 100.0}, [0]),
    ],
)
def test_a_gate_lets_those_through_that_show_what_was_named(widgets, passed):
    pixels = picture(5)
    through, positions = gate(pixels, **widgets)
    assert torch.equal(through, pixels[passed])
    assert positions == ", ".join(map(str, passed))


def test_a_gate_can_ask_for_the_hidden_background():
    maps = territories([[0, 0]], [[1, 0]], names="cat")
    assert gate(picture(2), maps, names="background")[1] == "1"
    assert gate(picture(2), maps)[1] == "0, 1"  # all that were named: cat


def test_a_gate_knows_sixty_four_concepts():
    everything = [[8 * y + x for x in range(8)] for y in range(8)]
    maps = territories(everything, [[0] * 8] * 8, names=SIXTY_FOUR)
    assert gate(picture(2), maps)[1] == "0"
    assert gate(picture(2), maps, names="thing 0")[1] == "0, 1"


@pytest.mark.parametrize("percent", [10, 30, 70, 90])
def test_a_gate_lets_through_what_has_exactly_the_coverage(percent):
    owners = [[int(i >= percent // 10) for i in range(10)]]
    assert gate(picture(), territories(owners), names="cat", coverage=float(percent))[1] == "0"


def test_where_nothing_passes_a_gate_blocks_and_says_why():
    done = Gate.execute(SEEDS, picture(5), "cat, Sky", 80.0)
    assert done.block_execution == (
        "Concept Gate: none of 5 pictures shows cat, sky, each on at least 80 % of it. "
        "Another seed, or a lower coverage?"
    )
    assert not any(one is not None for one in done.result or ())


def test_a_gate_lets_latents_through_with_their_pictures():
    samples, masks = torch.rand(5, 4, 3, 2), torch.rand(5, 1, 24, 16)
    latent = {"samples": samples, "noise_mask": masks, "kind": "something"}
    kept = run(Gate, maps=SEEDS, image=picture(5), latent=latent, names="cat", coverage=10.0)[2]
    assert torch.equal(kept["samples"], samples[[1, 3, 4]])
    assert torch.equal(kept["noise_mask"], masks[[1, 3, 4]])
    assert (kept["batch_index"], kept["kind"]) == ([1, 3, 4], "something")
    assert set(latent) == {"samples", "noise_mask", "kind"}  # it is somebody else's
    later = {"samples": samples, "noise_mask": masks[:2], "batch_index": [7, 2, 9, 4, 5]}
    kept = run(Gate, maps=SEEDS, image=picture(5), latent=later, names="cat", coverage=10.0)[2]
    assert kept["batch_index"] == [2, 4, 5]
    assert torch.equal(kept["noise_mask"], masks[[1, 1, 0]])
    with pytest.raises(ConceptAttentionError, match="latent batch has 4 items, .* 5 pictures"):
        run(Gate, maps=SEEDS, image=picture(5), latent={"samples": samples[:4]})


def test_a_picked_seed_can_be_sampled_further():
    """The same noise, and the maps of it are still found."""
    _, latent = sampled(batch=3)
    (maps,) = run(Maps, latent=latent)
    cover = [figures[0].coverage for figures in measure_presence(maps)]
    best = max(range(3), key=lambda b: cover[b])
    widgets = {"names": "cat", "coverage": cover[best] * 100}
    through, passed, kept = run(Gate, maps=maps, image=image(3), latent=latent, **widgets)
    assert str(best) in passed.split(", ") and len(kept["samples"]) == len(through)
    (alone,) = run(Maps, latent=kept)
    assert torch.equal(alone.maps, maps.maps[[int(b) for b in passed.split(", ")]])
    plain = {"samples": torch.zeros(3, TINY_FLUX.channels, 5, 7)}
    noise = comfy.sample.prepare_noise(plain["samples"], 1)
    again = comfy.sample.prepare_noise(kept["samples"], 1, kept["batch_index"])
    assert torch.equal(again, noise[kept["batch_index"]])


def test_a_gate_refuses_unknown_names_and_other_pictures():
    with pytest.raises(ConceptAttentionError, match="named 'moon'. Recorded: cat, red dog, sky"):
        gate(picture(5), names="cat, moon")
    with pytest.raises(ConceptAttentionError, match="batch has 3 pictures, the maps belong to 5"):
        gate(picture(3))
