"""The nodes as ComfyUI calls them: what they promise, and a way through all of them."""

import inspect
import re
from itertools import product
from pathlib import Path

import comfy_extras.nodes_mask as masking
import conceptattention
import pytest
import torch
from comfy_api.latest import io
from conceptattention.conceptattention_core import ConceptAttentionError
from conceptattention.conceptattention_core.attention import ATTEND, SPACES
from conceptattention.conceptattention_core.concepts import parse
from conceptattention.conceptattention_core.hosts.comfyui.store import STORE
from conceptattention.conceptattention_core.maps import ORDERS, SCALES, ConceptMaps
from conceptattention.conceptattention_core.recording import Grid, Recording, RecordSpec
from conceptattention.conceptattention_core.thresholds import THRESHOLDS
from conceptattention.nodes import NODES
from conceptattention.nodes.inputs import mask_spec
from conceptattention.nodes.masks import Masks, Pick
from conceptattention.nodes.record import Maps, Record
from conceptattention.nodes.view import VIEWS, Overlay

import nodes as stock

from .tiny import TINY, call, with_replaced_block

ROOT = Path(conceptattention.__file__).parent
TINY_FLUX = TINY["Flux.1"]

# --- What is published ----------------------------------------------------------------------------

# Workflows in the world refer to these names: they are never renamed and never change their type.
# An input may be added if it is optional or has a default.
FINISH = {
    "edges": "BOOLEAN", "contrast": "FLOAT", "fill_holes": "BOOLEAN", "islands": "FLOAT",
    "largest": "BOOLEAN", "grow": "INT", "feather": "INT", "edge_radius": "INT",
    "edge_smoothness": "FLOAT",
}  # fmt: skip
PUBLISHED = {
    "ConceptAttentionRecord": (
        {
            "model": "MODEL", "clip": "CLIP", "concepts": "STRING", "background": "BOOLEAN",
            "tokens": "COMBO", "attend_to": "COMBO", "space": "COMBO", "blocks": "STRING",
            "memory": "INT", "bounces": "INT", "live": "STRING", "live_every": "INT",
        },
        ["MODEL"],
    ),
    "ConceptAttentionLocate": (
        {
            "model": "MODEL", "clip": "CLIP", "concepts": "STRING", "background": "BOOLEAN",
            "vae": "VAE", "image": "IMAGE", "caption": "STRING", "noise": "STRING",
            "samples": "INT", "seed": "INT", "megapixels": "FLOAT", "tokens": "COMBO",
            "space": "COMBO", "blocks": "STRING", "scale": "COMBO", "bounces": "INT",
        },
        ["CONCEPT_MAPS"],
    ),
    "ConceptAttentionMaps": (
        {
            "latent": "LATENT", "model": "MODEL", "steps": "STRING", "blocks": "STRING",
            "order": "COMBO", "temperature": "FLOAT", "scale": "COMBO",
        },
        ["CONCEPT_MAPS"],
    ),
    "ConceptAttentionMasks": (
        {
            "maps": "CONCEPT_MAPS", "image": "IMAGE", "threshold": "COMBO", "level": "FLOAT",
            "soft": "BOOLEAN", "keep_absent": "BOOLEAN", **FINISH,
        },
        ["MASK", "STRING"],
    ),
    "ConceptAttentionPick": (
        {
            "maps": "CONCEPT_MAPS", "image": "IMAGE", "name": "STRING", "threshold": "COMBO",
            "level": "FLOAT", "soft": "BOOLEAN", "keep_absent": "BOOLEAN", "invert": "BOOLEAN",
            **FINISH,
        },
        ["MASK"],
    ),
    "ConceptAttentionSplit": ({"mask": "MASK", "islands": "FLOAT"}, ["MASK", "INT"]),
    "ConceptAttentionOverlay": (
        {"maps": "CONCEPT_MAPS", "image": "IMAGE", "view": "COMBO"},
        ["IMAGE"],
    ),
    "ConceptAttentionLabels": (
        {"maps": "CONCEPT_MAPS", "image": "IMAGE"},
        ["IMAGE", "MASK"],
    ),
    "ConceptAttentionExplorer": (
        {"maps": "CONCEPT_MAPS", "image": "IMAGE", "filename_prefix": "STRING"},
        ["STRING"],
    ),
    "ConceptAttentionSheet": ({"maps": "CONCEPT_MAPS", "name": "STRING"}, ["IMAGE"]),
    "ConceptAttentionScores": ({"maps": "CONCEPT_MAPS"}, ["STRING", "STRING", "STRING"]),
    "ConceptAttentionGate": (
        {
            "maps": "CONCEPT_MAPS", "image": "IMAGE", "names": "STRING", "coverage": "FLOAT",
            "latent": "LATENT",
        },
        ["IMAGE", "STRING", "LATENT"],
    ),
    "ConceptAttentionCutOut": (
        {"image": "IMAGE", "mask": "MASK", "crop": "BOOLEAN", "margin": "INT"},
        ["IMAGE"],
    ),
    "ConceptAttentionLayers": (
        {"image": "IMAGE", "masks": "MASK", "names": "STRING"},
        ["LAYERS"],
    ),
    "ConceptAttentionSaveLayers": (
        {"layers": "LAYERS", "filename_prefix": "STRING"},
        ["STRING"],
    ),
    "ConceptAttentionSaveMasks": (
        {"mask": "MASK", "name": "STRING", "folder": "STRING"},
        ["MASK"],
    ),
    "ConceptAttentionBoxes": (
        {
            "mask": "MASK", "name": "STRING", "each_part": "BOOLEAN", "margin": "INT",
            "crop_factor": "FLOAT",
        },
        ["BOUNDING_BOX", "BBOX", "SEGS", "STRING"],
    ),
    "ConceptAttentionRegions": (
        {
            "clip": "CLIP", "conditioning": "CONDITIONING", "masks": "MASK", "names": "STRING",
            "prompts": "STRING", "strength": "FLOAT", "only_mentioned": "BOOLEAN",
        },
        ["CONDITIONING"],
    ),
    "ConceptAttentionDemoModel": ({}, ["MODEL", "CLIP", "VAE"]),
}  # fmt: skip
OPTIONAL = {
    ("ConceptAttentionMaps", "model"),
    ("ConceptAttentionMaps", "scale"),
    ("ConceptAttentionGate", "latent"),
    *product(["ConceptAttentionLocate"], ("scale", "bounces")),
    *product(["ConceptAttentionRecord"], ("bounces", "live", "live_every")),
    *product(("ConceptAttentionMasks", "ConceptAttentionPick"), ("image", *FINISH)),
}

SCHEMAS = {node.GET_SCHEMA().node_id: node.GET_SCHEMA() for node in NODES}
each_node = pytest.mark.parametrize("node", NODES, ids=list(SCHEMAS))


def test_published_names_and_types_stay_as_they_are():
    found = {
        node_id: (
            {one.id: one.io_type for one in schema.inputs},
            [one.io_type for one in schema.outputs],
        )
        for node_id, schema in SCHEMAS.items()
    }
    assert found == PUBLISHED
    assert OPTIONAL == {
        (node_id, one.id)
        for node_id, schema in SCHEMAS.items()
        for one in schema.inputs
        if one.optional
    }


def test_masks_and_their_names_come_as_lists_one_for_each_concept():
    assert [out.is_output_list for out in SCHEMAS["ConceptAttentionMasks"].outputs] == [True, True]


@each_node
def test_every_input_and_output_says_what_it_is(node):
    schema = node.GET_SCHEMA()
    assert schema.description and schema.display_name
    assert schema.category == "ConceptAttention"
    for one in [*schema.inputs, *schema.outputs]:
        assert one.tooltip and one.tooltip.endswith((".", "'")), one


@each_node
def test_every_node_has_a_help_page(node):
    page = ROOT / conceptattention.WEB_DIRECTORY / "docs" / f"{node.GET_SCHEMA().node_id}.md"
    assert page.read_text("utf-8").startswith("# ")


@each_node
def test_its_help_page_names_every_widget(node):
    page = ROOT / conceptattention.WEB_DIRECTORY / "docs" / f"{node.GET_SCHEMA().node_id}.md"
    text = page.read_text("utf-8")
    # in the first column of a table, or in italics
    told = re.findall(r"^\| ([^|`]+?) \|", text, re.M)
    told += re.findall(r"(?<![*\w])\*([^*]+)\*(?!\*)", text)
    named = {" ".join(one.split()) for part in told for one in part.split(",")}
    widgets = {
        (one.display_name or one.id).replace("_", " ")
        for one in node.GET_SCHEMA().inputs
        if isinstance(one, io.WidgetInput) and not one.force_input
    }
    assert widgets <= named


@each_node
def test_a_node_takes_what_its_schema_offers(node):
    taken = dict(inspect.signature(node.execute).parameters)
    if taken.pop("widgets", None):
        taken |= inspect.signature(mask_spec).parameters
    assert set(taken) == {one.id for one in node.GET_SCHEMA().inputs}
    for one in node.GET_SCHEMA().inputs:
        left_out = getattr(one, "default", None) if one.optional else inspect.Parameter.empty
        assert taken[one.id].default == left_out


def test_choices_are_those_of_the_core():
    choices = {
        (node_id, one.id): (one.options, one.default)
        for node_id, schema in SCHEMAS.items()
        for one in schema.inputs
        if one.io_type == "COMBO"
    }
    offered = {"threshold": THRESHOLDS, "order": ORDERS, "attend_to": ATTEND, "space": SPACES,
               "view": VIEWS, "scale": SCALES, "tokens": ["all", "first"]}  # fmt: skip
    for (_, name), (options, default) in choices.items():
        assert options == list(offered[name])
        assert default in options


# --- A way through all of them --------------------------------------------------------------------


def defaults(node: type) -> dict:
    return {
        one.id: one.default
        for one in node.GET_SCHEMA().inputs
        if getattr(one, "default", None) is not None
    }


def run(node: type, **inputs) -> tuple:
    """A node's outputs with the defaults of its widgets, inputs as ComfyUI would take them."""
    schema = {one.id for one in node.GET_SCHEMA().inputs}
    assert set(inputs) <= schema
    return call(node, **{**defaults(node), **inputs})


def sampled(concepts: str = "cat, red dog, sky", batch: int = 2, model=None, **settings):
    """The recorded model and the LATENT it made: 5 by 7 latents of 40 by 56 pixels."""
    (model,) = run(
        Record, model=model or TINY_FLUX.model(), clip=TINY_FLUX.clip(), concepts=concepts,
        **settings,
    )  # fmt: skip
    (latent,) = call(
        stock.KSampler,
        model=model, seed=1, steps=2, cfg=3.0, sampler_name="euler", scheduler="simple",
        positive=TINY_FLUX.prompt(1), negative=TINY_FLUX.prompt(2),
        latent_image={"samples": torch.zeros(batch, TINY_FLUX.channels, 5, 7)}, denoise=1.0,
    )  # fmt: skip
    return model, latent


def image(batch: int = 2, h: int = 40, w: int = 56) -> torch.Tensor:
    return torch.rand(batch, h, w, 3, generator=torch.Generator().manual_seed(0))


def territories(*owners: list[list[int]], names: str = "cat, red dog, sky") -> ConceptMaps:
    """Pictures in which the patch at y x belongs to concept `owners[picture][y][x]` alone."""
    concepts = parse(names)
    maps = torch.nn.functional.one_hot(torch.tensor(owners), len(concepts)).float()
    y, x = maps.shape[1:3]
    grid = Grid.of_latent(2 * y, 2 * x)
    maps, once = maps.permute(0, 3, 1, 2), ((0, 0),)
    spec = RecordSpec(concepts)
    scores = torch.zeros_like(maps)[:, None, None]
    return ConceptMaps(maps, Recording(scores, spec, grid, once, once, "Tiny"))


HALVES = [[0, 0, 1, 1]] * 4
"""Left half cat, right half red dog, no sky: 64 by 64 pixels."""


def test_from_words_to_masks():
    model, latent = sampled(background=True)
    (maps,) = run(Maps, latent=latent)
    assert maps.concepts.names == ("cat", "red dog", "sky", "background")
    masks, names = run(Masks, maps=maps, image=image(), keep_absent=True)
    assert names == ["cat", "red dog", "sky"]
    assert len(masks) == 3
    for mask in masks:
        assert mask.shape == (2, 40, 56)
        assert mask.dtype == torch.float32
        assert mask.unique().tolist() == [0, 1]
    (picked,) = run(Pick, maps=maps, image=image(), name="Red Dog", keep_absent=True)
    assert torch.equal(picked, masks[1])
    (same,) = run(Maps, latent=latent, model=model)
    assert torch.equal(same.maps, maps.maps)


def test_without_an_image_masks_have_the_size_that_the_latent_decodes_to():
    (maps,) = run(Maps, latent=sampled()[1])
    for mask in run(Masks, maps=maps)[0]:
        assert mask.shape == (2, 40, 56)


@pytest.mark.parametrize("size", [(80, 112), (37, 51)])
def test_masks_take_the_size_of_the_image(size):
    maps = territories(HALVES)
    for mask in run(Masks, maps=maps, image=image(1, *size))[0]:
        assert mask.shape == (1, *size)


def test_ranges_and_order_change_the_maps_without_sampling_again():
    _, latent = sampled()
    ways = [{}, {"steps": "0"}, {"blocks": "all"}, {"order": "mean, then softmax"},
            {"temperature": 4.0}]  # fmt: skip
    found = [run(Maps, latent=latent, **way)[0].maps for way in ways]
    for i, one in enumerate(found):
        assert all(not torch.allclose(one, other, atol=1e-6) for other in found[:i]), ways[i]


def test_settings_of_the_recording_reach_it():
    _, latent = sampled(
        tokens="first", attend_to="image", space="value", blocks="1-", memory=3, background=True
    )
    (maps,) = run(Maps, latent=latent)
    spec = maps.recording.spec
    assert spec.tokens == "first"
    assert (spec.method.attend, maps.spec.space) == ("image", "value")
    assert maps.concepts.names[-1] == "background"
    with pytest.raises(ConceptAttentionError, match="Blocks '0' were not recorded"):
        run(Maps, latent=latent, blocks="0")


def test_one_concept_competes_with_a_background_that_gets_no_mask():
    (maps,) = run(Maps, latent=sampled("cat")[1])
    masks, names = run(Masks, maps=maps)
    assert (names, len(masks)) == (["cat"], 1)
    (background,) = run(Pick, maps=maps, name="background", keep_absent=True)
    assert background.any()


def test_one_of_a_batch_can_be_taken_out_after_sampling():
    STORE.clear()  # the same picture with other words, of other tests
    _, latent = sampled(batch=3)
    (maps,) = run(Maps, latent=latent)
    (second,) = call(stock.LatentFromBatch, samples=latent, batch_index=1, length=1)
    (alone,) = run(Maps, latent=second)
    assert torch.equal(alone.maps, maps.maps[1:2])


def test_a_latent_nobody_recorded_is_an_error_that_says_what_to_do():
    with pytest.raises(ConceptAttentionError, match="Connect the LATENT that comes straight"):
        run(Maps, latent={"samples": torch.rand(1, 16, 5, 7)})


def test_a_silent_run_says_so_at_the_maps():
    _, latent = sampled(model=with_replaced_block(TINY_FLUX, TINY_FLUX.model(), 0))
    with pytest.raises(ConceptAttentionError, match="Nothing was captured while Flux.1 sampled"):
        run(Maps, latent=latent)


@pytest.mark.parametrize("node", [Masks, Pick, Overlay])
def test_an_image_of_another_batch_is_refused_with_both_sizes(node):
    name = {"name": "cat"} if node is Pick else {}
    with pytest.raises(ConceptAttentionError, match="batch has 3 pictures, the maps belong to 2"):
        run(node, maps=territories(HALVES, HALVES), image=image(3), **name)


# --- Masks ----------------------------------------------------------------------------------------


def test_masks_lie_on_their_pixels_and_absent_ones_are_empty():
    masks, _ = run(Masks, maps=territories(HALVES), threshold="fixed", level=0.5)
    left = torch.zeros(1, 64, 64)
    left[:, :, :32] = 1
    assert torch.equal(masks[0], left)
    assert torch.equal(masks[1], 1 - left)
    assert not masks[2].any()


def test_a_soft_mask_is_gradual_with_exact_ends():
    (mask,) = run(Pick, maps=territories(HALVES), name="cat", soft=True)
    assert (mask.min(), mask.max()) == (0, 1)
    assert len(mask.unique()) > 8


@pytest.mark.parametrize("name", ["cat,red dog", " CAT ,\n Red Dog ,", "cat，red dog", "cat\ncat"])
def test_several_names_give_their_masks_joined(name):
    maps = territories([[0, 1, 2, 2]] * 4)
    (joined,) = run(Pick, maps=maps, name=name, threshold="fixed")
    asked = 16 if "red dog" not in name.lower() else 32
    expected = torch.zeros(1, 64, 64)
    expected[:, :, :asked] = 1
    assert torch.equal(joined, expected)


def test_inverted_is_everything_else():
    maps = territories(HALVES)
    for soft in (False, True):
        (mask,) = run(Pick, maps=maps, name="cat", soft=soft)
        (rest,) = run(Pick, maps=maps, name="cat", soft=soft, invert=True)
        assert torch.equal(rest, 1 - mask)
        assert rest.unique().tolist()[:: len(rest.unique()) - 1] == [0, 1]


@pytest.mark.parametrize("name", ["", " , ,"])
def test_no_name_is_an_error_that_lists_the_concepts(name):
    with pytest.raises(ConceptAttentionError, match="No concept was named. Recorded: cat, red dog"):
        run(Pick, maps=territories(HALVES), name=name)


def test_an_empty_mask_is_told_on_the_node_and_in_the_log(caplog):
    maps = territories(HALVES, [[1, 1, 2, 2]] * 4)
    given = {**defaults(Pick), "maps": maps, "name": "red dog, sky, Cat"}
    with caplog.at_level("WARNING"):
        done = Pick.execute(**given)
    told = "Empty masks: sky (1 of 2), Cat (1 of 2). Concept Scores says how much there is"
    (shown,) = done.ui.as_dict()["text"]
    assert shown.startswith(told) and f"Pick Concept Mask: {shown}" in caplog.text
    caplog.clear()
    assert Pick.execute(**{**given, "name": "red dog"}).ui is None
    assert not caplog.text


def test_an_unknown_name_is_an_error_that_lists_the_concepts():
    with pytest.raises(ConceptAttentionError, match="named 'moon'. Recorded: cat, red dog, sky"):
        run(Pick, maps=territories(HALVES), name="cat, moon")


# --- Pictures -------------------------------------------------------------------------------------


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_is_a_picture_for_each_of_the_batch_and_is_shown(view):
    maps = territories(HALVES, [[1, 2, 2, 2]] * 4)
    with torch.inference_mode():
        output = Overlay.execute(maps, image(2, 64, 64), view)
    (views,) = output.result
    assert views.ndim == 4 and len(views) == 2 and views.shape[3] == 3
    assert views.dtype == torch.float32
    assert views.shape[1] > 64
    assert 0 <= views.min() and views.max() <= 1
    assert not torch.equal(views[0], views[1])
    assert len(output.ui.as_dict()["images"]) == 2


def test_legends_of_different_height_still_make_one_batch():
    everything, one = [[0, 1, 2, 3, 4]] * 4, [[0] * 5] * 4
    maps = territories(everything, one, names="balloon, sun, sky, mountains, clouds")
    for width in (200, 256, 500, 768, 1024):
        (views,) = run(Overlay, maps=maps, image=image(2, 64, width))
        assert views.shape[2] == width


def test_an_image_with_transparency_can_be_looked_at():
    transparent = torch.cat([image(1, 64, 64), torch.zeros(1, 64, 64, 1)], dim=-1)
    (views,) = run(Overlay, maps=territories(HALVES), image=transparent)
    assert views.shape[3] == 3


# --- Stock nodes take the masks -------------------------------------------------------------------


@pytest.fixture
def mask():
    """The cat of two pictures: its left half, and its right half."""
    return run(Pick, maps=territories(HALVES, [[1, 1, 0, 0]] * 4), name="cat")[0]


def test_set_latent_noise_mask_keeps_the_rest_bit_by_bit(mask):
    start = TINY_FLUX.latent(2, 8, 8, seed=5)
    (masked,) = call(stock.SetLatentNoiseMask, samples={"samples": start}, mask=mask)
    (painted,) = call(
        stock.KSampler,
        model=TINY_FLUX.model(), seed=1, steps=2, cfg=1.0, sampler_name="euler",
        scheduler="simple", positive=TINY_FLUX.prompt(1), negative=TINY_FLUX.prompt(2),
        latent_image=masked, denoise=1.0,
    )  # fmt: skip
    same = torch.isclose(painted["samples"], start, atol=1e-5).all(1)
    assert same[0, :, 4:].all() and not same[0, :, :4].any()
    assert same[1, :, :4].all() and not same[1, :, 4:].any()


def test_inpaint_model_conditioning_takes_a_mask(mask):
    class Boxes:
        """Stands in for a VAE: each latent pixel is the mean of its box."""

        def encode(self, pixels):
            shrunk = torch.nn.functional.avg_pool2d(pixels.movedim(-1, 1), 8)
            return shrunk.repeat(1, 6, 1, 1)[:, :16]

    pixels = image(2, 64, 64)
    positive, _, latent = call(
        stock.InpaintModelConditioning,
        positive=TINY_FLUX.prompt(1), negative=TINY_FLUX.prompt(2), pixels=pixels, vae=Boxes(),
        mask=mask, noise_mask=True,
    )  # fmt: skip
    assert torch.equal(latent["noise_mask"], mask[:, None])
    hidden = positive[0][1]["concat_latent_image"]
    whole = Boxes().encode(pixels)
    assert torch.equal(hidden[0, :, :, 4:], whole[0, :, :, 4:])
    assert torch.allclose(hidden[0, :, :, :4], torch.tensor(0.5))


def test_image_composite_masked_pastes_exactly_the_mask(mask):
    white, picture = torch.ones(2, 64, 64, 3), image(2, 64, 64)
    (pasted,) = call(
        masking.ImageCompositeMasked,
        destination=picture, source=white, x=0, y=0, resize_source=False, mask=mask,
    )  # fmt: skip
    assert torch.equal(pasted, torch.where(mask[..., None] == 1, white, picture))


def test_mask_to_image_shows_the_mask(mask):
    (shown,) = call(masking.MaskToImage, mask=mask)
    assert torch.equal(shown, mask[..., None].expand(-1, -1, -1, 3))
