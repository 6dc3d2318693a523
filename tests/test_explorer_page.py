"""The explorer as a person meets it: in a browser, from a file, with no network.

COMFYUI_BROWSER names a Chromium. What the page shows is held against maps, masks and render.
"""

import base64
import io
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conceptattention.conceptattention_core.concepts import parse
from conceptattention.conceptattention_core.maps import ConceptMaps, ReadSpec, read_maps
from conceptattention.conceptattention_core.masks import MaskSpec, draw_masks, upsample
from conceptattention.conceptattention_core.output import explorer
from conceptattention.conceptattention_core.output.render import concept_colour
from conceptattention.conceptattention_core.output.rendered import RenderedMaps
from conceptattention.conceptattention_core.recording import Grid, Recording, RecordSpec
from conceptattention.conceptattention_core.texts import name_files
from PIL import Image

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = os.environ.get("COMFYUI_BROWSER")
if not CHROMIUM:
    pytest.skip("no Chromium here; COMFYUI_BROWSER names one", allow_module_level=True)

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
NAMES = "balloon, sky: blue sky, lake"
SIXTY_FOUR = ",".join(f"thing number {i}" for i in range(64))
ODD = Grid.of_latent(17, 9)
"""9 x 5 patches of 16 pixels over 136 x 72 pixels: padded at the bottom and at the right."""
SIZES = [(136, 72), (100, 90), (300, 110)]
"""h w of pictures: the grid's own, and two that the grid was stretched to look at."""

Open = Callable[..., Any]


def record(names: str = NAMES, grid: Grid = ODD, steps: int = 1, blocks: int = 1, seed: int = 0):
    """A recording in which neighbouring patches, steps and blocks have much in common."""
    concepts = parse(names)
    smooth = torch.randn(1, steps * blocks * len(concepts), grid.y, grid.x, generator=_seeded(seed))
    smooth = torch.nn.functional.avg_pool2d(smooth, 3, 1, 1, count_include_pad=False) * 6
    scores = smooth.view(1, steps, blocks, len(concepts), grid.y, grid.x)
    spans = [tuple((i, i) for i in range(count)) for count in (steps, blocks)]
    return Recording(scores, RecordSpec(concepts), grid, *spans, "Tiny")


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def paint(h: int, w: int) -> np.ndarray:
    """A smooth picture, which JPEG keeps."""
    y, x = np.mgrid[0:h, 0:w] / (h, w)[0], np.mgrid[0:h, 0:w] / (h, w)[1]
    return np.stack([60 + 120 * y[0], 200 - 90 * x[1], 90 + 60 * y[0]], -1).astype(np.uint8)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as engine:
        running = engine.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield running
        running.close()


@pytest.fixture
def show(browser: Any, tmp_path: Path) -> Iterator[Open]:
    """Opens what the explorer writes. Whatever happens there: no complaint and no request."""
    complaints, requests, contexts = [], [], []

    def opened(image: np.ndarray, recording: Recording, title: str = "Concepts", **context: Any):
        file, maps = tmp_path / "explorer.html", read_maps(recording, ReadSpec(blocks="all"))
        file.write_text(explorer.make_page(image, maps, title=title), encoding="utf-8")
        contexts.append(browser.new_context(offline=True, **context))
        page = contexts[-1].new_page()
        page.set_default_timeout(60_000)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(file.as_uri())
        page.locator("#concepts li").nth(len(recording.concepts) - 1).wait_for(state="attached")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert complaints == []
    assert [url for url in requests if not re.match("(file|data|blob):", url)] == []


def at(page: Any, y: float, x: float, size: tuple[int, int]) -> tuple[float, float]:
    """Where on the screen a pixel of the picture is."""
    page.locator("#picture").scroll_into_view_if_needed()
    box = page.locator("#picture").bounding_box()
    h, w = size
    return box["x"] + (x + 0.5) / w * box["width"], box["y"] + (y + 0.5) / h * box["height"]


def bars(page: Any) -> dict[str, float]:
    """The values that the bars show, by name: their lengths, which have no rounding."""
    rows = page.locator("#concepts label")
    return dict(
        rows.evaluate_all(
            """rows => rows.map(row => [
                row.querySelector(".name span").textContent,
                Number(row.style.getPropertyValue("--value")),
            ])"""
        )
    )


def settled(page: Any) -> None:
    """After what was asked for is painted."""
    page.evaluate("() => new Promise(done => setTimeout(() => requestAnimationFrame(done), 50))")


def download(page: Any) -> np.ndarray:
    """The mask `h w` that the button gives."""
    settled(page)
    with page.expect_download() as caught:
        page.get_by_role("button", name="Download mask").click()
    image = Image.open(io.BytesIO(Path(caught.value.path()).read_bytes()))
    assert image.mode == "L"
    return np.asarray(image)


def view(page: Any, name: str) -> None:
    page.get_by_role("radio", name=name).check(force=True)
    settled(page)


def shown(page: Any, size: tuple[int, int]) -> np.ndarray:
    """What the canvas shows at the middle of each pixel of the picture, `h w rgb`."""
    url = page.evaluate("canvas.toDataURL()")
    file = io.BytesIO(base64.b64decode(url.removeprefix("data:image/png;base64,")))
    pixels = np.asarray(Image.open(file).convert("RGB")).astype(int)
    (h, w), (high, wide) = size, pixels.shape[:2]
    rows, columns = (
        ((np.arange(n) + 0.5) * of / n).astype(int) for n, of in ((h, high), (w, wide))
    )
    return pixels[rows][:, columns]


def close(mask: np.ndarray, expected: torch.Tensor | np.ndarray, share: float = 0.005) -> bool:
    """Whether hard masks are the same but for pixels that lie at the level."""
    assert set(np.unique(mask)) <= {0, 255}
    return bool(((mask > 127) != (np.asarray(expected) > 0.5)).mean() <= share)


def strongest(recording: Recording, size: tuple[int, int]) -> np.ndarray:
    """The position of the strongest concept at each pixel, `h w`."""
    return (
        upsample(read_maps(recording, ReadSpec(blocks="all")).maps, recording.grid, size)[0]
        .argmax(0)
        .numpy()
    )


def mask_of(
    maps: ConceptMaps, name: str, size: tuple[int, int], threshold: str, amount=0.5, soft=False
) -> torch.Tensor:
    """The mask `h w` of one concept on the bare maps."""
    spec = MaskSpec(edges=False, threshold=threshold, amount=amount, soft=soft, keep_absent=True)
    return draw_masks(maps, [name], spec, size=size)[0, 0]


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


def inside(region: np.ndarray) -> tuple[int, int]:
    """The pixel of a region that is farthest from its border."""
    import cv2

    depth = cv2.distanceTransform(np.pad(region.astype(np.uint8), 1), cv2.DIST_L2, 5)[1:-1, 1:-1]
    y, x = np.unravel_index(depth.argmax(), depth.shape)
    return int(y), int(x)


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
def test_a_map_of_one_value_has_nothing_above_it_and_the_first_of_equals_wins(show, size):
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
