"""Notices: on the node, in the history and in the log, when something is not as it looks."""

import asyncio
import json
from typing import Any

import aiohttp
import folder_paths
import pytest
import torch
from conceptattention.conceptattention_core import ConceptAttentionError
from conceptattention.conceptattention_core.concepts import parse
from conceptattention.conceptattention_core.hosts.comfyui.store import STORE
from conceptattention.conceptattention_core.maps import ConceptMaps, read_maps
from conceptattention.conceptattention_core.recording import Grid, Recording, RecordSpec
from conceptattention.nodes.masks import Masks, Pick
from conceptattention.nodes.record import Maps, Record
from conceptattention.nodes.view import Explorer, Labels, Overlay

from ..comfyui.graphs import changed, node, painting, recorded
from .common import TINY_FLUX, defaults, image, sampled

NAMED = {Pick: {"name": "cat"}}


@pytest.fixture(autouse=True)
def _output(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))


def shown_by(done: Any) -> dict:
    view = done.ui
    return view if isinstance(view, dict) else view.as_dict() if view else {}


def halves() -> ConceptMaps:
    """Left half cat, right half red dog, of 64 by 64 pixels, with their recording."""
    scores = torch.zeros(1, 1, 1, 2, 4, 4)
    scores[..., 0, :, :2] = scores[..., 1, :, 2:] = 5
    spec = RecordSpec(parse("cat, red dog"))
    return read_maps(Recording(scores, spec, Grid.of_latent(8, 8), ((0, 0),), ((0, 0),), "Tiny"))


def draw(node: type, size: tuple[int, int], **given) -> tuple[Any, str]:
    """What a node does with a picture of this size, the maps being of 64 by 64; its notice."""
    given = {**defaults(node), "maps": halves(), "image": image(1, *size), **NAMED.get(node, {})}
    with torch.inference_mode():
        done = node.execute(**given)
    return done, "".join(shown_by(done).get("text", ()))


@pytest.mark.parametrize("node", [Masks, Pick, Overlay, Labels, Explorer])
def test_a_picture_of_another_shape_than_the_recorded_one_gets_a_notice(node, caplog):
    with caplog.at_level("WARNING"):
        done, told = draw(node, (64, 128))
    assert told.startswith("The picture is 64 x 128, the recording was of 64 x 64: the masks are")
    (record,) = caplog.records
    assert record.getMessage() == f"{node.GET_SCHEMA().display_name}: {told}"
    assert done.result, "the node works all the same"
    views = {Overlay: "images", Explorer: "explorer"}
    assert node not in views or shown_by(done)[views[node]]


@pytest.mark.parametrize("size", [(64, 64), (128, 128), (65, 64), (33, 32), (200, 201)])
@pytest.mark.parametrize("node", [Masks, Pick, Overlay, Labels, Explorer])
def test_a_picture_of_the_recorded_shape_in_any_size_gets_none(node, size, caplog):
    with caplog.at_level("WARNING"):
        _, told = draw(node, size)
    assert not told and not caplog.records


def test_without_a_picture_there_is_none():
    done = Masks.execute(**defaults(Masks), maps=halves())
    assert done.ui is None


def test_a_notice_of_the_concepts_is_told_by_record():
    given = {**defaults(Record), "model": TINY_FLUX.model(), "clip": TINY_FLUX.clip()}
    done = Record.execute(**{**given, "concepts": "cat, Cat, dog"})
    (told,) = shown_by(done)["text"]
    assert "'Cat' was given more than once" in told


# --- A MODEL that was not recorded ----------------------------------------------------------------


@pytest.fixture
def _only_these_recordings() -> None:
    STORE.clear()


@pytest.mark.usefixtures("_only_these_recordings")
def test_a_model_that_was_not_recorded_is_ignored_with_a_notice(caplog):
    """As packs that connect inputs by themselves give Concept Maps the loader's MODEL."""
    model, latent = sampled("cat, sky", batch=1)
    given = {**defaults(Maps), "latent": latent}
    with torch.inference_mode(), caplog.at_level("WARNING"):
        meant = Maps.execute(**given, model=model)
        ignored = Maps.execute(**given, model=TINY_FLUX.model())
    assert meant.ui is None
    assert torch.equal(ignored.result[0].maps, meant.result[0].maps)
    (told,) = shown_by(ignored)["text"]
    assert told.startswith("The connected MODEL did not go through Record Concepts and was ignored")
    assert told in caplog.text


@pytest.mark.usefixtures("_only_these_recordings")
def test_a_model_that_was_not_recorded_chooses_no_recording():
    _, latent = sampled("cat, sky", batch=1)
    sampled("dog, sea", batch=1)  # the very same picture
    copied = {"samples": latent["samples"].clone()}
    with pytest.raises(ConceptAttentionError, match="nothing tells which is meant"):
        Maps.execute(**{**defaults(Maps), "latent": copied, "model": TINY_FLUX.model()})


# --- On a real server -----------------------------------------------------------------------------


def said(server, graph: dict) -> tuple[dict, list[tuple[str, str]]]:
    """What a prompt shows in the history, and the texts that the page gets, by node.

    A node that ran has the text "" before its own: the page takes the last one away then.
    """

    async def follow() -> tuple[dict, list[tuple[str, str]]]:
        texts = []
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(f"{server.url}/ws?clientId=notices", max_msg_size=0) as messages,
        ):
            body = {"prompt": graph, "client_id": "notices"}
            async with session.post(f"{server.url}/prompt", json=body) as response:
                prompt_id = (await response.json())["prompt_id"]
            async for message in messages:
                if message.type == aiohttp.WSMsgType.BINARY:
                    continue
                sent = json.loads(message.data)
                if sent["type"] in ("execution_success", "execution_error"):
                    break
                if sent["type"] == "executing":
                    texts.append((sent["data"]["node"], ""))
                if sent["type"] == "executed":
                    lines = (sent["data"].get("output") or {}).get("text", ())
                    texts += [(sent["data"]["node"], line) for line in lines]
        while not (history := server.get(f"/history/{prompt_id}")):
            await asyncio.sleep(0.05)
        return history[prompt_id]["outputs"], texts

    return asyncio.run(follow())


def stretched(graph: dict) -> dict:
    """The picture twice as wide, as after pasting into a larger one."""
    graph["wide"] = node(
        "ImageScale", image=["decode", 0], upscale_method="bilinear", width=256, height=128,
        crop="disabled",
    )  # fmt: skip
    return changed(graph, masks={"image": ["wide", 0]})


def test_a_notice_is_on_the_node_in_history_and_log_and_goes_away(server):
    outputs, texts = said(server, stretched(painting(seed=77)))
    (told,) = outputs["masks"]["text"]
    assert told.startswith("The picture is 128 x 256, the recording was of 128 x 128")
    assert texts.index(("masks", "")) < texts.index(("masks", told))
    assert f"Concept Masks: {told}" in server.log()
    outputs, texts = said(server, painting(seed=77))
    assert "masks" not in outputs
    assert [text for name, text in texts if name == "masks"] == [""]


def test_a_loader_s_model_at_concept_maps_is_ignored_on_a_server(server):
    graph = changed(painting(seed=78), maps={"model": ["demo", 0]})
    outputs, _ = said(server, graph)
    assert outputs["maps"]["text"][0].startswith("The connected MODEL did not go through")
    assert len(outputs["shown"]["images"]) == 3


def test_two_recordings_of_one_picture_are_told_apart(server):
    graph = painting(seed=79)
    graph["other"] = recorded("tree, sun")
    graph["second"] = changed(graph, sampler={"model": ["other", 0]})["sampler"]
    graph |= {
        f"other {name}": changed(graph, **{name: change})[name]
        for name, change in {
            "maps": {"latent": ["second", 0], "model": ["demo", 0]},
            "masks": {"maps": ["other maps", 0]},
            "convert": {"mask": ["other masks", 0]},
            "shown": {"images": ["other convert", 0]},
        }.items()
    }
    outputs, _ = said(server, graph)
    assert len(outputs["shown"]["images"]) == 3
    assert len(outputs["other shown"]["images"]) == 2
