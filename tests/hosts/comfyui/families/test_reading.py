"""Which tokens of a text are a concept's own, by ComfyUI's real tokenizers."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import comfy.text_encoders.aura_t5 as aura_t5
import comfy.text_encoders.flux as flux
import comfy.text_encoders.hidream as hidream
import comfy.text_encoders.lumina2 as lumina2
import comfy.text_encoders.omnigen2 as omnigen2
import comfy.text_encoders.pixart_t5 as pixart
import comfy.text_encoders.qwen_image as qwen_image
import comfy.text_encoders.sd3_clip as sd3_clip
import pytest
import sentencepiece
import torch
from conceptattention.conceptattention_core import ConceptAttentionError
from conceptattention.conceptattention_core.hosts.comfyui.families.auraflow import AuraFlow
from conceptattention.conceptattention_core.hosts.comfyui.families.boogu import Boogu
from conceptattention.conceptattention_core.hosts.comfyui.families.chroma import Chroma
from conceptattention.conceptattention_core.hosts.comfyui.families.ernie import Ernie
from conceptattention.conceptattention_core.hosts.comfyui.families.flux import Flux
from conceptattention.conceptattention_core.hosts.comfyui.families.flux2 import Flux2
from conceptattention.conceptattention_core.hosts.comfyui.families.hidream import HiDream
from conceptattention.conceptattention_core.hosts.comfyui.families.ideogram4 import Ideogram4
from conceptattention.conceptattention_core.hosts.comfyui.families.joyimage import JoyImage
from conceptattention.conceptattention_core.hosts.comfyui.families.krea2 import Krea2
from conceptattention.conceptattention_core.hosts.comfyui.families.lens import Lens
from conceptattention.conceptattention_core.hosts.comfyui.families.lumina import Lumina2, ZImage
from conceptattention.conceptattention_core.hosts.comfyui.families.mage_flow import MageFlow
from conceptattention.conceptattention_core.hosts.comfyui.families.omnigen2 import OmniGen2
from conceptattention.conceptattention_core.hosts.comfyui.families.pixeldit import PixelDiT
from conceptattention.conceptattention_core.hosts.comfyui.families.qwen_image import QwenImage
from conceptattention.conceptattention_core.hosts.comfyui.families.sd3 import SD3
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

TEXTS = ["cat", "a red hot-air balloon", "(very:1.5) old man", "空を飛ぶ猫", "user", "tree"]


class Numbered:
    """A CLIP with a real tokenizer whose row of a token is the token's place and its id."""

    def __init__(self, tokenizer: Any, key: str, dropped: int = 0, after: str | None = None):
        self.tokenizer, self.key, self.dropped, self.after = tokenizer, key, dropped, after

    def tokenize(self, text: str) -> dict:
        return self.tokenizer.tokenize_with_weights(text)

    def encode_from_tokens(self, tokens: dict, return_dict: bool) -> dict:
        def rows(key: str) -> torch.Tensor:
            ids = [float(token[0]) for batch in tokens[key] for token in batch]
            return torch.tensor([[at, id_, 0.0] for at, id_ in enumerate(ids)])

        found = rows(self.key)
        if self.after:  # T5's rows behind CLIP's, and not ending in a zero
            found = torch.cat([found, rows(self.after) + 1])
        return {"cond": found[None, self.dropped :]}

    def decode(self, rows: torch.Tensor) -> str:
        parts = vars(self.tokenizer)
        own = next(parts[name] for name in (self.key, f"clip_{self.key}") if name in parts)
        while not hasattr(own, "decode"):  # tokenizers in tokenizers
            own = own.tokenizer
        return own.decode([int(id_) for id_ in rows[:, 1]])


def plain(text: str) -> str:
    return "".join(text.split()).lower()


def klein() -> Numbered:
    if not hasattr(flux, "KleinTokenizer"):
        pytest.skip("this ComfyUI does not have the family")
    return Numbered(flux.KleinTokenizer(), "qwen3_4b")


def mage_flow() -> Numbered:
    mage = pytest.importorskip("comfy.text_encoders.mage_flow")
    return Numbered(mage.MageFlowTokenizer(), "qwen3vl_4b", dropped=34)


def joyimage() -> Numbered:
    joy = pytest.importorskip("comfy.text_encoders.joyimage")
    return Numbered(joy.JoyImageTokenizer(), "qwen3vl_8b", dropped=34)


def lens() -> Numbered:
    """GPT-OSS's words come with its weights; Qwen's stand in for them, in the template of Lens."""
    gpt_oss = pytest.importorskip("comfy.text_encoders.gpt_oss")
    folder = Path(qwen_image.__file__).parent / "qwen25_tokenizer"
    words = models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt"))
    tokenizer = Tokenizer(words)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|start|>", "<|channel|>", "<|message|>", "<|end|>"])
    data = {"tokenizer_json": tokenizer.to_str().encode()}
    return Numbered(gpt_oss.LensTokenizer(tokenizer_data=data), "gpt_oss", dropped=97)


def gemma_words() -> dict[str, torch.Tensor]:
    """Gemma's words come with its weights; these are the words of `TEXTS`, and bytes."""
    words = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS), model_writer=words, model_type="bpe", vocab_size=300,
        hard_vocab_limit=False, byte_fallback=True, add_dummy_prefix=False,
        normalization_rule_name="identity", remove_extra_whitespaces=False,
        pad_id=0, eos_id=1, bos_id=2, unk_id=3, minloglevel=2,
    )  # fmt: skip
    return {"spiece_model": torch.frombuffer(bytearray(words.getvalue()), dtype=torch.uint8)}


def lumina() -> Numbered:
    return Numbered(lumina2.LuminaTokenizer(tokenizer_data=gemma_words()), "gemma2_2b")


def z_image() -> Numbered:
    z = pytest.importorskip("comfy.text_encoders.z_image")
    return Numbered(z.ZImageTokenizer(), "qwen3_4b")


def boogu() -> Numbered:
    instructed = pytest.importorskip("comfy.text_encoders.boogu")
    return Numbered(instructed.BooguTokenizer(), "qwen3vl_8b")


def ideogram4() -> Numbered:
    ideogram = pytest.importorskip("comfy.text_encoders.ideogram4")
    return Numbered(ideogram.Ideogram4Tokenizer(), "qwen3vl_8b")


def ideogram4_with_eyes() -> Numbered:
    """What ComfyUI takes where the file of the text encoder reads pictures, too."""
    ideogram = pytest.importorskip("comfy.text_encoders.ideogram4")
    return Numbered(ideogram.Ideogram4Qwen3VLTokenizer(), "qwen3vl_8b")


def ernie() -> Numbered:
    """Mistral's words come with its weights; these are bytes, so that "tree" ends in one twice."""
    ministral = pytest.importorskip("comfy.text_encoders.ernie")
    letters = (base64.b64encode(bytes([n])).decode() for n in range(256))
    words = {
        "config": {"default_num_special_tokens": 3, "default_vocab_size": 259},
        "vocab": [{"rank": n, "token_bytes": letter} for n, letter in enumerate(letters)],
        "special_tokens": [
            {"rank": n, "token_str": name} for n, name in enumerate(("<unk>", "<s>", "</s>"))
        ],
    }
    data = {
        "tekken_model": torch.frombuffer(bytearray(json.dumps(words), "utf8"), dtype=torch.uint8)
    }
    return Numbered(ministral.ErnieTokenizer(tokenizer_data=data), "ministral3_3b")


def krea2() -> Numbered:
    krea = pytest.importorskip("comfy.text_encoders.krea2")
    return Numbered(krea.Krea2Tokenizer(), "qwen3vl_4b", dropped=34)


def pixeldit() -> Numbered:
    pixels = pytest.importorskip("comfy.text_encoders.pixeldit")
    tokenizer = pixels.PixelDiTGemma2Tokenizer(tokenizer_data=gemma_words())
    (tokens,) = tokenizer.tokenize_with_weights("cat")["gemma2_2b"]
    return Numbered(tokenizer, "gemma2_2b", dropped=len(tokens) - 300)


READERS = {
    "Flux.1": (Flux(), lambda: Numbered(flux.FluxTokenizer(), "t5xxl")),
    "Chroma": (Chroma(), lambda: Numbered(pixart.PixArtTokenizer(), "t5xxl")),
    "SD3": (SD3(), lambda: Numbered(sd3_clip.SD3Tokenizer(), "g", after="t5xxl")),
    "Qwen-Image": (
        QwenImage(),
        lambda: Numbered(qwen_image.QwenImageTokenizer(), "qwen25_7b", dropped=34),
    ),
    "Klein": (Flux2(), klein),
    "AuraFlow": (AuraFlow(), lambda: Numbered(aura_t5.AuraT5Tokenizer(), "pile_t5xl")),
    "Mage-Flow": (MageFlow(), mage_flow),
    "JoyImage": (JoyImage(), joyimage),
    "Lens": (Lens(), lens),
    "PixelDiT": (PixelDiT(), pixeldit),
    "Lumina 2": (Lumina2(), lumina),
    "Z-Image": (ZImage(), z_image),
    "OmniGen2": (OmniGen2(), lambda: Numbered(omnigen2.Omnigen2Tokenizer(), "qwen25_3b")),
    "Boogu": (Boogu(), boogu),
    "Ideogram 4": (Ideogram4(), ideogram4),
    "Ideogram 4, Qwen3-VL": (Ideogram4(), ideogram4_with_eyes),
    "ERNIE-Image": (Ernie(), ernie),
    "Krea 2": (Krea2(), krea2),
}


@pytest.mark.parametrize("name", READERS)
def test_a_concept_is_its_own_tokens(name):
    family, make = READERS[name]
    clip = make()
    for text in TEXTS:
        (own,) = family.embed(clip, [text])
        rows = own.rows
        if clip.key == "t5xxl" and not text.isascii():
            assert len(rows) > 0  # T5 does not know these letters
        else:
            assert plain(clip.decode(rows)) == plain(text)


@pytest.mark.parametrize(
    "name",
    [
        *("Qwen-Image", "Klein", "PixelDiT", "Lens", "Lumina 2", "Z-Image", "OmniGen2", "Boogu"),
        *("Ideogram 4", "Ideogram 4, Qwen3-VL", "ERNIE-Image"),
    ],
)
def test_a_concept_stands_where_it_stands_in_the_template(name):
    family, make = READERS[name]
    clip = make()
    length = len(clip.tokenize("red balloon")[clip.key][0])
    (own,) = family.embed(clip, ["red balloon"])
    assert (own.place + length).tolist() == own.rows[:, 0].tolist()


def test_several_text_encoders_are_refused_where_one_reads():
    clip = Numbered(sd3_clip.SD3Tokenizer(), "g", after="t5xxl")
    with pytest.raises(ConceptAttentionError, match="a language model; this CLIP, Numbered"):
        QwenImage().embed(clip, ["cat"])


def test_an_encoder_that_keeps_the_concepts_own_rows_to_itself_is_named():
    tokenizer = qwen_image.QwenImageTokenizer()
    clip = Numbered(
        tokenizer, "qwen25_7b", dropped=len(tokenizer.tokenize_with_weights("")["qwen25_7b"][0])
    )
    with pytest.raises(ConceptAttentionError, match="those of the concept itself are not among"):
        QwenImage().embed(clip, ["cat"])


class T5AndLlama:
    """HiDream's CLIP: T5's rows, and Llama's with an axis of layers."""

    def __init__(self, loaded: float = 1.0):
        words = Path(hidream.__file__).parent / "llama_tokenizer" / "tokenizer.json"
        if not words.exists():
            pytest.skip("this copy of ComfyUI lacks Llama's words")
        self.loaded = loaded
        tokenizer = hidream.HiDreamTokenizer()
        self.t5, self.llama = Numbered(tokenizer, "t5xxl"), Numbered(tokenizer, "llama")
        self.tokenize = self.t5.tokenize

    def encode_from_tokens(self, tokens: dict, return_dict: bool) -> dict:
        t5, llama = (one.encode_from_tokens(tokens, return_dict) for one in (self.t5, self.llama))
        return {"cond": t5["cond"] * self.loaded, "conditioning_llama3": llama["cond"][:, None]}


def test_hidream_reads_once_by_t5_and_twice_by_llama():
    clip = T5AndLlama()
    for text in TEXTS:
        (tokens,) = HiDream().embed(clip, [text])
        t5, last, own = (tokens.rows[tokens.kind == kind] for kind in range(3))
        assert plain(clip.llama.decode(last)) == plain(text)
        assert torch.equal(last, own)
        assert plain(clip.t5.decode(t5)) == plain(text) or not text.isascii()


def test_hidream_without_t5_reads_by_llama_alone():
    both, alone = (HiDream().embed(T5AndLlama(loaded), ["cat"])[0] for loaded in (1.0, 0.0))
    assert torch.equal(alone.rows, both.rows[both.kind > 0])
