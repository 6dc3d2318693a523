"""The two tokenizers, as written to disk and as transformers loads them."""

import pytest

from demo.training.recipe import TEXT_LENGTH
from demo.training.vocabulary import (
    BOS,
    EOS,
    PAD,
    UNKNOWN,
    build_clip_tokenizer,
    build_t5_tokenizer,
    encode,
    list_words,
    save_tokenizers,
)

transformers = pytest.importorskip("transformers")
CAPTION = "a red hot-air balloon, night sky above water"


def spell(ids: list[int]) -> list[str]:
    return [list_words()[index] for index in ids]


def test_captions_survive_a_round_trip():
    words = spell(encode(build_t5_tokenizer(), [CAPTION], PAD)[0])
    assert len(words) == TEXT_LENGTH
    said = ["a", "red", "hot", "-", "air", "balloon", ",", "night", "sky", "above", "water"]
    assert words == [*said, EOS] + [PAD] * (TEXT_LENGTH - len(said) - 1)


def test_clip_begins_with_its_mark_and_pads_with_the_end():
    words = spell(encode(build_clip_tokenizer(), ["A Boat"], EOS)[0])
    assert words[:4] == [BOS, "a", "boat", EOS]
    assert set(words[3:]) == {EOS}


def test_words_never_seen_become_unknown():
    assert spell(encode(build_t5_tokenizer(), ["a zebra"], PAD)[0])[:3] == ["a", UNKNOWN, EOS]


def test_long_captions_keep_their_end():
    ids = encode(build_clip_tokenizer(), ["tree " * 100], EOS)[0]
    assert len(ids) == TEXT_LENGTH
    assert spell(ids)[-1] == EOS


@pytest.mark.parametrize(
    ("folder", "build", "pad"),
    [("tokenizer", build_clip_tokenizer, EOS), ("tokenizer_2", build_t5_tokenizer, PAD)],
)
def test_transformers_loads_what_was_saved(tmp_path, folder, build, pad):
    save_tokenizers(tmp_path)
    loaded = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path / folder)
    captions = [CAPTION, "", "a zebra", "tree " * 100]
    ids = loaded(captions, padding="max_length", truncation=True, max_length=TEXT_LENGTH).input_ids
    assert loaded.model_max_length == TEXT_LENGTH
    assert ids == encode(build(), captions, pad)
