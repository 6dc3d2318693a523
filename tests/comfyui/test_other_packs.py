"""Another pack that asks this one for maps: docs/examples/other_pack in a real server."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conceptattention.conceptattention_core.ranges import DEEP

from .graphs import MASKING, WORDS, changed, node, painting, pictures, unrecorded
from .server import PACK, ROOT, Server
from .test_server import failures

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
