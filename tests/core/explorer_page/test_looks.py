"""The explorer's page: any name, width, colour scheme and way of pointing."""

import numpy as np
import pytest
from conceptattention.conceptattention_core.texts import name_files

from .common import SIZES, at, close, download, inside, paint, record, settled, strongest


def test_names_in_any_script_and_of_any_intent(show):
    names = "سماء زرقاء, 🎈 balloon, </script><b>bold, שמיים: blue sky, 日本の空"
    one, size = record(names), SIZES[0]
    page = show(paint(*size), one, title="<i>مشهد</i> 🎈")
    wanted = list(one.concepts.names)
    assert page.locator("#concepts .name > span").all_text_contents() == wanted
    assert page.title() == page.get_by_role("heading", level=1).text_content() == "<i>مشهد</i> 🎈"
    assert page.locator("b, h1 i").count() == 0
    directions = page.locator("#concepts .name").evaluate_all(
        "names => names.map(name => getComputedStyle(name).direction)"
    )
    assert directions == ["rtl", "ltr", "ltr", "rtl", "ltr"]
    labels = strongest(one, size)
    c = int(np.bincount(labels.ravel()).argmax())
    page.mouse.click(*at(page, *inside(labels == c), size))
    settled(page)
    page.get_by_role("status").get_by_text(wanted[c]).wait_for()
    for c, file in enumerate(name_files(wanted)):
        page.locator("#concepts li").nth(c).click()
        settled(page)
        with page.expect_download() as caught:
            page.get_by_role("button", name="Download mask").click()
        assert caught.value.suggested_filename == f"{file}.png"


def test_a_tap_shows_and_takes(show):
    one, size = record(), SIZES[0]
    page = show(paint(*size), one, has_touch=True, viewport={"width": 360, "height": 740})
    labels = strongest(one, size)
    y, x = inside(labels == 1)
    page.touchscreen.tap(*at(page, y, x, size))
    assert page.locator("#concepts .strongest .name span").text_content() == "sky"
    assert close(download(page), labels == 1)
    page.get_by_role("button", name="Clear").tap()
    settled(page)
    assert page.locator("[name=concept]:checked").count() == 0


@pytest.mark.parametrize("width", [360, 700, 900, 1600])
@pytest.mark.parametrize("size", [(136, 72), (60, 900)])
def test_it_fits_the_width_and_the_picture_stays_in_sight(show, width, size):
    page = show(paint(*size), record(), viewport={"width": width, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    box = page.locator("#picture").bounding_box()
    assert box["width"] / box["height"] == pytest.approx(size[1] / size[0], rel=0.02)
    page.get_by_role("slider", name="last block").scroll_into_view_if_needed()
    box = page.locator("#picture").bounding_box()
    assert box["y"] >= 0 and box["y"] + box["height"] <= 740


CONTRASTS = """() => {
    const again = { willReadFrequently: true };
    const pen = document.createElement("canvas").getContext("2d", again);
    const light = colour => {
        pen.fillStyle = colour;
        pen.fillRect(0, 0, 1, 1);
        const [r, g, b] = [...pen.getImageData(0, 0, 1, 1).data].map(value =>
            value / 255 <= 0.04045 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const ground = element => {
        for (let at = element; at; at = at.parentElement) {
            const colour = getComputedStyle(at).backgroundColor;
            if (colour !== "rgba(0, 0, 0, 0)") return light(colour);
        }
    };
    const written = [...document.querySelectorAll("body *")].filter(element =>
        element.checkVisibility() && !element.closest("script, select, canvas") &&
        [...element.childNodes].some(node => node.nodeType === 3 && node.data.trim()));
    return written.map(element => {
        const [a, b] = [light(getComputedStyle(element).color), ground(element)];
        const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        return [element.textContent.trim().slice(0, 30), ratio];
    });
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_stands_out(show, scheme):
    one = record("sun, sky: blue sky")
    page = show(paint(*SIZES[0]), one, color_scheme=scheme, reduced_motion="reduce")
    page.get_by_role("radio", name="sun").check(force=True)
    for threshold in ("competition", "fixed"):
        page.get_by_label("Threshold").select_option(threshold)
        settled(page)
        contrasts = page.evaluate(CONTRASTS)
        assert len(contrasts) > 15
        assert [pair for pair in contrasts if pair[1] < 4.5] == []
    moving = page.locator("#concepts .track i").first.evaluate(
        "bar => getComputedStyle(bar).transitionDuration"
    )
    assert moving == "0s"


def test_everything_has_a_name_and_shows_its_focus(show):
    page = show(paint(*SIZES[0]), record(steps=2, blocks=2))
    page.get_by_role("radio", name="lake").check(force=True)
    page.get_by_label("Threshold").select_option("fixed")
    settled(page)
    picture = page.get_by_role("application")
    assert picture.get_attribute("aria-label") == "Picture, 9 rows and 5 columns of patches"
    assert (
        "arrow keys" in page.locator(f"#{picture.get_attribute('aria-describedby')}").inner_text()
    )
    assert page.get_by_role("status").get_attribute("aria-live") == "polite"
    stops = []
    for _ in range(20):
        page.keyboard.press("Tab")
        stops.append(
            page.evaluate(
                """() => {
                    const at = document.activeElement;
                    const outlined = [at, at.parentElement].some(element =>
                        getComputedStyle(element).outlineStyle !== "none") || at.closest(".span");
                    const name = at.ariaLabel || at.labels?.[0]?.textContent || at.textContent;
                    return at === document.body ? null : [name.trim(), Boolean(outlined)];
                }"""
            )
        )
    names = {stop[0] for stop in stops if stop}
    assert all(name and outlined for name, outlined in filter(None, stops))
    assert {"Picture", "Threshold", "Level", "Soft edges", "Download mask", "Clear"} <= names
    assert {f"{end} {kind}" for end in ("first", "last") for kind in ("step", "block")} <= names
    assert any(name.startswith("lake") for name in names)
    assert picture.get_attribute("aria-label") in names
