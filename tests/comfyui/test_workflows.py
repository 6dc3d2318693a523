"""The workflows of the pack and the graphs that users build from it, on a real server."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from .graphs import (
    WORDS,
    WORKFLOWS,
    changed,
    maps,
    masks,
    masks_of,
    node,
    painting,
    picked,
    pictures,
    recorded,
    unrecorded,
)

FIRST = "first_masks.json"
FILES = sorted(WORKFLOWS.glob("*.json"))
MODELS = sorted((WORKFLOWS / "models").glob("*.json"))
"""First masks with each family of models."""
NOTES = {"MarkdownNote", "Note"}  # live on the page alone; the server does not know them
WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}

each_workflow = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)


def read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8"))


def twin(file: Path) -> dict[str, Any]:
    """The same workflow in API format."""
    return read(file.parent / "api" / file.name)


# --- the files ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def known(server) -> dict[str, Any]:
    """object_info of a server that has every model file which a workflow says it needs."""
    pretend_models(server)
    return server.object_info()


def pretend_models(server) -> None:
    """Empty files under the names that workflows load."""
    for file in (*FILES, *MODELS):
        for wanted in read(file)["nodes"]:
            for model in wanted["properties"].get("models", []):
                folder = server.folder / "models" / model["directory"]
                folder.mkdir(parents=True, exist_ok=True)
                (folder / model["name"]).touch()
            if wanted["type"] == "UNETLoader":  # not every model has a known place to come from
                name, _ = wanted["widgets_values"]
                (server.folder / "models" / "diffusion_models" / name).touch()


@pytest.fixture(autouse=True, scope="module")
def _example(server) -> None:
    put_example(server)


def put_example(server) -> None:
    """The picture that every ComfyUI brings and workflows load; here another one."""
    down, right = np.mgrid[0:256, 0:256].astype(np.uint8)
    picture = np.stack([right, np.where(down > 128, 200, 90), 255 - down], axis=-1)
    Image.fromarray(picture.astype(np.uint8)).save(server.folder / "input" / "example.png")


def inputs_of(info: dict[str, Any]) -> dict[str, tuple[Any, dict[str, Any]]]:
    """Type and options of every input of a node class, in order."""
    declared = [*info["input"].get("required", {}).items()]
    declared += info["input"].get("optional", {}).items()
    return {name: (spec[0], spec[1] if len(spec) > 1 else {}) for name, spec in declared}


def choices(kind: Any, options: dict[str, Any]) -> list[Any] | None:
    """What a combo accepts: older nodes put the list in place of the type."""
    return kind if isinstance(kind, list) else options.get("options")


def is_widget(kind: Any, options: dict[str, Any]) -> bool:
    return (isinstance(kind, list) or kind in WIDGETS) and not options.get("forceInput")


def widget_values(shown: dict[str, Any], info: dict[str, Any]) -> dict[str, Any]:
    values = iter(shown["widgets_values"])
    named = {}
    for name, (kind, options) in inputs_of(info).items():
        if is_widget(kind, options):
            named[name] = next(values)
            if options.get("control_after_generate") or options.get("image_upload"):
                next(values)  # the page's own: fixed, increment, randomize; the upload button
    assert list(values) == [], f"{shown['type']} has more values than widgets"
    return named


def to_api(workflow: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    """What the page makes of a workflow when Run is pressed."""
    sources = {link: [str(node), slot] for link, node, slot, *_ in workflow["links"]}
    prompt = {}
    for shown in workflow["nodes"]:
        if shown["type"] not in NOTES:
            inputs = widget_values(shown, known[shown["type"]])
            for slot in shown["inputs"]:
                if slot["link"] is not None:
                    inputs[slot["name"]] = sources[slot["link"]]
            prompt[str(shown["id"])] = {"class_type": shown["type"], "inputs": inputs}
    return prompt


def test_there_are_workflows():
    both = ("first_masks", "change_only_this", "swap_background", "grade_one_thing",
            "layers_to_file", "regions_that_find_themselves", "compare_spaces", "seed_picker",
            "look_inside")  # fmt: skip
    expected = {*both, *(f"{name}_flux_dev" for name in both)}
    assert {file.stem for file in FILES} == expected | {"photo_to_masks", "picture_to_masks_demo"}
    assert {file.name for file in FILES} == {f.name for f in (WORKFLOWS / "api").glob("*.json")}


@pytest.fixture(params=[*FILES, *MODELS], ids=lambda file: file.stem)
def served(request, known) -> Path:
    """A workflow whose nodes and kinds of models this ComfyUI has."""
    if request.param in MODELS:
        for shown in read(request.param)["nodes"]:
            info = known.get(shown["type"])
            if info is None and shown["type"] not in NOTES:
                pytest.skip(f"this ComfyUI has no {shown['type']}")
            kind = widget_values(shown, info).get("type") if "CLIPLoader" in shown["type"] else None
            if kind is not None and kind not in choices(*inputs_of(info)["type"]):
                pytest.skip(f"this ComfyUI does not load {kind}")
    return request.param


def test_nodes_inputs_and_values_are_accepted(known, served):
    for shown in read(served)["nodes"]:
        if shown["type"] in NOTES:
            continue
        assert shown["type"] in known
        declared = inputs_of(known[shown["type"]])
        assert {slot["name"] for slot in shown["inputs"]} <= set(declared)
        for name, value in widget_values(shown, known[shown["type"]]).items():
            kind, options = declared[name]
            allowed = choices(kind, options)
            if allowed is not None:
                assert value in allowed, f"{shown['type']}: {name}"
            else:
                expected = {"INT": int, "FLOAT": (int, float), "STRING": str, "BOOLEAN": bool}
                assert isinstance(value, expected[kind]), f"{shown['type']}: {name}"
                if kind in ("INT", "FLOAT"):
                    assert options["min"] <= value <= options["max"], f"{shown['type']}: {name}"


def test_links_fit_at_both_ends(known, served):
    workflow = read(served)
    nodes = {shown["id"]: shown for shown in workflow["nodes"]}
    assert len(nodes) == len(workflow["nodes"])
    assert max(nodes) <= workflow["last_node_id"]
    leaving = {(n, s): set(out["links"] or []) for n, s, out in slots(nodes, "outputs")}
    arriving = {(n, s): slot for n, s, slot in slots(nodes, "inputs") if slot["link"] is not None}
    for link, source, out, target, into, kind in workflow["links"]:
        assert link <= workflow["last_link_id"]
        leaving[source, out].remove(link)
        slot = arriving.pop((target, into))
        assert slot["link"] == link
        assert known[nodes[source]["type"]]["output"][out] == kind
        assert inputs_of(known[nodes[target]["type"]])[slot["name"]][0] == kind
    assert (any(leaving.values()), arriving) == (False, {}), "a slot names a link that is not there"


def slots(nodes: dict[int, dict[str, Any]], side: str):
    return ((n, s, slot) for n, shown in nodes.items() for s, slot in enumerate(shown[side]))


@each_workflow
def test_the_api_twin_is_the_same_graph(known, file):
    without_titles = {
        name: {"class_type": node["class_type"], "inputs": node["inputs"]}
        for name, node in twin(file).items()
    }
    assert to_api(read(file), known) == without_titles


@each_workflow
def test_the_template_browser_shows_it_with_a_picture(server, file):
    offered = server.get("/api/workflow_templates")
    assert file.stem in offered["conceptattention"]
    place = f"/api/workflow_templates/conceptattention/{file.stem}"
    assert server.get(f"{place}.json") == read(file)
    picture = server.get(f"{place}.jpg")
    assert picture == file.with_suffix(".jpg").read_bytes()
    assert len(picture) < 100_000
    with Image.open(file.with_suffix(".jpg")) as thumbnail:
        assert (thumbnail.format, thumbnail.width) == ("JPEG", 640)


# --- what they make -------------------------------------------------------------------------------

LOADERS = {"UNETLoader": 0, "DualCLIPLoader": 1, "VAELoader": 2}  # by the demo node's outputs


def with_demo_model(prompt: dict[str, Any]) -> dict[str, Any]:
    """A workflow tried with the small model and few steps: loaders of large ones are replaced by
    the demo node, and the size reduced. All else stays."""
    kinds = {name: one["class_type"] for name, one in prompt.items()}
    outputs = {name: LOADERS[kind] for name, kind in kinds.items() if kind in LOADERS}
    small = {"width": 256, "height": 256, "steps": 4}
    replaced = {"demo": node("ConceptAttentionDemoModel")} if outputs else {}
    for name, one in prompt.items():
        if name not in outputs:
            inputs = dict(one["inputs"])
            for key, value in inputs.items():
                if isinstance(value, int):
                    inputs[key] = small.get(key, value)
                elif isinstance(value, list) and value[0] in outputs:
                    inputs[key] = ["demo", outputs[value[0]]]
            replaced[name] = node(one["class_type"], **inputs)
    return replaced


@each_workflow
def test_every_node_of_it_runs_and_shows_something(server, file):
    prompt = with_demo_model(twin(file))
    for one in prompt.values():
        if one["class_type"] == "ConceptAttentionGate":
            one["inputs"]["coverage"] = 0.0  # four steps show little
    result = server.queue(prompt)
    assert {*result.executed, *result.cached} == set(prompt)
    shows = {"PreviewImage", "SaveImage", "MaskPreview", "ConceptAttentionOverlay",
             "ConceptAttentionSheet", "ConceptAttentionScores", "ConceptAttentionExplorer",
             "ConceptAttentionSaveLayers", "ConceptAttentionSaveMasks"}  # fmt: skip
    for name, one in prompt.items():
        if one["class_type"] in shows:
            assert any(result.outputs[name].values()), one["class_type"]


@pytest.mark.parametrize("file", [f for f in FILES if "masks" in f.stem], ids=lambda f: f.stem)
def test_it_paints_and_masks_every_word(server, file):
    prompt = with_demo_model(twin(file))
    ids = {one["class_type"]: name for name, one in prompt.items()}
    views = [n for n, one in prompt.items() if one["class_type"] == "ConceptAttentionOverlay"]
    prompt["names"] = node("PreviewAny", source=[ids["ConceptAttentionMasks"], 1])
    asked = ids.get("ConceptAttentionRecord") or ids["ConceptAttentionLocate"]
    lines = prompt[asked]["inputs"]["concepts"].splitlines()
    words = [line.partition(":")[0].strip() for line in lines]

    result = server.queue(prompt)
    if "SaveImage" in ids:
        (picture,) = pictures(server, result, ids["SaveImage"])
        assert picture.shape == (256, 256, 3)
    assert list(result.outputs["names"]["text"]) == words
    drawn = masks(server, result, ids["PreviewImage"])
    assert drawn.shape == (len(words), 256, 256)
    assert set(np.unique(drawn)) == {0, 255}
    for name in views:
        (view,) = pictures(server, result, name)
        if prompt[name]["inputs"]["view"] == "regions":
            assert view.shape[1] == 256, "as wide as the picture"
        assert view.shape[0] > 256, "and taller, because of the legend"


@pytest.mark.parametrize(
    "settings",
    [{}, {"batch": 3}, {"cfg": 1.0}, {"size": (264, 200)}],
    ids=["plain", "batch", "cfg 1", "264 x 200"],
)
def test_recording_changes_no_pixel(server, settings):
    graph = painting(**settings)
    listened = server.queue(graph)
    alone = server.queue(unrecorded(graph))
    assert "sampler" in alone.executed
    heard, plain = (np.stack(pictures(server, run, "picture")) for run in (listened, alone))
    assert np.ptp(plain) > 50, "a picture, not a plain colour"
    assert (heard == plain).all()

    width, height = settings.get("size", (128, 128))
    batch = settings.get("batch", 1)
    assert plain.shape == (batch, height, width, 3)
    assert masks(server, listened).shape == (3 * batch, height, width)


def test_a_batch_has_masks_of_its_own_for_each_picture(server):
    result = server.queue(painting(batch=3))
    by_word = masks(server, result).reshape(3, 3, 128, 128)
    seen = {by_word[:, picture].tobytes() for picture in range(3)}
    assert len(seen) == 3


def test_soft_masks_reach_both_ends_exactly(server):
    graph = changed(painting(), masks={"soft": True, "keep_absent": True})
    soft = masks(server, server.queue(graph))
    assert soft.min(axis=(1, 2)).tolist() == [0] * 3
    assert soft.max(axis=(1, 2)).tolist() == [255] * 3
    assert len(np.unique(soft)) > 50


# --- what users do with masks ---------------------------------------------------------------------


def latent(server, result, name: str) -> np.ndarray:
    """What a SaveLatent node wrote, b c y x."""
    (saved,) = result.outputs[name]["latents"]
    return load_file(server.folder / "output" / saved["subfolder"] / saved["filename"])[
        "latent_tensor"
    ]


def touched(mask: np.ndarray) -> np.ndarray:
    """The latent pixels (y x) over which a mask h w has any part."""
    height, width = mask.shape
    return mask.reshape(height // 8, 8, width // 8, 8).max(axis=(1, 3)) > 0


def again(graph: dict[str, Any], start: list, **inputs: Any) -> dict[str, Any]:
    """A second KSampler over what a first one made."""
    settings = {**graph["sampler"]["inputs"], "latent_image": start, "seed": 9, **inputs}
    return node("KSampler", **settings)


def saved(source: list) -> dict[str, Any]:
    return node("SaveLatent", samples=source, filename_prefix="latents/test")


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


# --- any sampler node -----------------------------------------------------------------------------


def test_both_stages_of_ksampler_advanced_have_maps(server):
    graph = painting(steps=4)
    settings = graph.pop("sampler")["inputs"]
    del settings["denoise"]
    settings["noise_seed"] = settings.pop("seed")
    graph["sampler"] = node("KSamplerAdvanced", **{
        **settings, "add_noise": "enable", "start_at_step": 0, "end_at_step": 2,
        "return_with_leftover_noise": "enable",
    })  # fmt: skip
    graph["second"] = node("KSamplerAdvanced", **{
        **settings, "add_noise": "disable", "start_at_step": 2, "end_at_step": 10000,
        "return_with_leftover_noise": "disable", "latent_image": ["sampler", 0],
    })  # fmt: skip
    graph |= masks_of(["second", 0], "second ")
    graph = changed(graph, decode={"samples": ["second", 0]})
    for name in ("masks", "second masks"):
        graph[name]["inputs"]["keep_absent"] = True
    result = server.queue(graph)
    first, second = masks(server, result), masks(server, result, "second shown")
    assert first.shape == second.shape == (3, 128, 128)
    assert set(np.unique(first)) == set(np.unique(second)) == {0, 255}
    assert (first != second).any(), "each stage has a recording of its own"


def test_both_outputs_of_sampler_custom_advanced_have_maps(server):
    graph = painting()
    settings = graph["sampler"]["inputs"]
    conditions = {key: settings[key] for key in ("model", "positive", "negative", "cfg")}
    graph["guider"] = node("CFGGuider", **conditions)
    graph["noise"] = node("RandomNoise", noise_seed=settings["seed"])
    graph["euler"] = node("KSamplerSelect", sampler_name="euler")
    graph["sigmas"] = node(
        "BasicScheduler", model=["record", 0], scheduler="simple", steps=3, denoise=1.0
    )
    graph["sampler"] = node(
        "SamplerCustomAdvanced",
        noise=["noise", 0],
        guider=["guider", 0],
        sampler=["euler", 0],
        sigmas=["sigmas", 0],
        latent_image=["empty", 0],
    )
    graph |= masks_of(["sampler", 1], "denoised ")
    result = server.queue(graph)
    drawn = masks(server, result)
    assert drawn.shape == (3, 128, 128) and drawn.any()
    assert (masks(server, result, "denoised shown") == drawn).all()
    assert (masks(server, server.queue(painting())) == drawn).all(), "as KSampler with this seed"


# --- mistakes -------------------------------------------------------------------------------------

NEVER_RECORDED = (
    "No Record Concepts lies before this latent: put it between the model and the sampler that "
    "made it."
)


def message(server, graph: dict[str, Any], at: str) -> str:
    result = server.queue(graph, check=False)
    assert result.error_node == at
    return result.error.strip()


def test_a_latent_that_was_never_recorded(server):
    graph = {**painting(), "maps": maps(["empty", 0])}
    assert message(server, graph, "maps") == NEVER_RECORDED


def test_a_latent_of_the_model_before_record(server):
    graph = changed(painting(seed=770_077), sampler={"model": ["demo", 0]})
    assert message(server, graph, "maps") == NEVER_RECORDED


def refusal(server, graph: dict[str, Any]) -> str:
    """Why the server runs nothing of a graph whose only end are its masks."""
    del graph["picture"]
    with pytest.raises(server.PromptError) as refused:
        server.queue(graph)
    assert refused.value.result is None
    return str(refused.value)


def test_an_unknown_name(server):
    graph = {**painting(), "pick": picked("dragon")}
    graph["convert"] = node("MaskToImage", mask=["pick", 0])
    expected = f"name - There is no concept named 'dragon'. Recorded: {WORDS}."
    assert refusal(server, graph).endswith(expected)


def test_no_concepts(server):
    graph = {**painting(), "record": recorded(" \n ")}
    assert (
        "concepts - No concepts were given. Write one per line or comma-separated, for example "
        "'balloon, sun, lake: calm water'."
    ) in refusal(server, graph)


def test_a_model_without_record(server):
    graph = painting()
    graph["maps"]["inputs"]["model"] = ["demo", 0]
    (told,) = server.queue(graph).outputs["maps"]["text"]
    assert told.startswith("The connected MODEL did not go through Record Concepts and was ignored")


def test_steps_that_were_not_sampled(server):
    graph = changed(painting(), maps={"steps": "7-9"})
    assert message(server, graph, "maps") == "Asked for steps '7-9', but there are 3: 0 to 2."


def decoded(prompt: dict[str, Any], title: str) -> str:
    """The node that shows what has this title."""
    (name,) = (name for name, one in prompt.items() if one.get("_meta", {}).get("title") == title)
    return name


@pytest.mark.parametrize("name", ["change_only_this", "swap_background"])
def test_beyond_the_feather_nothing_changes(server, name):
    """As it is, without fewer steps: in four no balloon shows."""
    named = twin(WORKFLOWS / f"{name}.json")
    prompt = dict(named)
    ids = {one["class_type"]: n for n, one in prompt.items()}
    pick = prompt[ids["ConceptAttentionPick"]]["inputs"]
    # a hard mask that holds all of the feather
    reach = {"feather": 0, "grow": pick["grow"] + 12 * (-1 if pick["invert"] else 1)}
    prompt["reach"] = node("ConceptAttentionPick", **{**pick, **reach})
    prompt["mask"] = node("MaskToImage", mask=["reach", 0])
    prompt["shown"] = node("PreviewImage", images=["mask", 0])
    kept = decoded(named, "Keep the rest")
    first = prompt[kept]["inputs"]["destination"]
    prompt["first"], prompt["second"] = saved(first), saved([kept, 0])
    result = server.queue(prompt)
    (before,) = pictures(server, result, decoded(named, "Before"))
    (after,) = pictures(server, result, decoded(named, "After"))
    (mask,) = masks(server, result)
    assert 0.02 < (mask > 0).mean() < 0.98  # a balloon, or all around its middle
    assert (after[mask == 0] == before[mask == 0]).all()
    assert (after[mask > 0] != before[mask > 0]).mean() > 0.1
    change = np.abs(latent(server, result, "second") - latent(server, result, "first"))[0].max(0)
    assert change[~touched(mask)].max() == 0
    assert change[touched(mask)].mean() > 0.1


def test_only_one_thing_is_graded(server):
    prompt = with_demo_model(twin(WORKFLOWS / "grade_one_thing.json"))
    named = twin(WORKFLOWS / "grade_one_thing.json")
    result = server.queue(prompt)
    (before,) = pictures(server, result, decoded(named, "Before"))
    (after,) = pictures(server, result, decoded(named, "After"))
    (picked_mask,) = pictures(server, result, decoded(named, "How much is graded"))
    mask = picked_mask[..., 0]
    change = np.abs(after.astype(int) - before)
    assert change[mask == 0].max() <= 1  # what is nearly 0 was rounded down
    assert change[mask == 255].mean() > 5


def test_a_layered_file_holds_every_word_that_is_shown(server):
    psd_tools = pytest.importorskip("psd_tools")
    prompt = with_demo_model(twin(WORKFLOWS / "layers_to_file.json"))
    result = server.queue(prompt)
    files = sorted((server.folder / "output" / "ConceptAttention").glob("layers_*.psd"))
    psd = psd_tools.PSDImage.open(files[-1])
    assert psd.size == (256, 256)
    words = twin(WORKFLOWS / "layers_to_file.json")
    (recorded_words,) = (
        one["inputs"]["concepts"].split()
        for one in words.values()
        if one["class_type"] == "ConceptAttentionRecord"
    )
    names = [layer.name for layer in psd]
    assert names[0] == "picture" and len(names) > 1
    assert [name for name in recorded_words if name in names] == names[1:]
    assert result.outputs


def test_the_two_spaces_are_recorded_from_one_picture(server):
    named = twin(WORKFLOWS / "compare_spaces.json")
    prompt = with_demo_model(named)
    result = server.queue(prompt)
    (ours,) = pictures(server, result, decoded(named, "Output space: the paper's: heat maps"))
    (theirs,) = pictures(server, result, decoded(named, "Cross-attention: heat maps"))
    assert ours.shape == theirs.shape
    assert (ours != theirs).mean() > 0.05


def test_the_gate_lets_through_what_shows_the_words(server):
    named = twin(WORKFLOWS / "seed_picker.json")
    prompt = with_demo_model(named)
    ids = {one["class_type"]: n for n, one in prompt.items()}
    gate = prompt[ids["ConceptAttentionGate"]]["inputs"]
    gate |= {"names": "sky", "coverage": 0.0}
    assert len(pictures(server, server.queue(prompt), ids["SaveImage"])) == 4
    gate["coverage"] = 100.0
    result = server.queue(prompt, check=False)
    assert ids["SaveImage"] not in result.outputs
    assert "none of 4 pictures shows sky" in result.error


def test_some_seeds_pass_and_others_do_not(server):
    """As it is, without fewer steps: the workflow is to show what it is for."""
    named = twin(WORKFLOWS / "seed_picker.json")
    result = server.queue(named)
    painted = pictures(server, result, decoded(named, "All seeds"))
    chosen = pictures(server, result, decoded(named, "Those that show what was asked for"))
    assert 0 < len(chosen) < len(painted) == 4
    assert all(any((one == other).all() for other in painted) for one in chosen)


def test_a_region_changes_its_own_place(server):
    """The second run beside the same run without regions: another balloon, in its place alone."""
    named = twin(WORKFLOWS / "regions_that_find_themselves.json")
    ids = {one["class_type"]: n for n, one in named.items()}
    regions, drawn = (
        named[ids[f"ConceptAttention{kind}"]]["inputs"] for kind in ("Regions", "Masks")
    )
    settings = {**drawn, "feather": 0, "name": "balloon", "invert": False}
    named["pick"] = node("ConceptAttentionPick", **settings)
    named["convert"] = node("MaskToImage", mask=["pick", 0])
    named["shown"] = node("PreviewImage", images=["convert", 0])
    second, again = decoded(named, "Second run"), decoded(named, "Paint with regions")
    result = server.queue(named)
    (mask,) = masks(server, result)
    (steered,) = pictures(server, result, second)
    plain = changed(named, **{again: {"positive": regions["conditioning"]}})
    (unsteered,) = pictures(server, server.queue(plain), second)
    inside = mask > 0
    assert 0.02 < inside.mean() < 0.2
    change = np.abs(steered.astype(int) - unsteered).mean(-1)
    assert change[inside].mean() > 10 * change[~inside].mean()
    (red, green, blue), (_, before, _) = (
        np.median(one[inside], axis=0) for one in (steered, unsteered)
    )
    assert red > 200 and green > 150 and blue < 100, "yellow"
    assert before < 100, "as the prompt for the whole picture has it: red"


def test_a_script_queues_a_workflow_and_collects_its_masks(server, tmp_path):
    def collect(*more: str) -> subprocess.CompletedProcess:
        command = [
            sys.executable,
            WORKFLOWS / "api" / "collect_masks.py",
            WORKFLOWS / "api" / FIRST,
        ]
        return subprocess.run(
            [*command, "--server", server.url, "--out", tmp_path, *more],
            capture_output=True,
            text=True,
        )

    settings = ("Record Concepts.concepts=sky, red balloon: balloon", "KSampler.steps=2")
    done = collect(*(word for setting in settings for word in ("--set", setting)))
    assert done.returncode == 0, done.stderr
    names = sorted(file.name.rsplit("_", 2)[0] for file in tmp_path.iterdir())
    assert names == ["masks", "red_balloon", "sky"]
    wrong = collect("--set", "Record Words.concepts=sky")
    assert "Nothing is called 'Record Words.concepts'" in wrong.stderr
