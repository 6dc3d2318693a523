"""Mistakes that users make: each is an error or a notice that says what to do."""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from ..comfyui.graphs import (
    WORDS,
    WORKFLOWS,
    changed,
    maps,
    masks,
    node,
    painting,
    picked,
    pictures,
    recorded,
)
from .common import latent, put_example, saved, touched, twin, with_demo_model

FIRST = "first_masks.json"

"""First masks with each family of models."""


@pytest.fixture(autouse=True, scope="module")
def _example(server) -> None:
    put_example(server)


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
