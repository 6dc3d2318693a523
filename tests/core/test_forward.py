"""The concepts in one call of a model: scored where asked, stopped where told."""

import pytest
import torch
from conceptattention.conceptattention_core.attention import ImageVectors, step, token_mean
from conceptattention.conceptattention_core.concepts import parse
from conceptattention.conceptattention_core.forward import ConceptForward, RecordPlan, StopForward
from conceptattention.conceptattention_core.recording import RecordSpec
from conceptattention.conceptattention_core.tokens import ConceptTokens, pack_tokens
from torch import Tensor

from .examples import random

B, P, T, HEADS, D = 2, 6, 3, 2, 4


class Plain:
    """A block that adds what was attended."""

    def heads(self, concepts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        heads = concepts.unflatten(-1, (HEADS, D)).transpose(1, 2)
        return heads, heads, heads

    def apply_rope(self, heads: Tensor) -> Tensor:
        return heads

    def update(self, concepts: Tensor, attended: Tensor) -> Tensor:
        return concepts + attended


def image(seed: int) -> ImageVectors:
    q, k, v = (random(B, HEADS, P, D, seed=3 * seed + n) for n in range(3))
    return ImageVectors(k, v, random(B, P, HEADS * D, seed=99 + seed), lambda: q, lambda: q)


def plan(blocks: range, stops: bool = False) -> RecordPlan:
    spec = RecordSpec(parse("cat, red dog"))
    own = [ConceptTokens.of(torch.zeros(count, 4)) for count in (1, 2)]
    return RecordPlan("Toy", spec, blocks, pack_tokens(spec, own), stops)


def test_the_blocks_of_interest_are_scored_one_after_another():
    forward, start = ConceptForward(plan(range(1, 3))), random(B, T, HEADS * D)
    assert not forward.started and not forward.is_due(0)
    forward.start(start)
    expected, stream = [], start
    mean = token_mean(torch.tensor([0, 1, 1]))
    for index in range(3):
        assert forward.is_due(index) and not forward.is_due(index + 1) and not forward.done
        forward.step(Plain(), image(index))
        stream, scores = step(Plain(), stream, image(index), mean, forward.plan.spec.method)
        expected.append(scores)
    assert forward.done
    assert torch.equal(torch.stack(forward.scores), torch.stack(expected[1:]))


def test_a_call_ends_after_the_last_block_of_interest_where_that_is_asked():
    forward = ConceptForward(plan(range(2), stops=True))
    forward.start(random(B, T, HEADS * D))
    forward.step(Plain(), image(0))
    with pytest.raises(StopForward):
        forward.step(Plain(), image(1))
    assert forward.done
