"""Pictures to look at: their sizes, their colours, and names in any script."""

import numpy as np
import pytest
import torch
from conceptattention.conceptattention_core.concepts import parse
from conceptattention.conceptattention_core.maps import ConceptMaps
from conceptattention.conceptattention_core.masks import sharpen, upsample
from conceptattention.conceptattention_core.output import fonts, render
from conceptattention.conceptattention_core.output.render import draw_heat_map
from conceptattention.conceptattention_core.output.rendered import RenderedMaps
from conceptattention.conceptattention_core.pixels import to_bytes, to_floats
from conceptattention.conceptattention_core.recording import Grid
from PIL import ImageDraw, ImageFont

from .examples import ODD, concept_maps, random, soft_maps, territories
from .render_common import PICTURE, SIXTY_FOUR, label_map, legend

UNICODE = "日本の空, небо, سماء, 하늘, Fußgänger, 🎈 balloon, a: (x:1.2), " + "very " * 40 + "long"


def overlay(image: np.ndarray, maps: ConceptMaps, b: int, strength: float = 0.7) -> np.ndarray:
    return RenderedMaps(maps.of_image(b), image).overlay(strength)


def sheet(image: np.ndarray, maps: ConceptMaps, b: int) -> np.ndarray:
    return RenderedMaps(maps.of_image(b), image).sheet()


def heat_maps(maps: ConceptMaps, b: int, scale: tuple | None = None) -> list[np.ndarray]:
    rendered = RenderedMaps(maps.of_image(b))
    return [rendered.heat_map(c, scale) for c in maps.concepts.shown]


def test_every_colour_is_different():
    colours = [render.concept_colour(i) for i in range(65)]
    assert len(set(colours)) == 65
    assert all(0 <= channel <= 255 for colour in colours for channel in colour)


def test_an_overlay_keeps_the_picture_on_top_and_adds_a_legend_below():
    out = overlay(PICTURE, soft_maps(), 0)
    strip = legend(soft_maps(), 0, 56)
    assert out.shape == (104 + len(strip), 56, 3)
    assert out.dtype == np.uint8
    assert (out[104:] == strip).all()


def test_each_region_takes_the_colour_of_its_concept():
    grid = Grid.of_latent(8, 8)
    maps = territories([[0, 0, 1, 1]] * 4, "sun, sky", grid)
    white = np.full((64, 64, 3), 255, np.uint8)
    out = overlay(white, maps, 0, strength=1.0)
    assert tuple(out[10, 10]) == render.concept_colour(0)
    assert tuple(out[10, 50]) == render.concept_colour(1)
    assert (out[:64, 32] == 255).all()  # a white line between them


def test_the_stronger_the_more_of_the_picture_is_hidden():
    grey = np.repeat(PICTURE[..., :1], 3, axis=-1)
    untouched = overlay(grey, soft_maps(), 0, strength=0.0)[:104]
    inner = (untouched != 255).any(-1)  # without the white lines between regions
    assert (untouched[inner] == grey[inner]).all()
    weak, strong = (overlay(grey, soft_maps(), 0, s)[:104] for s in (0.3, 0.9))
    change = [np.abs(view[inner].astype(int) - grey[inner]).mean() for view in (weak, strong)]
    assert 0 < change[0] < change[1]


def test_where_the_hidden_background_wins_the_picture_keeps_its_shade():
    grid = Grid.of_latent(8, 8)
    maps = territories([[0, 0, 1, 1]] * 4, "sun", grid)
    grey = np.full((64, 64, 3), 90, np.uint8)
    out = overlay(grey, maps, 0)
    assert tuple(out[10, 50]) == (90, 90, 90)
    assert tuple(out[10, 10]) != (90, 90, 90)


@pytest.mark.parametrize("name", ["sun", "Fußgänger", "небо", "שמיים", "日本の空", "🎈"])
def test_whatever_a_legend_writes_its_font_can_write(monkeypatch, name):
    written = []

    def note(pen, at, text, fill, font, **kwargs):
        written.append((text, font))

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", note)
    here_and_absent = territories([[0, 0], [0, 0]], f"{name}, not {name}", Grid.of_latent(4, 4))
    legend(here_and_absent, 0, 256)
    assert "".join(text for text, _ in written) == f"{name} 100%not {name} -"
    if all(lacks(fonts._open(font, 20), name) for font in fonts._found()):
        pytest.skip("no font for this script on this machine")
    assert not any(lacks(font, text) for text, font in written)


SCRIPTS = {
    "latin": "Fußgänger", "cyrillic": "небо", "hebrew": "שמיים", "arabic": "سماء زرقاء",
    "chinese": "蓝天", "japanese": "日本の空", "korean": "하늘", "hindi": "आसमान", "emoji": "🎈",
    "symbol": "☀\ufe0f sun",
}  # fmt: skip


def lacks(font, text: str) -> list[str]:
    """The characters that the font shows as the box of a character that nobody has."""
    box = bytes(font.getmask("\U0010ffff"))
    return [one for one in text if one not in " \ufe0f" and bytes(font.getmask(one)) == box]


@pytest.mark.parametrize("text", SCRIPTS.values(), ids=SCRIPTS)
def test_a_label_gets_a_font_that_has_its_characters(text):
    system = [ImageFont.truetype(name, 20) for name in fonts._found() if name]
    if not any(not lacks(font, text) for font in system):
        pytest.skip("no font for this script on this machine")
    assert not lacks(fonts.find_font(text, 20), text)


def test_a_font_is_chosen_for_each_label_by_what_it_has_not_by_its_place(monkeypatch):
    class Face:
        def __init__(self, letters: str):
            self.letters = letters

        def getmask(self, text: str) -> bytes:
            return text.encode() if text in self.letters else b"box"

    faces = {"": Face("sun"), "first": Face("sunнебо"), "second": Face("天🎈"), "third": Face("天")}
    monkeypatch.setattr(fonts, "_found", lambda: tuple(faces))
    monkeypatch.setattr(fonts, "_open", lambda name, size: faces[name])
    fonts._has.cache_clear()
    expected = {"sun": "", "небо": "first", "天": "second", "🎈\ufe0f": "second", "天 sun": ""}
    found = {text: fonts.find_font(text, 20) for text in expected}
    fonts._has.cache_clear()
    assert found == {text: faces[name] for text, name in expected.items()}


def test_a_label_of_two_scripts_is_written_in_two_fonts_side_by_side(monkeypatch):
    script = next(
        (name for name in fonts._found() if name and not lacks(fonts._open(name, 20), "日本")),
        None,
    )
    if script is None:
        pytest.skip("no font for this script on this machine")
    monkeypatch.setattr(fonts, "_has", lambda name, one: (one in "日本の空") == (name == script))
    monkeypatch.setattr(fonts, "_found", lambda: ("", script))
    fonts._parts.cache_clear()
    try:
        parts = fonts._parts("日本の空 45%", 20)
        assert [text for text, _ in parts] == ["日本の空 ", "45%"]
        one, other = (fonts._open(name, 20) for name in (script, ""))
        expected = one.getlength("日本の空 ") + other.getlength("45%")
        assert fonts.text_width("日本の空 45%", 20) == pytest.approx(expected)
    finally:
        fonts._parts.cache_clear()


def test_a_font_that_this_system_lacks_does_no_harm(monkeypatch):
    monkeypatch.setattr(fonts, "FONTS", ("no such font.ttf",))
    fonts._found.cache_clear()
    assert fonts._found() == ("",)
    fonts._found.cache_clear()


@pytest.mark.parametrize("width", [17, 56, 256, 1024])
@pytest.mark.parametrize("names", ["sun", UNICODE, SIXTY_FOUR])
def test_a_legend_is_as_wide_as_its_picture_whatever_the_names(names, width):
    maps = soft_maps(names=names)
    strip = legend(maps, 0, width)
    assert strip.shape[1:] == (width, 3)
    assert (strip != render.PAPER).any()


def test_a_legend_shows_every_concept_but_the_hidden_one_in_its_colour():
    maps = soft_maps(names=SIXTY_FOUR)
    strip = legend(maps, 0, 256)
    for c in maps.concepts.shown:
        assert (strip == render.concept_colour(c)).all(-1).any()
    alone = legend(soft_maps(names="sun"), 0, 256)
    assert not (alone == render.concept_colour(1)).all(-1).any()


def test_a_legend_tells_absent_from_present():
    maps = territories([[0, 0], [0, 0]], "sun, moon", Grid.of_latent(4, 4))
    here = territories([[0, 0], [1, 1]], "sun, moon", Grid.of_latent(4, 4))
    assert not np.array_equal(legend(maps, 0, 200), legend(here, 0, 200))


def test_a_heat_map_runs_through_plasma_from_dark_to_bright():
    ramp = draw_heat_map(torch.linspace(0.2, 0.6, 97)[None], 0.2, 0.6)
    light = ramp.astype(float).sum(-1)[0]
    assert light[0] < light[48] < light[-1]
    assert tuple(ramp[0, 0]) == (13, 8, 135)  # plasma's first colour, as red, green, blue
    outside = draw_heat_map(torch.tensor([[-3.0, 7.0]]), 0.2, 0.6)
    assert (outside[0, 0] == ramp[0, 0]).all() and (outside[0, 1] == ramp[0, -1]).all()


def test_heat_maps_share_one_scale():
    maps = concept_maps(torch.tensor([0.9, 0.1, 0.5]).view(1, 3, 1, 1).expand(1, 3, 7, 4), grid=ODD)
    heats = heat_maps(maps, 0)
    assert [heat.shape for heat in heats] == [(104, 56, 3)] * 3
    brightest, darkest, middle = (tuple(heat[50, 20]) for heat in heats)
    assert darkest == (13, 8, 135)
    assert brightest == tuple(draw_heat_map(torch.ones(1, 1), 0, 1)[0, 0])
    assert middle not in (brightest, darkest)


def test_heat_maps_take_the_scale_of_a_whole_video():
    dim = concept_maps(torch.full((1, 3, 7, 4), 0.2), grid=ODD)
    heats = heat_maps(dim, 0, scale=(0.0, 1.0))
    assert all((heat == draw_heat_map(torch.tensor([[0.2]]), 0, 1)[0, 0]).all() for heat in heats)


def test_heat_maps_leave_the_hidden_background_out():
    assert len(heat_maps(soft_maps(names="sun"), 0)) == 1


def test_heat_maps_of_one_value_do_not_divide_by_zero():
    maps = concept_maps(torch.full((1, 3, 7, 4), 1 / 3), grid=ODD)
    assert heat_maps(maps, 0)[0].shape == (104, 56, 3)


@pytest.mark.parametrize("size", [None, (31, 77), (208, 112)])
def test_a_label_map_names_the_strongest_concept_of_each_pixel(size):
    maps = soft_maps(names="sun")
    image = size and np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
    labels = label_map(maps, 1, image)
    pixels = (
        upsample(maps.maps, ODD)
        if image is None
        else sharpen(maps, to_floats(image).expand(2, -1, -1, -1))
    )
    background, sun = (pixels[1, c] for c in (1, 0))
    assert labels.shape == (size or (104, 56))
    assert np.array_equal(labels == 1, (background > sun).numpy())


@pytest.mark.parametrize("names", ["sun", "sun, sky, moon", UNICODE])
def test_a_sheet_holds_the_picture_and_a_tile_for_each_shown_concept(names):
    maps = soft_maps(names=names)
    canvas = sheet(PICTURE, maps, 0)
    tiles = [PICTURE, *heat_maps(maps, 0)]
    windows = np.lib.stride_tricks.sliding_window_view(canvas, PICTURE.shape)[:, :, 0]
    for tile in tiles:
        corner = (windows[:, :, 0, 0] == tile[0, 0]).all(-1)
        assert any((windows[y, x] == tile).all() for y, x in np.argwhere(corner))


def test_a_sheet_of_sixty_four_concepts_is_a_picture():
    assert sheet(PICTURE, soft_maps(names=SIXTY_FOUR), 0).shape[2] == 3


def test_pictures_of_a_batch_are_drawn_apart():
    maps = soft_maps(b=2)
    assert not np.array_equal(overlay(PICTURE, maps, 0), overlay(PICTURE, maps, 1))


def test_bytes_and_tensors_are_the_same_picture():
    assert np.array_equal(to_bytes(to_floats(PICTURE)), PICTURE)
    transparent = torch.cat([to_floats(PICTURE), torch.zeros(104, 56, 1)], dim=-1)
    assert np.array_equal(to_bytes(transparent), PICTURE)
    assert to_bytes(random(3, 5, 3) * 9).shape == (3, 5, 3)


def test_nothing_given_is_changed():
    picture, maps = PICTURE.copy(), soft_maps()
    before = maps.maps.clone()
    overlay(picture, maps, 0)
    sheet(picture, maps, 0)
    assert np.array_equal(picture, PICTURE)
    assert torch.equal(maps.maps, before)


def test_as_many_labels_as_concepts_fit():
    assert label_map(soft_maps(names=SIXTY_FOUR), 0).max() < len(parse(SIXTY_FOUR))
