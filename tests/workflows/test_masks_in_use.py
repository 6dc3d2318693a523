"""What users do with masks, on a real server."""

from typing import Any

import numpy as np
import pytest

from ..comfyui.graphs import changed, masks, masks_of, node, painting, picked, pictures
from .common import again, latent, put_example, saved, touched


@pytest.fixture(autouse=True, scope="module")
def _example(server) -> None:
    put_example(server)


def with_mask(graph: dict[str, Any], word: str = "water") -> dict[str, Any]:
    return {
        **graph,
        "pick": picked(word),
        "convert": node("MaskToImage", mask=["pick", 0]),
    }


def test_set_latent_noise_mask_keeps_what_lies_outside(server):
    graph = with_mask(painting())
    graph["limit"] = node("SetLatentNoiseMask", samples=["sampler", 0], mask=["pick", 0])
    graph["again"] = again(graph, ["limit", 0])
    graph["before"], graph["after"] = saved(["sampler", 0]), saved(["again", 0])
    result = server.queue(graph)
    (mask,) = masks(server, result)
    change = np.abs(latent(server, result, "after") - latent(server, result, "before"))[0].max(0)
    inside = touched(mask)
    assert change[~inside].max() < 1e-5
    assert np.median(change[inside]) > 0.1
    assert 0.2 < inside.mean() < 0.9


def test_inpaint_model_conditioning_takes_the_mask(server):
    graph = with_mask(painting())
    graph["inpaint"] = node(
        "InpaintModelConditioning",
        positive=["prompt", 0],
        negative=["negative", 0],
        vae=["demo", 2],
        pixels=["decode", 0],
        mask=["pick", 0],
        noise_mask=True,
    )
    conditions = {"positive": ["inpaint", 0], "negative": ["inpaint", 1]}
    graph["again"] = again(graph, ["inpaint", 2], **conditions)
    graph["before"], graph["after"] = saved(["inpaint", 2]), saved(["again", 0])
    graph |= masks_of(["again", 0], "second ")
    result = server.queue(graph)
    (mask,) = masks(server, result)
    change = np.abs(latent(server, result, "after") - latent(server, result, "before"))[0].max(0)
    assert change[~touched(mask)].max() < 1e-5
    assert np.median(change[touched(mask)]) > 0.1
    assert masks(server, result, "second shown").shape == (3, 128, 128)


def test_image_composite_masked_pastes_exactly_the_mask(server):
    graph = with_mask(painting())
    graph["paint"] = node("EmptyImage", width=128, height=128, batch_size=1, color=0xFF0000)
    graph["paste"] = node(
        "ImageCompositeMasked",
        destination=["decode", 0],
        source=["paint", 0],
        mask=["pick", 0],
        x=0,
        y=0,
        resize_source=False,
    )
    graph["pasted"] = node("PreviewImage", images=["paste", 0])
    result = server.queue(graph)
    (mask,), (picture,) = masks(server, result), pictures(server, result, "picture")
    (pasted,) = pictures(server, result, "pasted")
    assert mask.any() and not mask.all()
    assert (pasted == np.where(mask[..., None] > 0, [255, 0, 0], picture)).all()


def test_invert_gives_the_rest(server):
    graph = with_mask(painting())
    (inside,) = masks(server, server.queue(graph))
    (outside,) = masks(server, server.queue(changed(graph, pick={"invert": True})))
    assert (inside + outside == 255).all()
