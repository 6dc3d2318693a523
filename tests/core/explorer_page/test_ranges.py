"""The explorer's page: ranges of steps and blocks, colours, odd recordings."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conceptattention.conceptattention_core.maps import ReadSpec, read_maps
from conceptattention.conceptattention_core.masks import upsample
from conceptattention.conceptattention_core.output import explorer
from conceptattention.conceptattention_core.output.render import concept_colour
from conceptattention.conceptattention_core.output.rendered import RenderedMaps
from conceptattention.conceptattention_core.recording import Grid, Recording
from PIL import Image

from .common import (
    ODD,
    SIXTY_FOUR,
    SIZES,
    at,
    bars,
    close,
    download,
    inside,
    mask_of,
    paint,
    record,
    settled,
    shown,
    strongest,
)


def view(page: Any, name: str) -> None:
    page.get_by_role("radio", name=name).check(force=True)
    settled(page)


@pytest.fixture
def few_groups(monkeypatch):
    monkeypatch.setattr(explorer, "CUBE_BYTES", 3 * (9 * 5 + 8) * 12)


def test_ranges_change_bars_and_mask_at_once(show, few_groups):
    one, size = record(steps=7, blocks=9, seed=3), SIZES[0]
    page = show(paint(*size), one)
    page.get_by_role("radio", name="sky").check(force=True)
    page.get_by_label("Threshold").select_option("mean")
    whole = download(page)
    assert close(whole, mask_of(read_maps(one, ReadSpec(blocks="all")), "sky", size, "mean"))

    def read() -> dict[str, str]:
        ends = {}
        for kind in ("step", "block"):
            first, last = (
                page.get_by_role("slider", name=f"{end} {kind}").get_attribute("aria-valuetext")
                for end in ("first", "last")
            )
            numbers = "-".join(text.removeprefix(f"{kind} ") for text in (first, last))
            said = page.locator(f"#{kind}s-said").text_content().split(" of ")[0]
            low, _, high = said.partition("-")
            assert numbers == f"{low}-{high or low}"
            ends[f"{kind}s"] = numbers
        return ends

    assert read() == {"steps": "0-6", "blocks": "0-8"}
    seen = set()
    for name, key in (
        *(("first step", "ArrowRight"), ("last block", "ArrowLeft")),
        *(("first block", "ArrowRight"), ("last block", "ArrowLeft"), ("first step", "ArrowLeft")),
    ):
        page.get_by_role("slider", name=name).press(key)
        reading = read()
        seen.add(str(reading))
        expected = read_maps(one, ReadSpec(**reading))
        mask = download(page)
        assert close(mask, mask_of(expected, "sky", size, "mean"))
        assert not close(mask, whole > 0, 0.01)
        page.mouse.move(*at(page, 100, 20, size))
        heat = upsample(expected.maps, ODD, size)[0, :, 100, 20].tolist()
        assert list(bars(page).values()) == pytest.approx(heat, abs=0.012)
    assert len(seen) == 5
    page.get_by_label("Threshold").select_option("competition")
    for _ in range(2):  # what is shown, not only what is downloaded
        page.get_by_role("slider", name="first step").press("ArrowRight")
        settled(page)
        pixels = upsample(read_maps(one, ReadSpec(**read())).maps, ODD, size)[0]
        share = (pixels.argmax(0) == 1).float().mean().item() * 100
        covers = page.locator("#covers").text_content().removesuffix("% of the picture")
        assert float(covers) == pytest.approx(share, abs=1)


def test_two_handles_never_cross_and_come_when_the_track_is_pressed(show):
    page = show(paint(*SIZES[0]), record(steps=3, blocks=4))
    first, last = (page.get_by_role("slider", name=f"{end} block") for end in ("first", "last"))
    for _ in range(9):
        first.press("ArrowRight")
    assert (first.input_value(), last.input_value()) == ("3", "4")
    assert page.locator("#blocks-said").text_content() == "3 of 0-3"
    first.press("Home")
    for _ in range(9):
        last.press("ArrowLeft")
    assert (first.input_value(), last.input_value()) == ("0", "1")
    box = page.locator("#blocks").bounding_box()
    page.mouse.click(box["x"] + box["width"] * 0.74, box["y"] + box["height"] / 2)
    assert (first.input_value(), last.input_value()) == ("0", "3")
    page.mouse.click(box["x"] + box["width"] * 0.27, box["y"] + box["height"] / 2)
    assert (first.input_value(), last.input_value()) == ("1", "3")
    assert page.locator("#blocks-said").text_content() == "1-2 of 0-3"


def test_regions_and_heat_have_the_colours_of_render(show):
    one, size, grey = record(), SIZES[0], 170
    maps, labels = read_maps(one), strongest(one, size)
    page = show(np.full((*size, 3), grey, np.uint8), one)
    assert np.abs(shown(page, size) - grey).mean() < 2
    view(page, "Regions")
    tints = np.array([concept_colour(c) for c in range(3)]) * (0.3 + 0.7 * grey / 255) * 0.7
    apart = np.abs(shown(page, size) - (tints + 0.3 * grey)[labels]).max(-1)
    assert (apart < 4).mean() > 0.9  # but for white lines
    view(page, "Heat")  # takes the concept that has most of the picture
    most = np.bincount(maps.winners().flatten()).argmax()
    assert page.locator("[name=concept]:checked").input_value() == str(most)
    heat = RenderedMaps(maps, np.zeros((*size, 3), np.uint8)).heat_map(int(most))
    apart = np.abs(shown(page, size) - heat.astype(int)).max(-1)
    assert (apart < 8).mean() > 0.85  # but for the outline
    assert page.locator("#scale").is_visible()
    view(page, "Picture")
    page.keyboard.press("Escape")
    settled(page)
    assert np.abs(shown(page, size) - grey).mean() < 2


def test_sixty_four_concepts(show):
    one, size = record(SIXTY_FOUR, steps=2, blocks=2), SIZES[0]
    page = show(paint(*size), one)
    rows = page.locator("#concepts li")
    assert rows.count() == 64
    listed = page.locator("#concepts").evaluate("list => list.scrollHeight / list.clientHeight")
    assert listed > 3
    labels = strongest(one, size)
    last = int(labels.max())
    rows.nth(last).click()
    assert close(download(page), labels == last, 0.01)
    y, x = inside(labels == last)
    page.mouse.move(*at(page, y, x, size))
    assert page.locator("#tip .name").first.text_content() == one.concepts.names[last]


def test_one_concept_competes_with_a_background_that_nobody_can_take(show):
    one, size = record("sun"), SIZES[0]
    page = show(paint(*size), one)
    labels = strongest(one, size)
    assert page.get_by_role("radio", name="background").is_disabled()
    page.mouse.click(*at(page, *inside(labels == 1), size))
    page.get_by_text("background is strongest here").wait_for()
    assert page.get_by_role("button", name="Download mask").is_disabled()
    page.mouse.click(*at(page, *inside(labels == 0), size))
    assert close(download(page), labels == 0)
    grey = page.locator("#concepts .swatch").last
    red, green, blue = grey.evaluate("it => getComputedStyle(it).backgroundColor.match(/\\d+/g)")
    assert max(map(int, (red, green, blue))) - min(map(int, (red, green, blue))) < 20


def test_a_frame_without_an_origin_of_its_own_is_enough(show, tmp_path):
    """As on the node in ComfyUI."""
    one, size = record(), SIZES[0]
    page = show(paint(*size), one)
    page.evaluate(
        """text => {
            const frame = document.createElement("iframe");
            frame.sandbox = "allow-scripts allow-downloads";
            frame.srcdoc = text;
            document.body.replaceChildren(frame);
        }""",
        (tmp_path / "explorer.html").read_text(encoding="utf-8"),
    )
    frame = page.frame_locator("iframe")
    frame.get_by_role("radio", name="lake").check(force=True)
    with page.expect_download() as caught:
        frame.get_by_role("button", name="Download mask").click()
    mask = np.asarray(Image.open(io.BytesIO(Path(caught.value.path()).read_bytes())))
    assert close(mask, strongest(one, size) == 2)


def test_one_patch_one_step_one_block(show):
    one = record("sun", Grid.of_latent(2, 2))
    page = show(paint(30, 50), one)
    for name in ("first step", "last step", "first block", "last block"):
        assert page.get_by_role("slider", name=name).is_disabled()
    assert page.locator("#steps-said").text_content() == "0"
    page.get_by_role("radio", name="sun").check(force=True)
    expected = 255 * (read_maps(one).winners().item() == 0)
    assert (download(page) == expected).all()


@pytest.mark.parametrize("size", SIZES)
def test_a_map_of_one_value_gives_no_mask_and_the_first_of_equals_wins(show, size):
    some = record(steps=3)
    even = Recording(torch.zeros_like(some.scores), *list(vars(some).values())[1:])
    page = show(paint(*size), even)
    for c, name in enumerate(even.concepts.names):
        page.get_by_role("radio", name=name).check(force=True)
        page.get_by_label("Threshold").select_option("competition")
        assert (download(page) == (0 if c else 255)).all()
    for threshold in ("mean", "otsu", "top area"):
        page.get_by_label("Threshold").select_option(threshold)
        for soft in (False, True):
            page.get_by_label("Soft edges").set_checked(soft)
            assert (download(page) == 0).all()
    assert page.locator("#covers").text_content() == "empty"
