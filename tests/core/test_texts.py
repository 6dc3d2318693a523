"""Whatever text comes in, names, files and messages can be encoded, drawn and logged."""

import inspect
import json
import logging
import pickle
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from conceptattention.conceptattention_core import ConceptAttentionError
from conceptattention.conceptattention_core.attention import Method
from conceptattention.conceptattention_core.concepts import (
    Concept,
    ConceptSet,
    key_of,
    parse,
    split_names,
)
from conceptattention.conceptattention_core.locating import LocateSpec, parse_noise
from conceptattention.conceptattention_core.maps import (
    ReadSpec,
    choose_entries,
    choose_scores,
    describe_presence,
    measure_presence,
    read_maps,
)
from conceptattention.conceptattention_core.masks import MaskSpec
from conceptattention.conceptattention_core.output import export
from conceptattention.conceptattention_core.output.explorer import make_page
from conceptattention.conceptattention_core.output.fonts import draw_text, find_font, text_width
from conceptattention.conceptattention_core.output.layers import Layer, save_psd
from conceptattention.conceptattention_core.output.render import draw_blocks_by_steps, draw_legend
from conceptattention.conceptattention_core.output.rendered import RenderedMaps
from conceptattention.conceptattention_core.prompt_syntax import read_entries
from conceptattention.conceptattention_core.ranges import check_range, select
from conceptattention.conceptattention_core.recording import RecordSpec
from conceptattention.conceptattention_core.texts import clean_text, escape_text, name_files
from conceptattention.conceptattention_core.thresholds import Heat, find_level
from conceptattention.conceptattention_core.tokens import ConceptTokens, pack_tokens
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from .examples import concept_maps, draw, random, recording, soft_maps

TEXTS = (
    st.text(
        st.characters()
        | st.characters(categories=["Cs", "Cc", "Cf", "Zl", "Zp"])
        | st.sampled_from("0123456789-:.,\ufeff\ufffe\uffff")
    )
    | st.sampled_from(["sky \ud83d", "\ud83c\udf88", "\udc80.png", "a\x00b", "\x1b[31m"])
)  # fmt: skip
MAPS = soft_maps(1)
SMALL = recording(random(1, 2, 2, 3, 2, 2))
SMALL_MAPS = read_maps(SMALL)
PICTURE = np.zeros((32, 32, 3), np.uint8)
PEN = ImageDraw.Draw(Image.new("RGB", (32, 32)))

# --- cleaning -------------------------------------------------------------------------------------


@given(TEXTS)
def test_clean_text_can_stand_anywhere_and_is_cleaned_once(text):
    cleaned = clean_text(text)
    assert clean_text(cleaned) == cleaned
    assert json.loads(json.dumps(cleaned).encode()) == cleaned
    assert ET.fromstring(ET.tostring(_element(cleaned), "utf-8")).get("name") == cleaned
    assert cleaned.splitlines() == cleaned.removesuffix("\n").split("\n") if cleaned else True


def _element(name: str) -> ET.Element:
    element = ET.Element("layer")
    element.set("name", name)
    return element


@given(
    st.text(
        st.characters(
            exclude_categories=["Cs", "Cc", "Zl", "Zp"], exclude_characters="\ufeff\ufffe\uffff"
        )
    )
)
def test_what_is_clean_stays_as_it_is(text):
    assert clean_text(text) == escape_text(text) == text


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("sky \ud83d", "sky "),
        ("\ud83c\udf88 balloon", "🎈 balloon"),
        ("\udf88\ud83c", ""),
        ("a\x00b\x1b[31m", "ab[31m"),
        ("sun\r\nsky\rlake\x0bsea\u2028air\x85", "sun\nsky\nlake\nsea\nair\n"),
        ("\ufeffsun\tred", "sun red"),
        ("👩\u200d🚀 \u0645\u06cc\u200c\u062e", "👩\u200d🚀 \u0645\u06cc\u200c\u062e"),
    ],
    ids=ascii,
)
def test_what_is_cleaned_away(text, cleaned):
    assert clean_text(text) == cleaned


# --- messages -------------------------------------------------------------------------------------


@given(TEXTS)
@example("sky \ud83d")
def test_a_message_can_be_encoded_whatever_it_quotes(text):
    for error in (ConceptAttentionError(text), ConceptAttentionError(ValueError(text))):
        str(error).encode("utf-8")
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", str(error))


def test_a_message_shows_what_cannot_be_written():
    assert str(ConceptAttentionError("no 'sky \ud83d\x00'")) == r"no 'sky \ud83d\x00'"


def test_a_message_with_half_an_emoji_is_logged(tmp_path):
    handler = logging.FileHandler(tmp_path / "log", encoding="utf-8")
    handler.handleError = _raise
    try:
        raise ConceptAttentionError("sky \ud83d")
    except ConceptAttentionError as error:
        handler.handle(logging.LogRecord("x", 40, "x", 1, "%s", (error,), None))
    handler.close()
    assert r"sky \ud83d" in (tmp_path / "log").read_text("utf-8")


def _raise(record: logging.LogRecord) -> None:
    raise


def test_the_type_of_an_error_names_no_folder():
    # as ComfyUI makes its toast's title
    shown = f"{ConceptAttentionError.__module__}.{ConceptAttentionError.__qualname__}"
    assert shown == "conceptattention.ConceptAttentionError"


def test_an_error_comes_back_from_another_process_as_it_was():
    error = ConceptAttentionError("no 'sky'")
    error.node = "7"  # pyright: ignore[reportAttributeAccessIssue]
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is ConceptAttentionError
    assert (str(back), back.args, back.node) == ("no 'sky'", ("no 'sky'",), "7")


def test_an_error_is_pickled_whatever_the_pack_is_called():
    """ComfyUI calls the pack by its folder's path; the command line by no pack's name at all."""
    root = Path(__file__).resolve().parents[2]
    told = subprocess.run(
        [
            sys.executable,
            "-c",
            "import pickle, sys; from conceptattention_core import ConceptAttentionError as E\n"
            "try: raise pickle.loads(pickle.dumps(E('no sky')))\n"
            "except E as error: print(error)\n"
            "assert 'conceptattention' not in sys.modules",
        ],
        cwd=root,
        capture_output=True,
        text=True,
    )
    assert (told.stdout, told.stderr) == ("no sky\n", "")


def test_an_error_made_from_it_keeps_its_own_type():
    assert type(pickle.loads(pickle.dumps(NarrowerError("no")))) is NarrowerError


class NarrowerError(ConceptAttentionError):
    pass


# --- every door -----------------------------------------------------------------------------------

DOORS = {
    "attention.Method": lambda text: (Method(attend=text), Method(space=text)),
    "concepts.parse": parse,
    "concepts.split_names": split_names,
    "concepts.key_of": lambda text: key_of(text).encode("utf-8"),
    "concepts.Concept": lambda text: pack_tokens(
        RecordSpec(ConceptSet((Concept(text, text),))), [ConceptTokens.of(torch.zeros(0, 3))]
    ),
    "concepts.ConceptSet.index_of": MAPS.concepts.index_of,
    "output.explorer.make_page": lambda text: make_page(PICTURE, SMALL_MAPS, 0, title=text).encode(
        "utf-8"
    ),
    "output.layers.Layer": lambda text: Layer(text, torch.ones(2, 2, 4)),  # see save_psd's own test
    "locating.LocateSpec": lambda text: LocateSpec(text).caption.encode("utf-8"),
    "locating.parse_noise": parse_noise,
    "maps.ConceptMaps.of": MAPS.of,
    "maps.choose_scores": lambda text: choose_scores(SMALL, steps=text),
    "maps.choose_entries": lambda text: choose_entries(SMALL, "all", text),
    "maps.ReadSpec steps": lambda text: ReadSpec(steps=text),
    "maps.ReadSpec blocks": lambda text: ReadSpec(blocks=text),
    "maps.ReadSpec order": lambda text: ReadSpec(order=text),
    "maps.ReadSpec scale": lambda text: ReadSpec(scale=text),
    "maps.ReadSpec space": lambda text: ReadSpec(space=text),
    "masks.draw_masks": lambda text: draw(MAPS, [text]),
    "masks.MaskSpec": lambda text: draw(MAPS, threshold=text),
    "prompt_syntax.read_entries": read_entries,
    "ranges.check_range": lambda text: check_range(text, "steps"),
    "ranges.select": lambda text: select(text, 7, "steps"),
    "ranges.select first": lambda text: select(f"first {text}", 7, "steps"),
    "recording.RecordSpec": lambda text: RecordSpec(MAPS.concepts, tokens=text),
    "output.render.draw_blocks_by_steps": lambda text: draw_blocks_by_steps(SMALL_MAPS, text, 0),
    "output.fonts.draw_text": lambda text: draw_text(PEN, (1, 9), text, 13, "lm"),
    "output.fonts.text_width": lambda text: text_width(text, 13),
    "output.fonts.find_font": lambda text: find_font(text, 13),
    "texts.clean_text": lambda text: clean_text(text).encode("utf-8"),
    "texts.escape_text": lambda text: escape_text(text).encode("utf-8"),
    "texts.name_files": lambda text: [name.encode("utf-8") for name in name_files([text, text])],
    "thresholds.find_level": lambda text: find_level(Heat.alone(torch.rand(3, 3)), text, 0.5),
}
PROGRAMS_OWN = {"maps.Presence", "recording.Recorder", "recording.Recording"}
"""Whose text is copied from elsewhere in the program."""


@pytest.mark.parametrize("door", DOORS)
@settings(max_examples=20)
@given(text=TEXTS)
@example(text="9" * 5000)
@example(text="0-" + "9" * 5000)
@example(text="sky \ud83d")
@example(text="\x00")
def test_every_function_takes_any_text_or_says_one_sentence(door, text):
    try:
        DOORS[door](text)
    except ConceptAttentionError as error:
        str(error).encode("utf-8")


def test_no_function_that_takes_text_is_forgotten():
    tried = {door.split()[0] for door in DOORS}
    found = {
        name
        for module in {re.match(r"(output\.)?\w+", door)[0] for door in DOORS}
        for name in _doors(module)
    }
    assert found - PROGRAMS_OWN == tried


def _doors(module: str) -> Iterator[str]:
    """What in a module of the core is public and takes text."""
    own = import_module(f"{parse.__module__.rpartition('.')[0]}.{module}")
    for name, thing in vars(own).items():
        if name.startswith("_") or getattr(thing, "__module__", None) != own.__name__:
            continue
        methods = vars(thing).items() if inspect.isclass(thing) else ()
        called = {f"{name}.{key}": one for key, one in methods if inspect.isfunction(one)}
        for label, one in {name: thing, **called}.items():
            if callable(one) and "._" not in label and not is_error(one):
                kinds = [p.annotation for p in inspect.signature(one).parameters.values()]
                if any(kind in (str, list[str], list[str] | None) for kind in kinds):
                    yield f"{module}.{label}"


def is_error(thing: object) -> bool:
    return inspect.isclass(thing) and issubclass(thing, BaseException)


@given(TEXTS)
def test_names_that_a_program_gives_are_drawn_and_described(text):
    concepts = ConceptSet((Concept(text, text), Concept("sun", "sun"), Concept("sky", "sky")))
    maps = soft_maps(1)
    maps = concept_maps(maps.maps, concepts, maps.grid)
    describe_presence(maps).encode("utf-8")
    assert draw_legend(concepts, measure_presence(maps)[0], 320).shape[1:] == (320, 3)
    RenderedMaps(maps).sheet()
    for name in name_files(list(concepts.names)):
        name.encode("utf-8")


def test_files_of_a_name_with_half_an_emoji(tmp_path):
    found = parse("sky \ud83d, \ud83c\udf88 balloon\x00, sun")
    assert found.names == ("sky", "🎈 balloon", "sun")
    maps = soft_maps(1)
    maps = concept_maps(maps.maps, found, maps.grid)
    picture = np.zeros((maps.grid.h, maps.grid.w, 3), np.uint8)
    report = export.save_image_files(tmp_path, picture, maps, MaskSpec())
    assert [one["name"] for one in report["concepts"]] == list(found.names)
    assert json.loads((tmp_path / "labels.json").read_text("utf-8"))["0"]["name"] == "sky"


@given(TEXTS)
@example("sky \ud83d")
@example("🎈" * 300)
def test_layered_files_take_any_name(tmp_path_factory, text):
    psd_tools = pytest.importorskip("psd_tools")
    file = tmp_path_factory.mktemp("layers") / "x.psd"
    save_psd(file, [Layer(text, torch.ones(2, 2, 4))], (2, 2))
    (made,) = psd_tools.PSDImage.open(file)
    assert clean_text(text).startswith(made.name.rstrip("\x00")[:60])
