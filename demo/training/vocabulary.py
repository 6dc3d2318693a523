"""The word-level vocabulary of the captions, and the two tokenizers (CLIP's and T5's) over it.

Text is lowercased and split at punctuation, so "hot-air" becomes hot - air. Both tokenizers share
the same ids; they differ as in Flux: CLIP's begins with <s> and pads with </s>, T5's only ends
with </s> and pads with <pad>.
"""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from ..scenes import ALIASES, COLOURS, SKIES, WORDS
from .recipe import TEXT_LENGTH

PAD, EOS, UNKNOWN, BOS = "<pad>", "</s>", "<unk>", "<s>"
SPECIAL = (PAD, EOS, UNKNOWN, BOS)
GLUE = ("a", "an", "the", "and", "above", "under", "with", ",", "-")


def list_words() -> list[str]:
    """Every token, special ones first; the place in the list is the id."""
    names = [part for aliases in ALIASES.values() for name in aliases for part in name.split("-")]
    words = [word for name in names for word in name.split()]
    return list(dict.fromkeys([*SPECIAL, *GLUE, *COLOURS, *SKIES, *WORDS, *words]))


def build_tokenizer(template: str) -> Tokenizer:
    """`template` says where the special tokens stand, such as "$A </s>"."""
    ids = {word: index for index, word in enumerate(list_words())}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    marks = [(mark, ids[mark]) for mark in (BOS, EOS) if mark in template]
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=marks)
    tokenizer.add_special_tokens(list(SPECIAL))
    return tokenizer


def build_clip_tokenizer() -> Tokenizer:
    return build_tokenizer(f"{BOS} $A {EOS}")


def build_t5_tokenizer() -> Tokenizer:
    return build_tokenizer(f"$A {EOS}")


def encode(tokenizer: Tokenizer, captions: list[str], pad: str) -> list[list[int]]:
    """Token ids of captions, each padded or cut (keeping its end mark) to TEXT_LENGTH."""
    tokenizer.enable_truncation(TEXT_LENGTH)
    tokenizer.enable_padding(length=TEXT_LENGTH, pad_id=tokenizer.token_to_id(pad), pad_token=pad)
    ids = [encoding.ids for encoding in tokenizer.encode_batch(captions)]
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return ids


def save_tokenizers(folder: Path) -> None:
    """Write `tokenizer` (CLIP's) and `tokenizer_2` (T5's) as diffusers' Flux folders have them.

    The configuration is written by hand: transformers 4 and 5 save different class names, and
    both load this one.
    """
    parts = {
        "tokenizer": (build_clip_tokenizer(), {"bos_token": BOS, "pad_token": EOS}),
        "tokenizer_2": (build_t5_tokenizer(), {"pad_token": PAD}),
    }
    for name, (tokenizer, marks) in parts.items():
        target = folder / name
        target.mkdir(parents=True, exist_ok=True)
        tokenizer.save(str(target / "tokenizer.json"))
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": TEXT_LENGTH,
            "padding_side": "right",
            "clean_up_tokenization_spaces": False,
            "model_input_names": ["input_ids", "attention_mask"],
            "eos_token": EOS,
            "unk_token": UNKNOWN,
            **marks,
        }
        (target / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
