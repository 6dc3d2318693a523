"""Recording never costs the picture: whatever fails of ours is caught, and told with the maps."""

from collections.abc import Callable
from typing import Any

import comfy.model_management
import pytest
import torch
from conceptattention.conceptattention_core import ConceptAttentionError, forward
from conceptattention.conceptattention_core.concepts import parse
from conceptattention.conceptattention_core.hosts.comfyui import blocks, patch
from conceptattention.conceptattention_core.hosts.comfyui import call as calls
from conceptattention.conceptattention_core.hosts.comfyui.call import CallForward
from conceptattention.conceptattention_core.hosts.comfyui.families import family_of as of_model
from conceptattention.conceptattention_core.hosts.comfyui.guard import Guard
from conceptattention.conceptattention_core.hosts.comfyui.live import Live, View
from conceptattention.conceptattention_core.hosts.comfyui.run import Run
from conceptattention.conceptattention_core.hosts.comfyui.store import STORE, NotRecorded
from conceptattention.conceptattention_core.recording import Recorder, RecordSpec

from ....comfyui.tiny import CONCEPTS, TINY, Tiny

OOM = comfy.model_management.OOM_EXCEPTION
Interrupt = comfy.model_management.InterruptProcessingException
SIZE = (1, 4, 4)
OF_EACH_KIND = ("Flux.1", "ERNIE-Image", "HiDream")  # patched, by projections, by hooks


def failing(error: Exception, original: Callable | None = None, after: int = 0) -> Callable:
    """A function that fails once it was called `after` times."""
    calls = []

    def fail(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if original is not None and len(calls) <= after:
            return original(*args, **kwargs)
        raise type(error)(*error.args)  # one that is raised keeps its frames, and a run in them

    return fail


def family_of(tiny: Tiny) -> Any:
    return of_model(tiny.model().model.diffusion_model)


PLACES: dict[str, Callable[[Tiny], tuple[Any, str]]] = {
    "the grid": lambda tiny: (family_of(tiny), "grid"),
    "a run": lambda tiny: (Recorder, "__init__"),
    "finding the prompt": lambda tiny: (Run, "find_positive"),
    "what a call covers": lambda tiny: (Run, "visible_part"),
    "knowing the blocks": lambda tiny: (Run, "knows"),
    "a call": lambda tiny: (CallForward, "__init__"),
    "hanging on the blocks": lambda tiny: (
        patch,
        "hook_blocks" if family_of(tiny).hooked else "patch_blocks",
    ),
    "before a block": lambda tiny: (CallForward, "before_block"),
    "starting the stream": lambda tiny: (family_of(tiny), "start_stream"),
    "layout": lambda tiny: (family_of(tiny), "layout"),
    "modulation": lambda tiny: (family_of(tiny), "modulation"),
    "the rows of the prompt": lambda tiny: (CallForward, "positive"),
    "step": lambda tiny: (forward, "step"),
    "scores": lambda tiny: (calls, "rearrange"),
    "adding": lambda tiny: (Recorder, "add"),
    "keeping": lambda tiny: (Run, "_keep"),
    "finishing": lambda tiny: (Recorder, "finish"),
}
ERRORS = {
    "an error": RuntimeError("oh no"),
    "no memory": OOM("out of it"),
    "a refusal": ConceptAttentionError("Concepts cannot be recorded here."),
}


def check(tiny: Tiny, model: Any, plain: torch.Tensor, reason: str) -> None:
    """The picture is theirs, nothing is left behind, and the maps are refused with `reason`."""
    latent = tiny.sample(model, SIZE, cfg=3.0)
    assert torch.equal(latent, plain)
    assert patch.KEY not in model.model_options["transformer_options"]
    network = tiny.model().model.diffusion_model
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())
    with pytest.raises(ConceptAttentionError) as told:
        STORE.find(latent)
    assert reason in str(told.value)


@pytest.mark.parametrize("place", PLACES)
def test_what_fails_in_a_recording_leaves_the_picture_and_is_told(tiny, place, monkeypatch):
    plain = tiny.sample(tiny.model(), SIZE, cfg=3.0)
    model = tiny.recorded()
    where, name = PLACES[place](tiny)
    every = family_of(tiny).name in OF_EACH_KIND
    for error in list(ERRORS.values())[: None if every else 1]:
        with monkeypatch.context() as patched:
            patched.setattr(where, name, failing(error))
            check(tiny, model, plain, str(error))
        STORE.clear()


def test_what_fails_later_in_a_run_is_told_as_well(tiny, monkeypatch):
    plain = tiny.sample(tiny.model(), SIZE, cfg=3.0)
    model = tiny.recorded()
    for where, name in ((forward, "step"), (Recorder, "add")):
        with monkeypatch.context() as patched:
            fail = failing(ValueError("later"), getattr(where, name), after=1)
            patched.setattr(where, name, fail)
            check(tiny, model, plain, "could not be recorded: ValueError: later.")
        STORE.clear()


def test_hooks_on_a_part_of_the_blocks_are_taken_off_again(tiny, monkeypatch):
    if not family_of(tiny).hooked:
        pytest.skip("this family's blocks have a place for patches")
    plain = tiny.sample(tiny.model(), SIZE, cfg=3.0)
    named = "_before_block" if hasattr(blocks, "_before_block") else "hook_block"
    fail = failing(TypeError("second block"), getattr(blocks, named), after=1)
    projections = failing(TypeError("second block"), blocks.ProjectionHooks, after=1)
    monkeypatch.setattr(blocks, named, fail)
    monkeypatch.setattr(blocks, "ProjectionHooks", projections)
    check(tiny, tiny.recorded(), plain, "TypeError: second block.")


def test_filing_that_fails_leaves_the_picture_and_is_told(tiny):
    filed = []

    def file(latents: list, recorded: Any) -> None:
        if not isinstance(recorded, NotRecorded):
            raise OSError("no room")
        filed.append((latents, recorded))

    model = patch.record(tiny.model(), tiny.clip(), RecordSpec(parse(CONCEPTS)), file=file)
    latent = tiny.sample(model, SIZE)
    assert torch.equal(latent, tiny.sample(tiny.model(), SIZE))
    ((latents, recorded),) = filed
    assert torch.equal(latents[0], latent)
    assert recorded.reason.endswith("could not be recorded: OSError: no room.")


def test_a_preview_that_fails_costs_neither_picture_nor_maps(monkeypatch):
    tiny = TINY["Flux.1"]
    spec = RecordSpec(parse(CONCEPTS))
    scores = STORE.find(tiny.sample(tiny.recorded(), SIZE)).scores
    for where, name in ((View, "show"), (Live, "begin")):
        STORE.clear()
        with monkeypatch.context() as patched:
            patched.setattr(where, name, failing(RuntimeError("no preview")))
            model = patch.record(tiny.model(), tiny.clip(), spec, live=Live("cat", 1))
            latent = tiny.sample(model, SIZE)
        assert torch.equal(latent, tiny.sample(tiny.model(), SIZE))
        assert torch.equal(STORE.find(latent).scores, scores)


@pytest.mark.parametrize("error", [OOM("theirs"), Interrupt(), RuntimeError("theirs")])
def test_what_fails_in_the_model_itself_is_the_hosts(tiny, error):
    model = tiny.recorded()

    def fail(args, original):
        raise type(error)(*error.args)

    tiny.around(model, 1, fail)
    with pytest.raises(type(error)):
        tiny.sample(model, SIZE)
    assert len(STORE) == 0
    assert patch.KEY not in model.model_options["transformer_options"]
    network = tiny.model().model.diffusion_model
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())


@pytest.mark.parametrize("place", ["starting the stream", "step", "adding", "finishing"])
def test_the_wish_to_end_a_prompt_is_never_caught(place, monkeypatch):
    tiny = TINY["Flux.1"]
    where, name = PLACES[place](tiny)
    monkeypatch.setattr(where, name, failing(Interrupt()))
    with pytest.raises(Interrupt):
        tiny.sample(tiny.recorded(), SIZE)


def test_the_first_reason_counts_and_an_error_without_words_has_its_name():
    guard = Guard("Flux.1")
    for error in (KeyError(), ValueError("second")):
        with guard():
            raise error
    assert guard.reason == "Flux.1 could not be recorded: KeyError."
