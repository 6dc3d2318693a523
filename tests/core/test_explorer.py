"""The explorer's file: what it weighs, and whether what it carries is the recording."""

import base64
import re
import zlib

import numpy as np
import pytest
import torch
from conceptattention.conceptattention_core import ConceptAttentionError
from conceptattention.conceptattention_core.concepts import parse
from conceptattention.conceptattention_core.maps import ReadSpec, read_maps
from conceptattention.conceptattention_core.output import explorer
from conceptattention.conceptattention_core.output.explorer import make_page, save_page
from conceptattention.conceptattention_core.output.render import concept_colour
from conceptattention.conceptattention_core.recording import Recording, RecordSpec
from hypothesis import given
from hypothesis import strategies as st

from .examples import NAMES, ODD, random, recording
from .explorer_common import blob, picture

PICTURE = np.random.default_rng(0).integers(0, 256, (104, 56, 3), dtype=np.uint8)
STEP = 1 / 255
HOSTILE = (
    "</script><b>bold, <!--, \"quoted\" \\u003c, &amp; 'x', سماء, 🎈 balloon, {{page}}, \u2028 x"
)


def page(image: np.ndarray, found: Recording, b: int = 0, title: str = "Concepts", **how) -> str:
    """The page of a recording, read from all blocks unless others are asked for."""
    return make_page(image, read_maps(found, ReadSpec(**{"blocks": "all", **how})), b, title)


def unpack(data: dict) -> np.ndarray:
    """The cube `step block c y x`."""
    planes = len(data["steps"]), len(data["blocks"]), len(data["concepts"])
    raw = zlib.decompress(base64.b64decode(data["cube"]))
    ends = np.frombuffer(raw[: 8 * np.prod(planes)], "<f4").reshape(*planes, 2, 1, 1)
    levels = np.frombuffer(raw[8 * np.prod(planes) :], np.uint8)
    levels = levels.reshape(*planes, data["grid"]["y"], data["grid"]["x"])
    low, high = ends[..., 0, :, :], ends[..., 1, :, :]
    return low + (high - low) * levels / 255


def mean(data: dict, steps: slice, blocks: slice) -> np.ndarray:
    """What the page shows for these groups, `c y x`."""
    weights = np.multiply.outer(
        [few["count"] for few in data["steps"][steps]],
        [few["count"] for few in data["blocks"][blocks]],
    )
    return np.average(unpack(data)[steps, blocks].reshape(weights.size, -1), 0, weights.ravel())


def spans(few: list[dict]) -> list[tuple[int, int]]:
    return [(group["first"], group["last"]) for group in few]


@pytest.fixture
def narrow(monkeypatch):
    """Room for few groups only."""
    monkeypatch.setattr(explorer, "CUBE_BYTES", 3 * (7 * 4 + 8) * 12)


def test_noise_of_the_usual_size_stays_below_two_megabytes():
    names = ",".join(f"thing {i}" for i in range(8))
    noise = recording(random(1, 28, 19, 8, 64, 64) * 3, names)
    image = np.random.default_rng(1).integers(0, 256, (1024, 1024, 3), dtype=np.uint8)
    text = page(image, noise)
    assert len(text.encode()) < 2_000_000
    data = blob(text)
    assert len(data["blocks"]) >= 8 and len(data["steps"]) >= 4


@given(room=st.integers(0, 3000), steps=st.integers(1, 60), blocks=st.integers(1, 60))
def test_groups_fill_the_room_and_no_more(room, steps, blocks):
    at_steps, at_blocks = explorer.count_groups(room, steps, blocks)
    assert 1 <= at_steps <= steps and 1 <= at_blocks <= blocks
    assert at_steps * at_blocks <= max(1, room)
    if room >= steps * blocks:
        assert (at_steps, at_blocks) == (steps, blocks)
    elif at_blocks < blocks and at_steps < steps:
        assert at_blocks >= at_steps and at_steps * at_blocks > room / 2


def test_every_span_of_groups_has_the_map_of_these_steps_and_blocks(narrow):
    one = recording(random(2, 9, 7, 3, 7, 4) * 2, blocks=tuple(range(3, 10)))
    data = blob(page(PICTURE, one, 1, temperature=0.7))
    count = len(data["steps"]), len(data["blocks"])
    assert 1 < count[0] < 9 and 1 < count[1] < 7
    sizes = {group["count"] for group in data["steps"] + data["blocks"]}
    assert len(sizes) > 1  # otherwise equal weights would do
    for s in [(i, j) for j in range(1, count[0] + 1) for i in range(j)]:
        for k in [(i, j) for j in range(1, count[1] + 1) for i in range(j)]:
            steps = data["steps"][s[0]]["first"], data["steps"][s[1] - 1]["last"]
            blocks = data["blocks"][k[0]]["first"], data["blocks"][k[1] - 1]["last"]
            spans = ("{}-{}".format(*span) for span in (steps, blocks))
            maps = read_maps(one, ReadSpec(*spans, temperature=0.7)).maps[1]
            found = mean(data, slice(*s), slice(*k))
            assert np.abs(found - maps.flatten().numpy()).max() < STEP / 2


def test_it_opens_with_the_steps_and_blocks_of_the_maps(tmp_path, narrow):
    one = recording(random(1, 9, 7, 3, 7, 4), blocks=tuple(range(3, 10)))
    maps = read_maps(one, ReadSpec(steps="4-5", blocks="last 2"))
    save_page(tmp_path, PICTURE, maps.of_image(0))
    data = blob((tmp_path / "explorer.html").read_text("utf-8"))
    for what, first, last in (("steps", 4, 5), ("blocks", 8, 9)):
        start, end = data["start"][what]["from"], data["start"][what]["to"]
        shown = data[what][start:end]
        assert shown[0]["first"] <= first <= shown[0]["last"]
        assert shown[-1]["first"] <= last <= shown[-1]["last"]
        assert len(shown) < len(data[what])
    everything = blob(page(PICTURE, one))["start"]
    assert everything == {what: {"from": 0, "to": len(data[what])} for what in everything}


def test_a_small_recording_keeps_every_step_and_block():
    one = recording(random(1, 4, 5, 3, 7, 4))
    data = blob(page(PICTURE, one))
    assert spans(data["steps"]) == [(i, i) for i in range(4)]
    assert spans(data["blocks"]) == [(i, i) for i in range(5)]
    expected = one.scores[0].softmax(2).numpy()
    assert np.abs(unpack(data) - expected).max() < STEP / 2


def test_stops_are_the_true_steps_and_blocks(narrow):
    steps = ((0, 1), (2, 4), (5, 6), (7, 9), (12, 13))
    blocks = (3, 4, 5, 8, 9, 18)
    data = blob(page(PICTURE, recording(random(1, 5, 6, 3, 7, 4), steps=steps, blocks=blocks)))
    assert spans(data["steps"]) == [(0, 4), (5, 13)]
    assert spans(data["blocks"]) == [(number, number) for number in blocks]
    assert [group["count"] for group in data["steps"]] == [2, 3]


def test_sixty_four_concepts_are_told_apart_though_none_comes_near_one():
    names = ",".join(f"thing {i}" for i in range(64))
    scores = random(1, 1, 1, 65, 8, 6) * 0.05
    spec = RecordSpec(parse(names, background=True))
    one = Recording(scores, spec, ODD, ((0, 0),), ((0, 0),), "Tiny")
    data = blob(page(PICTURE, one))
    expected = read_maps(one).maps[0]
    found = torch.from_numpy(unpack({**data, "grid": {"y": 8, "x": 6}})[0, 0])
    assert (found - expected).abs().max() < STEP / 100
    assert (found.argmax(0) == expected.argmax(0)).float().mean() > 0.9


def test_padding_travels_with_the_grid():
    spec = RecordSpec(parse(NAMES))
    padded = Recording(
        random(1, 2, 2, 3, 7, 4), spec, ODD, ((0, 0), (1, 1)), ((0, 0), (1, 1)), "Tiny"
    )
    data = blob(page(PICTURE, padded))
    assert data["grid"] == {"y": 7, "x": 4, "patch": 16, "h": 104, "w": 56}
    assert unpack(data).shape == (2, 2, 3, 7, 4)


@pytest.mark.parametrize("grid", [(1, 1), (1, 5), (3, 1)])
def test_a_map_of_one_value_is_exact(grid):
    one = recording(torch.zeros(1, 1, 1, 3, *grid))
    assert (unpack(blob(page(PICTURE, one))) == np.float32(1 / 3)).all()


def test_concepts_come_with_colours_and_the_hidden_one_is_marked():
    one = recording(random(1, 1, 1, 2, 7, 4), "lake: calm water")
    concepts = blob(page(PICTURE, one))["concepts"]
    assert [concept["name"] for concept in concepts] == ["lake", "background"]
    assert [concept["words"] for concept in concepts] == ["calm water", "background"]
    assert [concept["hidden"] for concept in concepts] == [False, True]
    assert [tuple(concept["colour"]) for concept in concepts] == [
        concept_colour(0),
        concept_colour(1),
    ]


def test_no_name_breaks_the_page():
    calm = recording(random(1, 1, 1, 3, 7, 4))
    names = parse(HOSTILE).names
    hostile = recording(random(1, 1, 1, len(names), 7, 4), HOSTILE)
    text = page(PICTURE, hostile, title="</title></script><i>{{page}}")
    for tag in ("<script", "</script>", "<b>", "<i>", "<!--", "</title>"):
        assert text.count(tag) == page(PICTURE, calm).count(tag)
    data = blob(text)
    assert data["title"] == "</title></script><i>{{page}}"
    assert tuple(concept["name"] for concept in data["concepts"]) == names
    assert all(re.fullmatch(r"[\w-]+", concept["file"]) for concept in data["concepts"])


def test_the_page_names_no_place_outside_itself():
    text = page(PICTURE, recording(random(1, 2, 2, 3, 7, 4)))
    shell = re.sub(r"data:image/jpeg;base64,[\w+/=]+", "", text)
    assert not re.search(r"https?:|//[\w.]+/|\b(src|href)=|@import|url\(|\bfetch\b", shell)
    assert not re.search(r"XMLHttpRequest|WebSocket|EventSource|sendBeacon|import\(", shell)
    assert "default-src 'none'; img-src data:;" in shell


@pytest.mark.parametrize("size", [(1, 1), (104, 56), (40, 3000), (1500, 1300)])
def test_the_picture_is_inside_and_fits(size):
    noise = np.random.default_rng(2).integers(0, 256, (*size, 3), dtype=np.uint8)
    data = blob(page(noise, recording(random(1, 1, 1, 3, 7, 4))))
    assert (data["h"], data["w"]) == size  # that of the masks
    inside = picture(data)
    assert len(data["picture"]) < explorer.PICTURE_BYTES * 4 / 3 + 99
    assert max(inside.shape) <= explorer.LONGEST_SIDE
    long, short = max(size), min(size)
    assert max(inside.shape[:2]) / long == pytest.approx(min(inside.shape[:2]) / short, rel=0.05)


def test_the_picture_looks_as_it_did():
    ramp = np.stack(np.meshgrid(range(104), range(56), [60], indexing="ij"), -1)[:, :, 0]
    data = blob(page(ramp.astype(np.uint8), recording(random(1, 1, 1, 3, 7, 4))))
    assert np.abs(picture(data).astype(int) - ramp).mean() < 3


def test_each_picture_of_a_batch_has_its_own_maps():
    batch = recording(random(2, 1, 1, 3, 7, 4))
    first, second = (unpack(blob(page(PICTURE, batch, b)))[0, 0] for b in (0, 1))
    assert np.abs(second - read_maps(batch).maps[1].numpy()).max() < STEP / 2
    assert np.abs(first - second).max() > 0.1


@pytest.mark.parametrize("b", [-1, 2])
def test_a_picture_that_was_not_recorded_is_refused(b):
    with pytest.raises(ConceptAttentionError, match=f"no image {b} in the recording; it has 2"):
        page(PICTURE, recording(random(2, 1, 1, 3, 7, 4)), b)


@pytest.mark.parametrize("temperature", [0, -1, float("nan")])
def test_a_temperature_has_to_be_above_zero(temperature):
    with pytest.raises(ConceptAttentionError, match="temperature must be above 0"):
        page(PICTURE, recording(random(1, 1, 1, 3, 7, 4)), temperature=temperature)


def test_nothing_given_is_changed_and_the_same_gives_the_same():
    image, one = PICTURE.copy(), recording(random(1, 2, 2, 3, 7, 4))
    before = one.scores.clone()
    assert page(image, one) == page(image, one)
    assert np.array_equal(image, PICTURE) and torch.equal(one.scores, before)
