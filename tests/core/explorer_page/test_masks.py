"""The explorer's page in a browser: what it shows is what maps and masks say."""

import re

import numpy as np
import pytest
from conceptattention.conceptattention_core.maps import read_maps
from conceptattention.conceptattention_core.masks import upsample

from .common import (
    ODD,
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


@pytest.mark.parametrize("size", SIZES)
def test_what_one_points_at_is_what_the_maps_say(show, size):
    one = record()
    page = show(paint(*size), one)
    heat = upsample(read_maps(one).maps, ODD, size)[0]
    for y in range(6, size[0], size[0] // 5):
        for x in range(5, size[1], size[1] // 4):
            page.mouse.move(*at(page, y, x, size))
            row, column = (y + 0.5) * ODD.h / size[0] // 16, (x + 0.5) * ODD.w / size[1] // 16
            told = page.locator("#where").text_content()
            assert told == f"at row {row + 1:.0f}, column {column + 1:.0f}"
            values = bars(page)
            for c, name in enumerate(one.concepts.names):
                assert values[name] == pytest.approx(heat[c, y, x].item(), abs=0.003)
            if heat[:, y, x].sort().values.diff()[-1] > 0.03:
                best = one.concepts.names[int(heat[:, y, x].argmax())]
                assert page.locator("#concepts .strongest .name span").text_content() == best
                assert page.locator("#tip .name").first.text_content() == best
    page.mouse.move(1, 1)
    assert page.locator("#tip").is_hidden()


@pytest.mark.parametrize("size", SIZES)
def test_a_click_takes_the_strongest_concept_until_another_or_escape(show, size):
    one = record()
    page = show(paint(*size), one)
    labels = strongest(one, size)
    assert page.get_by_role("button", name="Download mask").is_disabled()
    for c in range(3):
        y, x = inside(labels == c)
        page.mouse.click(*at(page, y, x, size))
        mask = download(page)
        assert mask.shape == size
        assert close(mask, labels == c)
        assert mask[y, x] == 255
        page.mouse.move(*at(page, 1, 1, size))
        assert close(download(page), labels == c)  # pointing elsewhere changes nothing
    page.keyboard.press("Escape")
    settled(page)
    assert page.get_by_role("button", name="Download mask").is_disabled()
    assert page.locator("[name=concept]:checked").count() == 0


@pytest.mark.parametrize("size", SIZES)
def test_a_threshold_is_that_of_the_same_name(show, size):
    one = record(steps=2)
    page = show(paint(*size), one)
    maps = read_maps(one)
    page.get_by_role("radio", name="sky").check(force=True)
    assert page.get_by_label("Soft edges").is_disabled()  # a competition has no level
    for threshold, amount in (
        *(("mean", 0.5), ("otsu", 0.5), ("fixed", 0.3), ("top area", 0.2), ("top area", 0.65)),
    ):
        page.get_by_label("Threshold").select_option(threshold)
        page.get_by_label("Soft edges").uncheck()
        if threshold in ("fixed", "top area"):
            page.get_by_label("Level").fill(str(amount))
        else:
            assert page.get_by_label("Level").is_hidden()
        assert close(download(page), mask_of(maps, "sky", size, threshold, amount))
        page.get_by_label("Soft edges").check()
        apart = np.abs(
            download(page) / 255 - mask_of(maps, "sky", size, threshold, amount, True).numpy()
        )
        assert apart.max() < 0.05 and apart.mean() < 0.005


def test_the_canvas_shows_the_mask_the_rest_is_dimmed(show):
    one, size = record(), SIZES[0]
    image = np.full((*size, 3), 200, np.uint8)
    page = show(image, one)
    page.get_by_role("radio", name="lake").check(force=True)
    settled(page)
    bright = shown(page, size).sum(-1) > 350
    outline = 0.1  # white within, dark without, so only its thickness could mislead
    assert close(bright * 255, strongest(one, size) == 2, outline)
    assert close(bright * 255, download(page), 0.02)


def test_by_keyboard_alone(show):
    one, size = record(), SIZES[1]
    page = show(paint(*size), one)
    heat = upsample(read_maps(one).maps, ODD, size)[0]
    labels = strongest(one, size)
    page.keyboard.press("Tab")  # the views
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "picture"
    for key, times in (("ArrowUp", 9), ("ArrowLeft", 9), ("ArrowDown", 3), ("ArrowRight", 1)):
        for _ in range(times):
            page.keyboard.press(key)
    # 9 rows, the last one half outside; the middle of the fourth and of the second column
    y, x = int(3.5 * 16 * size[0] / 136), int(1.5 * 16 * size[1] / 72)
    best = int(labels[y, x])
    name = one.concepts.names[best]
    said = page.get_by_role("status").text_content()
    match = re.match(rf"row 4, column 2: {name} ([\d.]+) percent", said)
    assert match and float(match[1]) == pytest.approx(heat[best, y, x].item() * 100, abs=1.5)
    page.keyboard.press("Enter")
    assert close(download(page), labels == best)
    page.get_by_text(f"{name}: {(labels == best).mean() * 100:.0f}% of the picture").wait_for()

    page.locator("#picture").focus()
    for key in ("ArrowDown", "ArrowRight"):
        page.keyboard.press(f"Shift+{key}")
        page.keyboard.press(key)
    assert page.get_by_role("status").text_content().startswith("row 9, column 5: ")
    page.keyboard.press("Tab")  # the list, where the arrows choose
    assert page.evaluate("document.activeElement.name") == "concept"
    page.keyboard.press("ArrowDown")
    after = (best + 1) % 3
    assert page.locator("[name=concept]:checked").input_value() == str(after)
    assert close(download(page), labels == after)
    page.keyboard.press("Escape")
    settled(page)
    assert page.locator("[name=concept]:checked").count() == 0
