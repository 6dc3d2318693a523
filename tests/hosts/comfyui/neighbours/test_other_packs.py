"""Another pack that asks this one for maps: docs/examples/other_pack in a real server."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from conceptattention.conceptattention_core import ConceptAttentionError
from conceptattention.conceptattention_core.hosts.comfyui import api
from conceptattention.conceptattention_core.hosts.comfyui.demo import load_demo_model
from conceptattention.conceptattention_core.masks import MaskSpec
from conceptattention.conceptattention_core.ranges import DEEP
from conceptattention.nodes.demo import FOLDER
from conceptattention.nodes.locate import Locate

from ....comfyui.graphs import MASKING, WORDS, changed, node, painting, pictures, unrecorded
from ....comfyui.server import PACK, ROOT, Server
from ....comfyui.tiny import call
from ..common import failures

PICKED = {"name": "sky", "invert": False, **MASKING}
EXAMPLE = ROOT / "docs" / "examples" / "other_pack"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with the example as a second pack."""
    folder = tmp_path_factory.mktemp("two-packs") / "base"
    shutil.copytree(EXAMPLE, folder / "custom_nodes" / EXAMPLE.name)
    packs = ("--whitelist-custom-nodes", PACK, EXAMPLE.name)
    running = Server(Path(os.environ["COMFYUI_PATH"]), folder, *packs)
    yield running
    running.stop()


def test_another_pack_records_and_reads_maps_by_importing_us(server):
    assert failures(server.log()) == ""
    ours = changed(painting(WORDS), maps={"blocks": DEEP})
    ours["mask"] = node("ConceptAttentionPick", maps=["maps", 0], image=["decode", 0], **PICKED)
    ours["mask image"] = node("MaskToImage", mask=["mask", 0])
    ours["shown"]["inputs"]["images"] = ["mask image", 0]
    theirs = changed(unrecorded(painting(WORDS)), sampler={"model": ["words", 0]})
    theirs["words"] = node("ExampleRecordWords", model=["demo", 0], clip=["demo", 1], words=WORDS)
    theirs["dark"] = node(
        "ExampleDarkenTheRest", latent=["sampler", 0], image=["decode", 0], word="sky"
    )
    theirs["dark image"] = node("PreviewImage", images=["dark", 0])

    found = server.queue(theirs)
    expected = server.queue(ours)
    plain = server.queue(unrecorded(painting(WORDS)))
    (image,) = pictures(server, found, "picture")
    assert np.array_equal(image, pictures(server, plain, "picture")[0])
    (dark,) = pictures(server, found, "dark image")
    inside = pictures(server, expected, "shown")[0] > 0
    assert 0.05 < inside.mean() < 0.95
    assert abs(dark[inside].astype(int) - image[inside]).max() <= 1  # rounded
    assert (dark[~inside] <= 0.31 * image[~inside] + 1).all()


def test_another_pack_gets_our_sentence_where_nothing_was_recorded(server):
    graph = unrecorded(painting(WORDS, seed=8))
    graph["dark"] = node(
        "ExampleDarkenTheRest", latent=["sampler", 0], image=["decode", 0], word="sky"
    )
    graph["dark image"] = node("PreviewImage", images=["dark", 0])
    result = server.queue(graph, check=False)
    assert result.error_node == "dark"
    assert "No concepts were recorded for this latent" in str(result.error)


# --- the functions by themselves ------------------------------------------------------------------


@pytest.fixture(scope="module")
def parts():
    with torch.inference_mode():
        return load_demo_model(FOLDER)


def test_an_image_is_located_as_the_node_locates_it(parts):
    image = torch.linspace(0, 1, 64 * 96 * 3).reshape(1, 64, 96, 3)
    with torch.inference_mode():
        found = api.locate(*parts, image, WORDS, background=True, noise=(0.3, 0.6), seed=2)
        expected = call(
            Locate,
            **dict(zip(("model", "clip", "vae"), parts)),
            concepts=WORDS,
            background=True,
            image=image,
            caption="",
            noise="0.3, 0.6",
            samples=1,
            seed=2,
            megapixels=1.0,
            tokens="all",
            space="output",
            blocks=DEEP,
        )[0]
    assert torch.equal(found.maps, expected.maps)
    assert found.spec == expected.spec


def test_what_cannot_be_is_refused(parts):
    model, clip, _ = parts
    with pytest.raises(ConceptAttentionError, match="Unknown: token. Accepted: tokens, method"):
        api.record(model, clip, WORDS, token="first")
    with pytest.raises(ConceptAttentionError, match="did not go through Record Concepts"):
        api.maps_of({"samples": torch.zeros(1, 16, 8, 8)}, model)


def test_the_public_names_of_the_core_are_there_too():
    assert api.MaskSpec is MaskSpec
    with pytest.raises(AttributeError):
        print(api.nothing)
