"""Flux.1: what its text encoder reads."""

from dataclasses import replace

import pytest
import torch
from conceptattention.conceptattention_core import ConceptAttentionError
from torch import Tensor, nn

from ....comfyui.tiny import TINY, WordReader
from ..laws.common import FLUX


def test_flux_2_and_its_like_are_not_taken_for_flux_1():
    network = TINY["Flux.1"].model().model.diffusion_model
    for difference in ({"global_modulation": True}, {"txt_ids_dims": [1, 2]}):
        other = type(network).__new__(type(network))
        nn.Module.__init__(other)
        other.params = type("Params", (), difference)()
        assert not FLUX.matches(other)


def test_a_concept_is_its_own_tokens_without_end_and_pads():
    both = FLUX.embed(WordReader(), ["cat", "very red dog"])
    alone = [FLUX.embed(WordReader(), [words])[0] for words in ("cat", "very red dog")]
    assert [len(own) for own in both] == [1, 3]
    assert all(torch.equal(one.rows, own.rows) for one, own in zip(both, alone, strict=True))


def test_a_concept_longer_than_the_encoders_least_length_is_read_whole():
    long = " ".join(f"word{i}" for i in range(20))
    read = FLUX.embed(WordReader(), ["cat", long, "red dog"])
    assert [len(own) for own in read] == [1, 20, 2]
    assert torch.equal(read[2].rows, FLUX.embed(WordReader(), ["red dog"])[0].rows)


def test_brackets_in_a_concept_are_words_not_weights():
    def read(text: str) -> Tensor:
        return FLUX.embed(WordReader(), [text])[0].rows

    plain = read("red dog")
    assert torch.equal(read("(red) ((dog))"), plain)
    weighed = read("(red:1.5) dog")
    assert torch.equal(weighed[[0, -1]], plain)


def test_a_clip_without_t5_is_refused_with_what_to_do():
    class OnlyClip(WordReader):
        def tokenize(self, text):
            return {"l": super().tokenize(text)["l"]}

    tiny = replace(TINY["Flux.1"], clip=OnlyClip)
    with pytest.raises(
        ConceptAttentionError, match="with 't5xxl'; this CLIP, OnlyClip with l, has"
    ):
        tiny.recorded()


def test_a_concept_in_which_the_encoder_reads_nothing_is_named():
    with pytest.raises(ConceptAttentionError, match=r"reads nothing in '!\?' \(oops\)"):
        TINY["Flux.1"].recorded("cat, oops: !?, sky")
