"""What the nodes promise: ids, inputs, widgets, outputs, help."""

import inspect
import re
from itertools import product
from pathlib import Path

import conceptattention
import pytest
from comfy_api.latest import io
from conceptattention.conceptattention_core.attention import ATTEND, SPACES
from conceptattention.conceptattention_core.maps import ORDERS, SCALES
from conceptattention.conceptattention_core.thresholds import THRESHOLDS
from conceptattention.nodes import NODES
from conceptattention.nodes.inputs import mask_spec
from conceptattention.nodes.view import VIEWS

from .common import SCHEMAS

ROOT = Path(conceptattention.__file__).parent

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
