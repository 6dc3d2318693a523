"""The harness itself: a stock graph in a real server, and whether the pack was loaded into it."""

import numpy as np
import pytest

from .common import failures

RED = 0xE01030


def red_square(width: int = 48) -> dict:
    return {
        "1": {
            "class_type": "EmptyImage",
            "inputs": {"width": width, "height": 32, "batch_size": 2, "color": RED},
        },
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }


def test_a_stock_graph_gives_its_pixels(server):
    result = server.queue(red_square())
    assert result.executed == ["1", "2"]
    images = [server.image(output) for output in result.outputs["2"]["images"]]
    assert [image.shape for image in images] == [(32, 48, 3)] * 2
    assert (np.stack(images) == [0xE0, 0x10, 0x30]).all()


def test_what_did_not_change_is_cached(server):
    server.queue(red_square(56))
    again = server.queue(red_square(56))
    assert (again.executed, set(again.cached)) == ([], {"1", "2"})
    assert server.image(again.outputs["2"]["images"][0]).shape == (32, 56, 3)


def test_an_uploaded_picture_can_be_loaded(server):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    name = server.upload(pixels, "noise.png")
    prompt = {
        "1": {"class_type": "LoadImage", "inputs": {"image": name}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}},
    }
    result = server.queue(prompt)
    assert (server.image(result.outputs["2"]["images"][0]) == pixels).all()


def test_a_refused_prompt_says_why(server):
    prompt = red_square()
    prompt["2"]["inputs"] = {}
    with pytest.raises(server.PromptError, match="node 2: Required input is missing: images"):
        server.queue(prompt)


def test_a_failing_node_is_named(server):
    prompt = red_square()
    # Scaled to nothing, which only the node after it notices.
    prompt["3"] = {
        "class_type": "ImageScaleBy",
        "inputs": {"image": ["1", 0], "upscale_method": "area", "scale_by": 0.01},
    }
    prompt["2"]["inputs"]["images"] = ["3", 0]
    with pytest.raises(server.PromptError, match="node 2: "):
        server.queue(prompt)
    assert server.queue(prompt, check=False).error_node == "2"


def test_a_run_can_be_interrupted(server):
    prompt = red_square(512)
    prompt["1"]["inputs"]["height"] = 512
    for node, source in (("3", "1"), ("4", "3")):
        blur = {"image": [source, 0], "blur_radius": 31, "sigma": 10.0}
        prompt[node] = {"class_type": "ImageBlur", "inputs": blur}
    prompt["2"]["inputs"]["images"] = ["4", 0]

    def stop_at_the_first_blur(kind, data):
        if kind == "executing" and data["node"] == "3":
            server.interrupt()

    result = server.queue(prompt, check=False, on_message=stop_at_the_first_blur)
    assert result.error == "interrupted"
    assert "2" not in result.executed


def test_the_pack_is_loaded(server, pack_nodes):
    assert "custom_nodes/conceptattention" in server.log().replace("\\", "/")
    assert "conceptattention" not in failures(server.log()), server.log()
    known = server.object_info()
    assert set(pack_nodes) <= set(known)
    assert {known[node]["python_module"] for node in pack_nodes} <= {
        "custom_nodes.conceptattention"
    }


def test_the_page_opens_in_a_browser(page):
    assert page.evaluate("app.extensionManager !== undefined")
    assert page.locator("#graph-canvas").is_visible()
