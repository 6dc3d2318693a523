"""The slow path: models of no family whose joint blocks can be patched.

Here the families are forgotten, so that their own tiny models are strangers. What is heard then is
held against what the family hears, which the laws hold against the model itself.
"""

import gc
import importlib
from collections.abc import Callable
from dataclasses import replace

import comfy.latent_formats
import comfy.model_management
import pytest
import torch
from conceptattention.conceptattention_core import ConceptAttentionError
from conceptattention.conceptattention_core.attention import ATTEND, Method
from conceptattention.conceptattention_core.concepts import parse
from conceptattention.conceptattention_core.hosts.comfyui import families
from conceptattention.conceptattention_core.hosts.comfyui.families import unknown
from conceptattention.conceptattention_core.hosts.comfyui.locate import locate
from conceptattention.conceptattention_core.hosts.comfyui.store import STORE
from conceptattention.conceptattention_core.locating import LocateSpec
from conceptattention.conceptattention_core.recording import RecordSpec
from torch import Tensor

from ....comfyui.tiny import HERE, TINY, Tiny, with_attention_override, with_block_patch
from ..laws.common import Halves

ALONE = ["Flux.1", "Chroma", "Hunyuan Video and Image", "Mage-Flow", "JoyImage"]
"""Where a concept is a text of its own for its family, too."""
NUMBERED = ["Flux.2", "Qwen-Image", "LongCat and Ovis"]
"""Where a text has places, and a concept that of a prompt's word."""


@pytest.fixture
def tiny(request) -> Tiny:
    if request.param not in HERE:
        pytest.skip("this ComfyUI does not have the family")
    return TINY[request.param]


@pytest.fixture
def forget(monkeypatch) -> Callable[[], None]:
    STORE.clear()
    return lambda: monkeypatch.setattr(families, "FAMILIES", [])


def hear(tiny: Tiny, model=None, words: str = "cat, red dog, sky", **spec) -> Tensor:
    return STORE.find(tiny.sample(tiny.recorded(words, model, **spec), cfg=3.0)).scores


def assert_alike(scores: Tensor, expected: Tensor) -> None:
    assert scores.shape == expected.shape
    assert (scores - expected).abs().max() <= 2e-6 * expected.abs().max()


@pytest.mark.parametrize("tiny", ALONE, indirect=True)
@pytest.mark.parametrize("attend", ATTEND)
def test_an_unknown_model_is_recorded_as_its_family_records_it(tiny, attend, forget):
    expected = hear(tiny, method=Method(attend))
    forget()
    assert_alike(hear(tiny, method=Method(attend)), expected)


@pytest.mark.parametrize("tiny", ALONE, indirect=True)
@pytest.mark.parametrize("spec", [{"method": Method(space="value")}, {"method": Method(bounces=1)},
                                  {"tokens": "first"}, {"blocks": "first 2"}])  # fmt: skip
def test_an_unknown_model_is_looked_at_in_every_way_but_one(tiny, spec, forget):
    expected = hear(tiny, **spec)
    forget()
    assert_alike(hear(tiny, **spec), expected)


# The slow path takes every latent for one of pictures, of which eight pixels are a cell.
@pytest.mark.parametrize("tiny", ["Flux.1", "Chroma"], indirect=True)
def test_through_a_stranger_a_picture_is_looked_at_as_through_its_family(tiny, forget):
    picture = torch.rand(2, 70, 100, 3, generator=torch.Generator().manual_seed(0))

    def look() -> Tensor:
        spec = RecordSpec(parse("cat, red dog, sky"), blocks="first 2")
        with torch.inference_mode():
            parts = tiny.model(), tiny.clip(), Halves(tiny)
            return locate(*parts, picture, spec, LocateSpec()).scores

    expected = look()
    forget()
    assert_alike(look(), expected)


@pytest.mark.parametrize("tiny", NUMBERED, indirect=True)
def test_where_a_text_has_places_a_concept_stands_at_its_beginning(tiny, forget, monkeypatch):
    network = tiny.model().model.diffusion_model
    family = families.family_of(network)
    embed, words = family.embed, "cat, dog, sky"  # a word each: all stand at the first place

    def at_the_beginning(clip, words):
        read = embed(clip, words)
        return [replace(own, place=torch.full_like(own.place, -999)) for own in read]

    monkeypatch.setattr(family, "embed", at_the_beginning)
    expected = hear(tiny, words=words)
    forget()
    assert_alike(hear(tiny, words=words), expected)


@pytest.mark.parametrize("tiny", ALONE + NUMBERED, indirect=True)
@pytest.mark.parametrize("other", [lambda tiny, model: model, with_block_patch,
                                   with_attention_override])  # fmt: skip
def test_recording_a_stranger_changes_nothing(tiny, other, forget):
    forget()
    plain = tiny.sample(other(tiny, tiny.model()), (3, 5, 7), cfg=3.0)
    recorded = tiny.sample(other(tiny, tiny.recorded()), (3, 5, 7), cfg=3.0)
    assert torch.equal(recorded, plain)
    assert STORE.find(recorded).scores.isfinite().all()


REFUSED = {
    "AuraFlow": "it makes more of a text, or less, than a row for each token",  # registers
    "Lens": "12 patches were expected, and it has 35",  # its latents come packed
    "Mochi": "its blocks do not run with another text",  # which carries its length along
}


@pytest.mark.parametrize("tiny", REFUSED, indirect=True)
def test_what_cannot_be_told_is_said_where_maps_are_read(tiny, forget):
    (name,) = (name for name in REFUSED if TINY[name] is tiny)
    forget()
    recorded = tiny.sample(tiny.recorded(), cfg=3.0)
    assert torch.equal(recorded, tiny.sample(tiny.model(), cfg=3.0))
    kind = type(tiny.model().model.diffusion_model).__name__
    with pytest.raises(ConceptAttentionError, match=f"{kind} is no model that is known here.*"
                       f"{REFUSED[name]}"):  # fmt: skip
        STORE.find(recorded)


@pytest.mark.parametrize("tiny", ["Flux.1"], indirect=True)
def test_cross_attention_is_refused_where_positions_cannot_be_undone(tiny, forget):
    forget()
    recorded = tiny.sample(tiny.recorded(method=Method(space="cross-attention")), cfg=3.0)
    assert torch.equal(recorded, tiny.sample(tiny.model(), cfg=3.0))
    with pytest.raises(ConceptAttentionError, match="not shown before they get their positions"):
        STORE.find(recorded)


@pytest.mark.parametrize("tiny", ["Flux.1"], indirect=True)
def test_reference_pictures_are_refused(tiny, forget):
    forget()
    positive = tiny.prompt(1, reference_latents=[tiny.latent(1, 6, 9)])
    recorded = tiny.sample(tiny.recorded(), positive=positive)
    assert torch.equal(recorded, tiny.sample(tiny.model(), positive=positive))
    with pytest.raises(ConceptAttentionError, match="patches were expected"):
        STORE.find(recorded)


@pytest.mark.parametrize("tiny", ["Flux.1"], indirect=True)
def test_memory_that_runs_out_costs_no_picture(tiny, forget, monkeypatch):
    plain = tiny.sample(tiny.model())
    forget()

    def runs_out(*_):
        raise comfy.model_management.OOM_EXCEPTION

    monkeypatch.setattr(unknown, "project", runs_out)
    latent = tiny.sample(tiny.recorded())
    assert torch.equal(latent, plain)
    with pytest.raises(ConceptAttentionError, match="could not be recorded: OutOfMemoryError"):
        STORE.find(latent)


@pytest.mark.parametrize("tiny", ["Flux.1"], indirect=True)
def test_what_a_call_needed_is_gone_as_soon_as_it_is_over(tiny, forget):
    forget()

    def tensors_after_a_run() -> int:
        tiny.sample(model, seed=1)  # the same again, so that as much is filed
        return sum(type(thing) is Tensor for thing in gc.get_objects())

    model = tiny.recorded()
    tensors_after_a_run()
    gc.collect()
    gc.disable()  # what refers to itself stays until it is collected
    try:
        assert tensors_after_a_run() == tensors_after_a_run()
    finally:
        gc.enable()


class TwoReaders(TINY["Flux.1"].clip):
    """Two encoders whose rows stand side by side, as those of SD3's three do."""

    def encode_from_tokens(self, tokens, return_dict=False):
        read = super().encode_from_tokens(tokens, return_dict)
        first = tokens["l"][0][0][0]
        return {**read, "cond": read["cond"] + first}

    def tokenize(self, text):
        tokens = super().tokenize(text)
        return {**tokens, "l": [[(len(text), 1.0)] * 77]}


def test_a_text_that_two_encoders_read_is_refused(forget):
    forget()
    model = TINY["Flux.1"].model()
    with pytest.raises(ConceptAttentionError, match="its text is read by l and t5xxl of its CLIP"):
        unknown.GenericFamily(model.model.diffusion_model, "double_blocks").embed(
            TwoReaders(), ["cat"]
        )


def test_what_is_neither_picture_nor_video_is_refused(forget, monkeypatch):
    forget()
    model = TINY["Flux.1"].model()
    monkeypatch.setattr(model.model, "latent_format", comfy.latent_formats.StableAudio1())
    with pytest.raises(
        ConceptAttentionError, match="in pictures and videos. Got Flux, which makes"
    ):
        TINY["Flux.1"].recorded(model=model)


ACROSS = [
    "wan.model.WanModel",
    "lightricks.model.LTXVModel",
    "hydit.models.HunYuanDiT",
    "audio.dit.AudioDiffusionTransformer",
    "kandinsky5.model.Kandinsky5",
]


def kind_of(name: str) -> type:
    module, _, kind = name.rpartition(".")
    try:
        return getattr(importlib.import_module(f"comfy.ldm.{module}"), kind)
    except ImportError:
        pytest.skip("this ComfyUI does not have the model")


@pytest.mark.parametrize("name", ACROSS)
def test_models_that_attend_across_are_told_from_joint_ones_by_their_code(name):
    model = kind_of(name)
    assert unknown.stack_of(model) is None
    assert unknown.stack_of(type("Fork", (model,), {})) is None


@pytest.mark.parametrize("tiny", ALONE + NUMBERED + ["AuraFlow", "Lens", "Mochi"], indirect=True)
def test_joint_models_are_known_by_their_code_and_so_are_their_forks(tiny):
    network = tiny.model().model.diffusion_model
    listed = unknown.stack_of(type(network))
    assert listed is not None
    assert getattr(network, listed) is families.family_of(network).blocks(network)
    assert unknown.stack_of(type("Fork", (type(network),), {})) == listed
