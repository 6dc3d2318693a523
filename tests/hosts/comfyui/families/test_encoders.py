"""A CLIP that is not the model's is refused where concepts are read, before anything is sampled.

Every family is given every kind of text encoder that there is among the tiny ones.
"""

from dataclasses import replace
from pathlib import Path

import comfy.model_management
import comfy.text_encoders
import pytest
import torch
from conceptattention.conceptattention_core import ConceptAttentionError
from conceptattention.conceptattention_core.hosts.comfyui.encoder import embed
from conceptattention.conceptattention_core.hosts.comfyui.families import (
    FAMILIES,
    family_of,
    reading,
)
from conceptattention.conceptattention_core.hosts.comfyui.store import STORE
from conceptattention.conceptattention_core.tokens import ConceptTokens
from torch import Tensor

from ....comfyui.tiny import HERE, TINY, Tiny
from ....comfyui.tiny.sd3 import CLIP_WIDTH, ClipsAndT5
from ....comfyui.tiny.words import TEXT_WIDTH, number, vectors


class TwoClips(ClipsAndT5):
    """SDXL's: no T5, and rows as wide as both CLIPs are."""

    def tokenize(self, text: str) -> dict:
        return {key: ids for key, ids in super().tokenize(text).items() if key != "t5xxl"}

    def encode_from_tokens(self, tokens: dict, return_dict: bool = False) -> dict[str, Tensor]:
        return {"cond": vectors(tokens["g"][0], CLIP_WIDTH)[None]}


class TwoWideClips(TwoClips):
    """Two CLIPs whose rows happen to be as wide as SD3's."""

    def encode_from_tokens(self, tokens: dict, return_dict: bool = False) -> dict[str, Tensor]:
        return {"cond": vectors(tokens["g"][0])[None]}


KINDS = {
    kind.__name__: kind for kind in [*(tiny.clip for tiny in TINY.values()), TwoClips, TwoWideClips]
}
WORDS = [f"word{n}" for n in range(12)]
LANGUAGE_MODELS: dict[str, tuple[str, ...]] = {
    family.name: models for family in FAMILIES if (models := getattr(family.reads, "models", ()))
}


def read(tiny: Tiny, clip: object, words: list[str]) -> list[ConceptTokens]:
    model = tiny.model().model
    network = model.diffusion_model
    return embed(family_of(network), network, model.model_config, clip, words)


@pytest.mark.parametrize("kind", KINDS)
def test_another_encoder_is_refused_or_reads_the_words_themselves(tiny, kind):
    name = family_of(tiny.model().model.diffusion_model).name
    for count in range(1, 13):  # 77 rows of CLIP too many can be shared out among 7 or 11
        try:
            rows = read(tiny, KINDS[kind](), WORDS[:count])
        except ConceptAttentionError as refusal:
            assert str(refusal).startswith(f"{name} ")
            assert f"this CLIP, {kind}" in str(refusal)
            assert str(refusal).endswith("Connect the CLIP that encodes the prompt.")
            assert KINDS[kind] is not tiny.clip
            continue
        for word, own in zip(WORDS, rows, strict=False):
            meant = vectors([(number(word), 1.0)])[:, :CLIP_WIDTH]
            assert torch.equal(own.rows[:1, :CLIP_WIDTH], meant), (word, count)
            assert len(own) == tiny.readings


MISFITS = [
    *[(name, "ClipsAndT5") for name in ("Flux.1", "Chroma", "CogVideoX", "Mochi")],
    ("SD3", "TwoClips"),
    ("SD3", "TwoWideClips"),
    ("SD3", "T5Reader"),
    ("HiDream", "ClipsAndT5"),
    ("Hunyuan Video and Image", "T5AndLlama"),
    *[(name, "UnpaddedT5") for name in ("Flux.2", "Qwen-Image", "Ideogram 4", "Krea 2")],
    *[(name, "PileT5") for name in ("Flux.1", "Z-Image", "LongCat and Ovis", "PixelDiT")],
    *[(name, "TemplateReader") for name in ("Flux.1", "SD3", "AuraFlow", "HiDream")],
]


def named(key: str, kind: type) -> type:
    """An encoder of a language model that ComfyUI calls `key`, and of no other."""

    class Named(kind):
        def tokenize(self, text):
            (ids,) = super().tokenize(text).values()
            return {key: ids}

        def encode_from_tokens(self, tokens, return_dict=False):
            return super().encode_from_tokens({"llm": tokens[key]}, return_dict)

    return Named


def test_all_language_models_that_families_declare_are_known_to_each():
    assert {key for keys in LANGUAGE_MODELS.values() for key in keys} == reading.LANGUAGE_MODELS


@pytest.mark.parametrize("name", [name for name in HERE if name in LANGUAGE_MODELS])
def test_only_the_models_own_language_model_is_read_whatever_the_width(name):
    for key in {key for keys in LANGUAGE_MODELS.values() for key in keys}:
        clip = named(key, TINY["Qwen-Image"].clip)()
        if key in LANGUAGE_MODELS[name]:
            assert len(read(HERE[name], clip, WORDS[:2])) == 2
            continue
        with pytest.raises(ConceptAttentionError) as refusal:
            read(HERE[name], clip, WORDS[:2])
        own = " or ".join(f"'{own}'" for own in LANGUAGE_MODELS[name])
        assert str(refusal.value).startswith(f"{name} reads concepts with {own}; this CLIP, Named")
        assert f"with {key}, is another language model" in str(refusal.value)


def test_a_language_model_of_a_later_version_is_let_in():
    assert len(read(TINY["Qwen-Image"], named("qwen9_1b", KINDS["TemplateReader"])(), ["cat"])) == 1


def test_comfyui_knows_the_language_models_by_these_names():
    folder = Path(comfy.text_encoders.__path__[0])
    code = "".join(path.read_text(encoding="utf-8") for path in folder.glob("*.py"))
    for name, keys in LANGUAGE_MODELS.items():
        if name in HERE:
            assert any(f'"{key}"' in code or f"'{key}'" in code for key in keys), name


@pytest.mark.parametrize("words", [1, 3, 6, 7, 10, 11])
@pytest.mark.parametrize(("name", "kind"), MISFITS)
def test_what_does_not_fit_is_told_by_the_node_that_records(name, kind, words):
    if name not in HERE:
        pytest.skip("this ComfyUI does not have the family")
    model = HERE[name].model()
    with pytest.raises(ConceptAttentionError, match=f"^{name} reads concepts with .*{kind}"):
        record_with(HERE[name], KINDS[kind](), ", ".join(WORDS[:words]), model)


def record_with(tiny: Tiny, clip: object, words: str, model: object) -> object:
    return replace(tiny, clip=lambda: clip).recorded(words, model=model)


def test_rows_of_another_width_are_refused_with_both_widths(tiny):
    class Wide(tiny.clip):
        def encode_from_tokens(self, tokens, return_dict=False):
            encoded = super().encode_from_tokens(tokens, return_dict)
            return {**encoded, "cond": torch.nn.functional.pad(encoded["cond"], (0, 8), value=1)}

    with pytest.raises(ConceptAttentionError) as refusal:
        record_with(tiny, Wide(), "cat, sky", tiny.model())
    assert f"{TEXT_WIDTH} wide; this CLIP, Wide" in str(refusal.value)
    assert f"gives rows that are {TEXT_WIDTH + 8} wide" in str(refusal.value)


def test_every_family_knows_how_wide_its_text_is(tiny):
    network = tiny.model().model.diffusion_model
    assert family_of(network).text_width(network) == TEXT_WIDTH


def test_comfyuis_name_of_the_models_encoder_is_told():
    with pytest.raises(ConceptAttentionError, match="rows of AuraT5Model that are 40 wide"):
        tiny = TINY["AuraFlow"]

        class Narrow(tiny.clip):
            def encode_from_tokens(self, tokens, return_dict=False):
                return {"cond": super().encode_from_tokens(tokens, return_dict)["cond"][..., 1:]}

        record_with(tiny, Narrow(), "cat", tiny.model())


@pytest.mark.parametrize(
    ("trouble", "told"),
    [
        (KeyError("t5xxl"), ConceptAttentionError),
        (RuntimeError("mat1 and mat2"), ConceptAttentionError),
        (comfy.model_management.OOM_EXCEPTION("no memory"), comfy.model_management.OOM_EXCEPTION),
        (
            comfy.model_management.InterruptProcessingException(),
            comfy.model_management.InterruptProcessingException,
        ),
    ],
)
def test_an_encoder_that_fails_is_named_and_host_errors_pass(tiny, trouble, told):
    class Failing(tiny.clip):
        def encode_from_tokens(self, tokens, return_dict=False):
            raise trouble

    with pytest.raises(told) as error:
        record_with(tiny, Failing(), "cat", tiny.model())
    if told is ConceptAttentionError:
        assert f"{type(trouble).__name__}: {trouble}" in str(error.value)
        assert "Failing" in str(error.value)
    STORE.clear()
