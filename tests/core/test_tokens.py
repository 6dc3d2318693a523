"""The tokens of concepts: whose they are, where they stand, and that all are packed in order."""

import pytest
import torch
from conceptattention.conceptattention_core import ConceptAttentionError
from conceptattention.conceptattention_core.concepts import parse
from conceptattention.conceptattention_core.recording import RecordSpec
from conceptattention.conceptattention_core.tokens import ConceptTokens, pack_tokens

NAMES = "cat, red dog, sky"


def three() -> list[ConceptTokens]:
    return [
        ConceptTokens.of(torch.full((count, 2), float(value)), range(-count - 2, -2))
        for value, count in enumerate((1, 3, 2))
    ]


def test_packed_tokens_keep_the_order_of_the_concepts():
    tokens = pack_tokens(RecordSpec(parse(NAMES)), three())
    assert tokens.rows[:, 0].tolist() == tokens.owner.tolist() == [0, 1, 1, 1, 2, 2]
    assert tokens.place.tolist() == [-3, -5, -4, -3, -4, -3]
    assert tokens.counts == [1, 3, 2]
    assert torch.equal(tokens.mean @ tokens.rows, torch.tensor([[0.0] * 2, [1.0] * 2, [2.0] * 2]))


def test_with_first_only_the_first_token_of_a_concept_is_kept():
    tokens = pack_tokens(RecordSpec(parse(NAMES), tokens="first"), three())
    assert tokens.owner.tolist() == [0, 1, 2]
    assert tokens.place.tolist() == [-3, -5, -4]


def test_a_concept_in_which_nothing_is_read_is_refused_by_name():
    concepts = [*three()[:1], ConceptTokens.of(torch.zeros(0, 2)), *three()[2:]]
    with pytest.raises(ConceptAttentionError, match=r"nothing in 'red dog' \(red dog\)"):
        pack_tokens(RecordSpec(parse(NAMES)), concepts)


def test_places_count_from_the_end_and_stop_at_the_start():
    tokens = ConceptTokens.of(torch.zeros(3, 2), (-5, -4, -1))
    assert tokens.positions(9).tolist() == [4, 5, 8]
    assert tokens.positions(4).tolist() == [0, 0, 3]
    assert tokens.positions(torch.tensor([[9], [4]])).tolist() == [[4, 5, 8], [0, 0, 3]]
    assert ConceptTokens.of(torch.zeros(3, 2)).place.tolist() == [0, 0, 0]
