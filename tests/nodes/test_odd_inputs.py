"""What other packs and people give the nodes: masks of any shape, hostile texts, numbers."""

import logging
import math
from pathlib import Path
from typing import Any

import folder_paths
import pytest
import torch
from comfy_api.latest import io
from conceptattention.conceptattention_core import ConceptAttentionError
from conceptattention.conceptattention_core.hosts.comfyui.patch import spec_of
from conceptattention.conceptattention_core.hosts.comfyui.upstream import Node, Upstream
from conceptattention.nodes import NODES
from conceptattention.nodes.layers import CutOut, Layers, SaveLayers, SaveMasks
from conceptattention.nodes.locate import Locate
from conceptattention.nodes.masks import Split
from conceptattention.nodes.record import Maps, Record, specs_of
from conceptattention.nodes.regions import Boxes, Regions

from .common import TINY_FLUX, Clip, defaults, hot_maps, image, sampled

SCHEMAS = {node: node.GET_SCHEMA() for node in NODES}


def inputs_of(kind: str) -> list:
    return [
        pytest.param(node, one.id, id=f"{schema.display_name}: {one.id}")
        for node, schema in SCHEMAS.items()
        for one in schema.inputs
        if one.io_type == kind
    ]


@pytest.fixture(autouse=True)
def output(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))
    return tmp_path


# --- Masks ----------------------------------------------------------------------------------------


def box(batch: int = 1) -> torch.Tensor:
    mask = torch.zeros(batch, 40, 56)
    mask[:, 10:20, 14:28] = 1.0
    return mask


SHAPES = {
    "h w": lambda: box()[0],
    "b h w": box,
    "b 1 h w": lambda: box()[:, None],
    "b h w 1": lambda: box()[..., None],
    "1 b 1 h w": lambda: box()[None, :, None],
    "bool": lambda: box().bool(),
    "half": lambda: box().half(),
    "bfloat16": lambda: box().bfloat16(),
    "double": lambda: box().double(),
    "uint8 of 0 and 1": lambda: box().to(torch.uint8),
    "uint8 of 0 to 255": lambda: (box() * 255).to(torch.uint8),
    "int64": lambda: box().long(),
    "0 to 255": lambda: box() * 255,
    "below 0": lambda: box() * 2 - 1,
    "not contiguous": lambda: box().mT.contiguous().mT,
}
USES = {
    CutOut: lambda mask: {"image": [image(1)], "mask": [mask], "crop": [True], "margin": [8]},
    Layers: lambda mask: {"image": [image(1)], "masks": [mask], "names": ["sun"]},
    SaveMasks: lambda mask: {"mask": [mask], "name": ["sun"], "folder": ["masks"]},
    Boxes: lambda mask: {"mask": mask, "name": "sun"},
    Regions: lambda mask: {
        "clip": [Clip()], "conditioning": [TINY_FLUX.prompt(1)], "masks": [mask],
        "names": ["sun"], "prompts": ["sun: gold"], "strength": [1.0], "only_mentioned": [False],
    },
    Split: lambda mask: {"mask": mask},
}  # fmt: skip


def use(node: type, mask: object) -> tuple:
    given = {} if SCHEMAS[node].is_input_list else defaults(node)
    with torch.inference_mode():
        return node.execute(**{**given, **USES[node](mask)}).result


def same(one: Any, other: Any) -> bool:
    """Whether two outputs of a node hold the same values."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other) and one.dtype == other.dtype
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return bool((one == other).all()) if hasattr(one, "all") else one == other


def test_every_node_with_a_mask_is_tried():
    assert set(USES) == {param.values[0] for param in inputs_of(io.Mask.io_type)}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("node", USES)
def test_a_mask_of_any_shape_does_what_the_usual_one_does(node, shape):
    assert same(use(node, SHAPES[shape]()), use(node, box()))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_mask_of_any_shape_in_a_layer_does_what_the_usual_one_does(shape, output):
    psd_tools = pytest.importorskip("psd_tools")

    def save(mask: torch.Tensor) -> object:
        item = {"image": image(1), "name": "sun", "mask": mask}
        document = {"version": 1, "canvas": (56, 40), "layers": [item]}
        return SaveLayers.execute(layers=document, filename_prefix="layers").result[0]

    odd, usual = (psd_tools.PSDImage.open(save(one)) for one in (SHAPES[shape](), box()))
    assert odd[0].topil().tobytes() == usual[0].topil().tobytes()


def test_masks_of_a_batch_keep_their_order():
    both = torch.cat([box(), torch.zeros(1, 40, 56)])
    for odd in (both[:, None], both[..., None], both.bool()):
        (parts, _) = use(Split, odd)
        assert [part.any(-1).any(-1).tolist() for part in parts] == [[True, False]]


def test_whole_numbers_beyond_1_are_8_bits_and_fractions_are_kept():
    grey = torch.full((1, 40, 56), 51, dtype=torch.uint8)
    ((rgba,),) = use(CutOut, grey)
    assert torch.allclose(rgba[..., 3], torch.tensor(0.2))
    ((rgba,),) = use(CutOut, torch.full((1, 40, 56), 0.2, dtype=torch.float64))
    assert torch.allclose(rgba[..., 3], torch.tensor(0.2))


NO_MASKS = {
    "no picture": (lambda: box()[:0], "got none"),
    "no pixel": (lambda: box()[:, :0], "got none"),
    "one axis": (lambda: torch.ones(7), "got none"),
    "a picture": (lambda: image(1), "got pictures"),
    "NaN": (lambda: box() * math.nan, "no numbers"),
    "infinite": (lambda: box() / 0, "no numbers"),
    "a number": (lambda: 1.0, "got float"),
}


@pytest.mark.parametrize("what", NO_MASKS)
@pytest.mark.parametrize("node", USES)
def test_what_is_no_mask_is_refused_in_a_sentence(node, what):
    make, told = NO_MASKS[what]
    with pytest.raises(ConceptAttentionError, match=told):
        use(node, make())


# --- Texts and numbers ----------------------------------------------------------------------------

TEXTS = {
    "half an emoji": "sky \ud83d",
    "the other half": "\udf88sky",
    "controls": "s\x00k\x1by\x7f",
    "NUL alone": "\x00",
    "half alone": "\ud83d",
    "digits": "9" * 5000,
    "digits to digits": "0-" + "9" * 5000,
    "last digits": "last " + "9" * 5000,
    "other digits": "²",
    "long": "sky " * 3000,
    "names": "sky, \ud83d, cat\ud83d",
    "name and words": "sky: \ud83d",
    "line ends": "sky\u2028cat\r\nred dog",
    "right to left": "\u202esky\ufeff",
    "a place elsewhere": "../\ud83d/sky",
    "number that is none": "nan",
}


@pytest.fixture(scope="module")
def recorded() -> dict:
    model, latent = sampled("cat, red dog, sky", batch=1)
    return {"model": model, "latent": latent}


def everything(node: type, recorded: dict) -> dict:
    """All inputs of a node as they should be, so that one can be replaced."""
    maps = hot_maps(1, 1)
    stack = {"version": 1, "canvas": (56, 40), "layers": [{"image": image(1), "name": "sky"}]}
    links = {
        "model": TINY_FLUX.model() if node is not Maps else recorded["model"],
        "clip": TINY_FLUX.clip(), "latent": recorded["latent"], "maps": maps,
        "image": image(1, 32, 48), "vae": None, "layers": stack, "concepts": "cat, red dog, sky",
        "names": "cat", "name": "cat", "mask": box(), "masks": box(), "prompts": "cat: gold",
        "conditioning": TINY_FLUX.prompt(1),
    }  # fmt: skip
    ids = [one.id for one in SCHEMAS[node].inputs]
    given = {**{name: it for name, it in links.items() if name in ids}, **defaults(node)}
    if node in USES:
        usual = USES[node](box())
        given |= {name: it[0] if SCHEMAS[node].is_input_list else it for name, it in usual.items()}
    return given


def attempt(node: type, given: dict, caplog) -> str | None:
    """The node's answer; a refusal's text. All that is said must be fit for a log and a page."""
    if SCHEMAS[node].is_input_list:
        given = {name: [value] for name, value in given.items()}
    told = None
    caplog.clear()
    try:
        with caplog.at_level(logging.INFO), torch.inference_mode():
            done = node.execute(**given)
        shown = done.ui if isinstance(done.ui, dict) else done.ui.as_dict() if done.ui else {}
        repr(shown).encode()
        str(shown.get("text", "")).encode()
        for out in done.result or ():
            "".join(
                out if isinstance(out, list) and isinstance(out[0], str) else [str(out)]
            ).encode()
    except ConceptAttentionError as refused:
        told = str(refused)
        told.encode()
    for record in caplog.records:
        record.getMessage().encode()
    return told


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize(("node", "name"), inputs_of(io.String.io_type))
def test_any_text_in_any_widget_works_or_is_refused_in_a_sentence(
    node, name, text, recorded, caplog, output, monkeypatch
):
    if node is Locate:
        monkeypatch.setattr("conceptattention.nodes.locate.locate", stand_in_locate)
    given = everything(node, recorded)
    assert attempt(node, given, caplog) is None  # all is well with the usual text
    try:
        attempt(node, {**given, name: TEXTS[text]}, caplog)
    except Exception as error:
        if "outside the output folder is not allowed" not in str(error):
            raise
        assert text == "a place elsewhere"
        str(error).encode()
    assert all(path.is_relative_to(output) for path in output.rglob("*"))


def stand_in_locate(model, clip, vae, pixels, spec, how):
    assert spec.concepts and how
    how.caption.encode()
    return hot_maps(1, 1).recording


@pytest.mark.parametrize("words", ["sky \ud83d, cat", "\x00sky,cat\x1b", "sky\u2028cat"])
def test_a_graph_tells_the_words_that_were_recorded(words):
    """Else what was recorded with them is not found by them."""
    given = {**defaults(Record), "concepts": words}
    recorded = Record.execute(model=TINY_FLUX.model(), clip=TINY_FLUX.clip(), **given).result[0]
    graph = Upstream({"record": Node("ConceptAttentionRecord", given)})
    assert specs_of(graph) == [spec_of(recorded)]


def test_what_the_door_drops_is_dropped_before_a_run_too():
    assert (
        Record.validate_inputs(concepts="cat\x00, sky", blocks="2-5\ud83d", live="\ud83d") is True
    )
    assert Maps.validate_inputs(steps="\x00all", blocks="last half\x1b") is True


@pytest.mark.parametrize(
    ("widgets", "told"),
    [
        ({"concepts": ","}, "No concepts were given"),
        ({"noise": "1.5"}, "between 0 (the picture) and 1"),
        ({"noise": "\ud83d"}, "Noise levels"),
        ({"blocks": "deep"}, "Could not read 'deep' as a range of blocks"),
    ],
)
def test_locate_tells_at_once_what_it_cannot_use(widgets, told):
    assert told in Locate.validate_inputs(**widgets)
    assert Locate.validate_inputs(concepts="cat, sky", noise="0.3, 0.6", blocks="last half") is True


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("node", "name"), inputs_of(io.Float.io_type))
def test_a_number_that_is_none_is_refused_by_its_name(node, name, number, recorded, caplog):
    given = everything(node, recorded)
    told = attempt(node, {**given, name: number}, caplog)
    assert told == f"'{name}' takes a number, got {number}."
