"""A run leaves nothing behind but its recording."""

import gc
import tracemalloc

import comfy.model_management
import comfy.sample
import comfy.samplers
import pytest
import torch
from conceptattention.conceptattention_core import ConceptAttentionError
from conceptattention.conceptattention_core.hosts.comfyui import patch
from conceptattention.conceptattention_core.hosts.comfyui.call import CallForward
from conceptattention.conceptattention_core.hosts.comfyui.run import Run
from conceptattention.conceptattention_core.hosts.comfyui.store import STORE
from conceptattention.conceptattention_core.recording import Recorder
from torch import Tensor


def frozen(value):
    """Dicts and lists by content, everything else by identity."""
    if isinstance(value, dict):
        return {key: frozen(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [frozen(item) for item in value]
    return id(value)


def test_the_second_run_equals_the_first_and_a_new_seed_does_not(tiny):
    model = tiny.recorded()
    first = STORE.find(tiny.sample(model)).scores
    assert torch.equal(STORE.find(tiny.sample(model)).scores, first)
    assert not torch.allclose(STORE.find(tiny.sample(model, seed=1)).scores, first)


def test_samplers_on_one_recorded_model_keep_apart(tiny):
    model = tiny.recorded()
    runs = [
        {"seed": 0},
        {"seed": 1, "steps": 3},
        {"size": (1, 8, 6)},
        {"start": tiny.latent(2, 5, 7, seed=9), "denoise": 0.5},
    ]
    alone = [STORE.find(tiny.sample(tiny.recorded(), **run)).scores for run in runs]
    STORE.clear()
    latents = [tiny.sample(model, **run) for run in runs]
    for latent, scores in zip(latents, alone, strict=True):
        assert torch.equal(STORE.find(latent).scores, scores)


def test_two_recordings_of_one_picture_are_told_apart_by_their_model(tiny):
    models = [tiny.recorded("cat, sky"), tiny.recorded("dog, sea")]
    latents = [tiny.sample(model) for model in models]
    assert torch.equal(*latents)
    for model, latent in zip(models, latents, strict=True):
        spec = patch.spec_of(model)
        assert STORE.find(latents[0], spec).concepts is spec.concepts
        assert STORE.find(latent).concepts is spec.concepts  # the very tensor tells, too
    with pytest.raises(ConceptAttentionError, match="'dog, sea' and of 'cat, sky'"):
        STORE.find(latents[0].clone())


def test_recording_a_recorded_model_replaces_what_it_records(tiny):
    model = tiny.recorded("dog, sea", model=tiny.recorded("cat, sky"))
    latent = tiny.sample(model)
    assert STORE.find(latent).concepts.names == ("dog", "sea")
    with pytest.raises(ConceptAttentionError, match="No concepts were recorded"):
        STORE.find(latent, patch.spec_of(tiny.recorded("cat, sky")))


def test_a_clone_of_a_recorded_model_records(tiny):
    latent = tiny.sample(tiny.recorded().clone())
    assert STORE.find(latent).concepts.names == ("cat", "red dog", "sky")


def test_the_model_that_was_recorded_stays_as_it_was(tiny):
    plain = tiny.model()
    before = frozen([plain.model_options, plain.wrappers, plain.attachments])
    recorded = tiny.recorded()
    given = frozen([recorded.model_options, recorded.wrappers, recorded.attachments])
    weights = {name: value.clone() for name, value in plain.model.state_dict().items()}
    prompt = tiny.prompt(1)
    kept = [prompt[0][0].clone(), prompt[0][1]["pooled_output"].clone()]

    tiny.sample(recorded, cfg=3.0, positive=prompt)

    assert frozen([plain.model_options, plain.wrappers, plain.attachments]) == before
    assert frozen([recorded.model_options, recorded.wrappers, recorded.attachments]) == given
    assert all(torch.equal(plain.model.state_dict()[name], w) for name, w in weights.items())
    assert torch.equal(prompt[0][0], kept[0])
    assert torch.equal(prompt[0][1]["pooled_output"], kept[1])
    with pytest.raises(ConceptAttentionError, match="No concepts were recorded"):
        STORE.find(tiny.sample(plain, seed=4))


@pytest.mark.parametrize(
    "trouble", [RuntimeError, comfy.model_management.InterruptProcessingException]
)
def test_a_run_that_breaks_off_leaves_no_trace(tiny, trouble):
    there = living(Run, CallForward, Recorder)
    model = tiny.recorded()
    whole = STORE.find(tiny.sample(model)).scores
    STORE.clear()
    before = frozen(model.model_options)

    def break_off(step, x0, x, total):
        raise trouble("stop")

    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(tiny.prompt(1), tiny.prompt(2))
    with pytest.raises(trouble):
        guider.sample(
            tiny.latent(1, 5, 7), tiny.empty(1, 5, 7),
            comfy.samplers.sampler_object("euler"), torch.tensor([1.0, 0.5, 0.0]),
            callback=break_off, seed=0, disable_pbar=True,
        )  # fmt: skip
    assert len(STORE) == 0
    assert frozen(model.model_options) == before
    assert patch.KEY not in guider.model_options["transformer_options"]
    assert not made_since(there, Run, CallForward, Recorder)
    assert torch.equal(STORE.find(tiny.sample(model)).scores, whole)


def living(*kinds: type) -> list:
    gc.collect()
    return [thing for thing in gc.get_objects() if type(thing) in kinds]


def made_since(there: list, *kinds: type) -> list:
    """What is alive of these kinds and was not when `there` was listed."""
    known = set(map(id, there))
    return [thing for thing in living(*kinds) if id(thing) not in known]


def held() -> dict[str, int]:
    """What is alive: bytes allocated by our code, tensors, recordings."""
    gc.collect()
    ours = tracemalloc.Filter(True, "*conceptattention_core*")
    traces = tracemalloc.take_snapshot().filter_traces([ours]).traces
    return {
        "bytes": sum(trace.size for trace in traces),
        "tensors": len(living(Tensor)),
        "filed": len(STORE),
    }


def test_a_hundred_runs_leave_memory_flat(tiny, monkeypatch):
    there = living(Run, CallForward, Recorder)
    model = tiny.recorded()
    tiny.sample(model, (1, 4, 4), steps=1, seed=100)
    monkeypatch.setattr(STORE, "capacity", 10 * STORE._nbytes())
    tracemalloc.start()
    try:
        seen = []
        for seed in range(100):
            tiny.sample(model, (1, 4, 4), steps=1, seed=seed)
            if seed in (39, 69, 99):
                seen.append(held())
    finally:
        tracemalloc.stop()
    before, _, after = seen
    assert 2 < after["filed"] <= before["filed"] < 40
    assert after["tensors"] <= before["tensors"]
    bytes_ = [held["bytes"] for held in seen]
    # 30 runs and 30 more: what is left of each would show in both, what is made once in one
    assert min(bytes_[1] - bytes_[0], bytes_[2] - bytes_[1]) < 1024, bytes_
    assert not made_since(there, Run, CallForward, Recorder)


def test_a_call_is_gone_with_its_tensors_as_soon_as_it_is_over(tiny):
    model = tiny.recorded()
    tiny.sample(model, (1, 4, 4), steps=1)
    gc.collect()
    gc.disable()  # what refers to itself stays until it is collected, and so does its memory
    try:
        tiny.sample(model, (1, 4, 4), steps=1)
        assert not [
            thing for thing in gc.get_objects() if type(thing) in (Run, CallForward, Recorder)
        ]
    finally:
        gc.enable()
