"""`python -m bench.workflows`: what it says of good, bad and harmful workflows."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from ..comfyui.graphs import WORKFLOWS, node, painting, unrecorded
from ..comfyui.server import Result

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))  # last: our nodes/ must not hide ComfyUI's nodes.py

from bench import workflows  # noqa: E402
from bench.graphs import UnusableError, read  # noqa: E402

GALLERY = [file.stem for file in sorted(WORKFLOWS.glob("*.json"))]
"""Some run on the demo model, some name the files of another."""
SLOW = {"chroma_radiance", "pixeldit"}  # they sample pixels: 14 s each
MODELS = [f.stem for f in sorted((WORKFLOWS / "models").glob("*.json")) if f.stem not in SLOW]
"""First masks with each family of models, on a tiny model of it."""
UNSAMPLED = {"photo_to_masks"}

HARMFUL = '''
class Harmful:
    """A sampler that paints otherwise where somebody listens."""

    RETURN_TYPES = ("LATENT",)
    FUNCTION = "sample"
    CATEGORY = "test"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",), "latent_image": ("LATENT",)}}

    def sample(self, model, latent_image):
        changed = bool(model.model_options.get("transformer_options")) or bool(model.wrappers)
        return ({"samples": latent_image["samples"] + 1e-6 * changed},)


class Restless(Harmful):
    """A sampler that never paints the same."""

    def sample(self, model, latent_image):
        import time

        return ({"samples": latent_image["samples"] + time.perf_counter() % 100},)

    @classmethod
    def IS_CHANGED(cls, **_):
        return float("nan")


class Killing(Harmful):
    """A sampler that takes ComfyUI with it."""

    def sample(self, model, latent_image):
        import os

        os._exit(3)


NODE_CLASS_MAPPINGS = {"Harmful": Harmful, "Restless": Restless, "Killing": Killing}
'''


KILLING = "zz Killing"  # last, as starting another server takes longer than all workflows
LAYERS = "EmptyQwenImageLayeredLatentImage"


def sampled_by(kind: str) -> dict[str, Any]:
    graph = unrecorded(painting())
    graph["sampler"] = node(kind, model=["demo", 0], latent_image=["empty", 0])
    return graph


def layered() -> dict[str, Any]:
    """The official template of Qwen-Image-Layered: the layers are cut out of the latent."""
    prompts = {
        f"{name} {kind}": one
        for name, text in (("positive", "a red balloon above water"), ("negative", ""))
        for kind, one in {
            "text": node("CLIPTextEncode", clip=["clip", 0], text=text),
            "picture": node(
                "ReferenceLatent", conditioning=[f"{name} text", 0], latent=["encode", 0]
            ),
        }.items()
    }
    return {
        "unet": node(
            "UNETLoader", unet_name="qwen_image_layered_bf16.safetensors", weight_dtype="default"
        ),
        "clip": node(
            "CLIPLoader", clip_name="qwen_2.5_vl_7b.safetensors", type="qwen_image",
            device="default",
        ),
        "vae": node("VAELoader", vae_name="qwen_image_layered_vae.safetensors"),
        "shift": node("ModelSamplingAuraFlow", model=["unet", 0], shift=1.0),
        "load": node("LoadImage", image="a picture that is not here.png"),
        "encode": node("VAEEncode", pixels=["load", 0], vae=["vae", 0]),
        **prompts,
        "empty": node(LAYERS, width=640, height=640, layers=2, batch_size=1),
        "sampler": node(
            "KSampler", model=["shift", 0], positive=["positive picture", 0],
            negative=["negative picture", 0], latent_image=["empty", 0], seed=1, steps=20, cfg=2.5,
            sampler_name="euler", scheduler="simple", denoise=1.0,
        ),
        "cut": node("LatentCut", samples=["sampler", 0], dim="t", index=1, amount=2),
        "batch": node("LatentCutToBatch", samples=["cut", 0], dim="t", slice_size=1),
        "decode": node("VAEDecode", samples=["batch", 0], vae=["vae", 0]),
        "save": node("SaveImage", images=["decode", 0], filename_prefix="layers"),
    }  # fmt: skip


BAD = {
    "no JSON": "{",
    "a list": "[1, 2]",
    "unknown node": {"1": node("NodeOfAPackThatIsNotHere")},
    "no sampler": {"1": node("EmptyImage", width=64, height=64, batch_size=1, color=0)},
    "damaged": {"nodes": [{"id": 1}], "links": [[1]]},
    "missing input": {**unrecorded(painting()), "decode": node("VAEDecode")},
}


@pytest.fixture(scope="module")
def tried(tmp_path_factory) -> tuple[int, dict[str, dict[str, Any]]]:
    """The exit code and the rows by file of one run over everything."""
    folder = tmp_path_factory.mktemp("workflows")
    for file in (*(f"{name}.json" for name in GALLERY), *(f"models/{n}.json" for n in MODELS)):
        (folder / Path(file).name).write_bytes((WORKFLOWS / file).read_bytes())
    first = (WORKFLOWS / "api" / "first_masks.json").read_bytes()
    (folder / "first_masks_api.json").write_bytes(first)
    others = {
        **BAD,
        "layered": layered(),
        **{kind: sampled_by(kind) for kind in ("Harmful", "Restless")},
        KILLING: sampled_by("Killing"),
    }
    for name, content in others.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / f"{name}.json").write_text(text)
    pack = tmp_path_factory.mktemp("packs") / "harmful_pack"
    pack.mkdir()
    (pack / "__init__.py").write_text(HARMFUL)
    out = tmp_path_factory.mktemp("out") / "table.json"
    code = workflows.main([str(folder), "--out", str(out), "--custom-nodes", str(pack.parent)])
    return code, {Path(row["file"]).stem: row for row in json.loads(out.read_text())}


@pytest.mark.parametrize("name", [*GALLERY, "first_masks_api"])
def test_the_gallery_is_recorded_and_no_bit_changes(tried, name):
    row = tried[1][name]
    if name in UNSAMPLED:
        assert row["reason"] == "no sampler"
        return
    assert (row["baseline"], row["recorded"], row["bits"]) == ("yes", "yes", "same"), row
    assert row["compared"] >= 1
    # where a latent was pasted into another one, maps of what is decoded cannot be
    assert (
        row["maps"] == "2 of 3" if "LatentCompositeMasked" in row["reason"] else not row["reason"]
    )


@pytest.mark.parametrize("name", MODELS)
def test_every_family_has_maps_of_every_picture(tried, name):
    row = tried[1][name]
    if row["baseline"] != "yes":  # an older ComfyUI without the family or its nodes
        assert "unknown nodes: " in row["reason"] or "This ComfyUI has no " in row["reason"], row
        return
    assert (row["recorded"], row["bits"], row["reason"]) == ("yes", "same", ""), row
    found, wanted = row["maps"].split(" of ")
    assert found == wanted and row["compared"] >= 2


def test_layers_cut_out_of_a_latent_have_maps(tried):
    from comfy_extras import nodes_qwen

    row = tried[1]["layered"]
    if not hasattr(nodes_qwen, LAYERS):  # ComfyUI 0.3.64
        assert row["reason"].startswith("unknown nodes: ") and LAYERS in row["reason"]
        return
    assert (row["bits"], row["compared"], row["maps"]) == ("same", 3, "2 of 2"), row


@pytest.mark.parametrize(
    "name, baseline, reason",
    [
        ("no JSON", "-", "no JSON: "),
        ("a list", "-", "no workflow: "),
        ("unknown node", "-", "unknown nodes: NodeOfAPackThatIsNotHere"),
        ("no sampler", "-", "no sampler"),
        ("damaged", "-", "damaged workflow: "),
        ("missing input", "in part", "refused by ComfyUI: keep decode:0"),
        (KILLING, "no", "the server ended: "),
    ],
)
def test_what_cannot_run_is_an_outcome_with_a_reason(tried, name, baseline, reason):
    row = tried[1][name]
    assert row["reason"].startswith(reason), row
    assert (row["baseline"], row["recorded"], row["bits"]) == (baseline, "-", "-")


def test_a_changed_picture_is_told(tried):
    code, rows = tried
    assert code == 1
    assert {name for name, row in rows.items() if row["bits"] == "changed"} == {"Harmful"}
    assert "keep sampler:0" in rows["Harmful"]["reason"]


def test_what_never_repeats_is_not_called_changed(tried):
    assert tried[1]["Restless"]["bits"] == "not repeatable"


def test_only_a_changed_picture_is_a_failure():
    rows = [workflows.Row("a", "no", reason="no sampler"), workflows.Row("b", bits="same")]
    assert workflows.exit_code(rows) == 0
    assert workflows.exit_code([*rows, workflows.Row("c", bits="changed")]) == 1


class FakeServer:
    """Ends at its first prompt if it is the first server."""

    started = 0

    def __init__(self) -> None:
        FakeServer.started += 1
        self.first = FakeServer.started == 1
        self.stopped = False

    def object_info(self) -> dict[str, Any]:
        return {}

    def queue(self, prompt: Any, *, check: bool) -> Result:
        if self.first:
            raise ConnectionResetError("gone")
        return Result("1", outputs={"a": {"kept": ['"text"']}})

    def stop(self) -> None:
        self.stopped = True


def test_a_server_that_ended_is_started_anew_for_the_next_workflow(monkeypatch, tmp_path):
    monkeypatch.setattr(workflows.Bench, "start", lambda _: FakeServer())
    bench = workflows.Bench(tmp_path, tmp_path)
    ended = bench.server
    assert bench.run({}) == ({}, "the server ended: gone")
    assert ended.stopped
    assert bench.run({}) == ({"a": ["text"]}, "")
    assert FakeServer.started == 2


# --- reading what the page saves ------------------------------------------------------------------

KNOWN = {
    "Number": {
        "input": {"required": {"seed": ["INT", {"control_after_generate": True}],
                               "size": ["INT", {"default": 8}]}},
        "output": ["INT"],
    },
    "Pass": {"input": {"required": {"value": ["INT", {"forceInput": True}]}}, "output": ["INT"]},
}  # fmt: skip


def shown(name: int, kind: str, values: list = [], link: int | None = None, **more) -> dict:  # noqa: B006
    slots = [] if link is None else [{"name": "value", "type": "INT", "link": link}]
    outputs = [{"name": "out", "type": "INT"}]
    return {
        "id": name, "type": kind, "widgets_values": values, "inputs": slots, "outputs": outputs,
        **more,
    }  # fmt: skip


def saved(tmp_path: Path, *nodes: dict, links: list, **more: Any) -> Path:
    file = tmp_path / "page.json"
    file.write_text(json.dumps({"nodes": nodes, "links": links, **more}))
    return file


def test_widgets_have_names_and_links_pass_reroutes_and_bypassed_nodes(tmp_path):
    file = saved(
        tmp_path,
        shown(1, "Number", [5, "randomize", 7]),
        shown(2, "Reroute", link=1),
        shown(3, "Pass", link=2, mode=4),
        shown(4, "Pass", link=3),
        shown(5, "Number", [6], mode=2),
        shown(6, "Note", ["text"]),
        links=[[1, 1, 0, 2, 0, "INT"], [2, 2, 0, 3, 0, "INT"], [3, 3, 0, 4, 0, "INT"]],
    )
    assert read(file, KNOWN) == {
        "1": node("Number", seed=5, size=7),
        "4": node("Pass", value=["1", 0]),
    }


def test_subgraphs_are_taken_apart(tmp_path):
    inner = {
        "id": "a-subgraph",
        "inputs": [{"name": "value", "type": "INT"}],
        "outputs": [{"name": "out", "type": "INT", "linkIds": [12]}],
        "nodes": [shown(1, "Pass", link=11)],
        "links": [
            {"id": 11, "origin_id": -10, "origin_slot": 0, "target_id": 1, "target_slot": 0},
            {"id": 12, "origin_id": 1, "origin_slot": 0, "target_id": -20, "target_slot": 0},
        ],
    }
    file = saved(
        tmp_path,
        shown(1, "Number", [5, "fixed", 7]),
        shown(2, "a-subgraph", link=1),
        shown(3, "Pass", link=2),
        links=[[1, 1, 0, 2, 0, "INT"], [2, 2, 0, 3, 0, "INT"]],
        definitions={"subgraphs": [inner]},
    )
    assert read(file, KNOWN) == {
        "1": node("Number", seed=5, size=7),
        "2:1": node("Pass", value=["1", 0]),
        "3": node("Pass", value=["2:1", 0]),
    }


def test_a_subgraph_within_itself_is_refused(tmp_path):
    inner = {"id": "a", "inputs": [], "outputs": [], "nodes": [shown(1, "a")], "links": []}
    file = saved(tmp_path, shown(1, "a"), links=[], definitions={"subgraphs": [inner]})
    with pytest.raises(UnusableError, match="subgraphs lie in each other"):
        read(file, KNOWN)
