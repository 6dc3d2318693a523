"""One block's step, against the paper's formulas written out with loops over single numbers."""

import math
from itertools import product

import pytest
import torch
from conceptattention.conceptattention_core import ConceptAttentionError
from conceptattention.conceptattention_core.attention import (
    ATTEND,
    SPACES,
    ImageVectors,
    Method,
    propagate,
    step,
    token_mean,
)
from torch import Tensor

from .examples import random

B, HEADS, D, T, P = 2, 3, 5, 4, 7
OWNERS = [0, 1, 1, 2]  # the second concept has two tokens


class Block:
    """A joint block whose text side is four fixed tensors and a doubling."""

    def __init__(self):
        self.q, self.k, self.v = random(3, B, HEADS, T, D, seed=1)
        self.seen: list[Tensor] = []

    def heads(self, concepts):
        self.seen.append(concepts)
        return self.q, self.k, self.v

    def apply_rope(self, heads):
        return heads

    def update(self, concepts, attended):
        self.seen.append(attended)
        return concepts + 2 * attended


@pytest.fixture
def block():
    return Block()


@pytest.fixture
def image():
    keys, values, queries = random(3, B, HEADS, P, D, seed=2)
    return ImageVectors(
        keys, values, random(B, P, HEADS * D, seed=3), lambda: queries, lambda: queries
    )


READ = {  # which rows of (concepts, image) a concept reads; nothing: it keeps its own value
    "concepts and image": (True, True),
    "image": (False, True),
    "concepts": (True, False),
    "nothing": None,
}


def attended_by_hand(block: Block, image: ImageVectors, attend: str) -> Tensor:
    """What each concept token attends, `b t (head d)`, head after head."""
    out = torch.zeros(B, T, HEADS * D)
    for b, head, t in product(range(B), range(HEADS), range(T)):
        if READ[attend] is None:
            read = block.v[b, head, t]
        else:
            of_concepts, of_image = READ[attend]
            rows = [(block.k[b, head, i], block.v[b, head, i]) for i in range(T) if of_concepts]
            rows += [
                (image.keys[b, head, i], image.values[b, head, i]) for i in range(P) if of_image
            ]
            weights = [
                math.exp(sum(block.q[b, head, t, i] * key[i] for i in range(D)) / math.sqrt(D))
                for key, _ in rows
            ]
            read = sum(w * value for w, (_, value) in zip(weights, rows)) / sum(weights)
        out[b, t, head * D : (head + 1) * D] = read
    return out


def scores_by_hand(block: Block, image: ImageVectors, attended: Tensor, space: str) -> Tensor:
    """The mean over a concept's tokens of its dot product with each patch, `b c p`."""
    out = torch.zeros(B, max(OWNERS) + 1, P)
    for b, t, p in product(range(B), range(T), range(P)):
        if space == "output":
            score = float(attended[b, t] @ image.outputs[b, p])
        elif space == "value":
            score = sum(float(block.v[b, h, t] @ image.values[b, h, p]) for h in range(HEADS))
        else:
            queries = image.queries_before_rope()
            score = sum(float(block.k[b, h, t] @ queries[b, h, p]) for h in range(HEADS)) / HEADS
        out[b, OWNERS[t], p] += score / OWNERS.count(OWNERS[t])
    return out


@pytest.mark.parametrize("attend", ATTEND)
@pytest.mark.parametrize("space", SPACES)
def test_a_step_is_the_papers_formula(block, image, attend, space):
    stream = random(B, T, HEADS * D, seed=4)
    mean = token_mean(torch.tensor(OWNERS))
    after, scores = step(block, stream, image, mean, Method(attend, space))

    attended = attended_by_hand(block, image, attend)
    torch.testing.assert_close(after, stream + 2 * attended)
    torch.testing.assert_close(scores, scores_by_hand(block, image, attended, space))


@pytest.mark.parametrize("attend", ATTEND)
@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("bounces", [0, 2])
def test_neighbouring_heads_of_queries_may_share_keys_and_values(block, attend, space, bounces):
    heads, sharing = 2 * HEADS, [0, 0, 1, 1, 2, 2]
    block.q, queries = random(B, heads, T, D, seed=1), random(B, heads, P, D, seed=3)
    (k, v), (keys, values) = random(2, B, HEADS, T, D, seed=6), random(2, B, HEADS, P, D, seed=2)
    rest = (random(B, P, heads * D, seed=4), lambda: queries, lambda: queries)
    stream, mean = random(B, T, heads * D, seed=5), token_mean(torch.tensor(OWNERS))
    found = []
    for ours, theirs in product((slice(None), sharing), repeat=2):  # of concepts, of the image
        block.k, block.v = k[:, ours], v[:, ours]
        image = ImageVectors(keys[:, theirs], values[:, theirs], *rest)
        found.append(step(block, stream, image, mean, Method(attend, space, bounces)))
    told = found.pop()
    assert len(found) == 3
    for grouped in found:
        assert all(torch.equal(one, other) for one, other in zip(grouped, told, strict=True))


def test_no_two_ways_give_the_same_scores(block, image):
    mean = token_mean(torch.tensor(OWNERS))
    stream = random(B, T, HEADS * D)
    found = [step(block, stream, image, mean, Method(a, "output"))[1] for a in ATTEND]
    found += [step(block, stream, image, mean, Method(space=s))[1] for s in SPACES if s != "output"]
    for i, one in enumerate(found):
        assert all((one - other).abs().max() > 1e-3 for other in found[:i])


def test_queries_before_rope_are_computed_only_when_compared(block, image):
    def never():
        raise AssertionError("asked for")

    silent = ImageVectors(image.keys, image.values, image.outputs, never, never)
    mean = token_mean(torch.tensor(OWNERS))
    for space in SPACES:
        if space != "cross-attention":
            step(block, random(B, T, HEADS * D), silent, mean, Method(space=space))


def test_a_step_changes_none_of_its_inputs(block, image):
    stream, mean = random(B, T, HEADS * D), token_mean(torch.tensor(OWNERS))
    given = [stream, mean, block.q, block.k, block.v, image.keys, image.values, image.outputs]
    before = [tensor.clone() for tensor in given]
    for attend, space in product(ATTEND, SPACES):
        step(block, stream, image, mean, Method(attend, space))
    assert all(torch.equal(now, then) for now, then in zip(given, before))


def test_token_mean_averages_the_tokens_of_each_concept():
    tokens = torch.tensor([[3.0], [4.0], [8.0], [5.0]])
    assert (token_mean(torch.tensor(OWNERS)) @ tokens).flatten().tolist() == [3, 6, 5]


def test_half_precision_stays_what_it_is(block, image):
    block.q, block.k, block.v = block.q.half(), block.k.half(), block.v.half()
    halves = (vectors.half() for vectors in (image.keys, image.values, image.outputs))
    small = ImageVectors(*halves, lambda: None, lambda: None)
    stream = random(B, T, HEADS * D).half()
    after, scores = step(block, stream, small, token_mean(torch.tensor(OWNERS)), Method())
    assert after.dtype == scores.dtype == torch.float16


@pytest.mark.parametrize(("attend", "space"), [("everything", "output"), ("image", "key")])
def test_an_unknown_way_is_an_error_that_lists_the_known_ones(attend, space):
    with pytest.raises(ConceptAttentionError) as error:
        Method(attend, space)
    accepted = ATTEND if attend not in ATTEND else SPACES
    assert all(choice in str(error.value) for choice in accepted)


def test_the_oracle_covers_every_way():
    assert set(READ) == set(ATTEND)
    assert set(SPACES) == {"output", "value", "cross-attention"}


def test_the_defaults_are_the_papers():
    assert Method() == Method("concepts and image", "output")


# --- propagation ----------------------------------------------------------------------------------


def bounced_by_hand(scores: Tensor, image: ImageVectors) -> Tensor:
    """Each patch takes the scores of the patches it attends to, averaged over heads."""
    out = torch.zeros_like(scores)
    queries = image.queries()
    for b, head, p in product(range(B), range(HEADS), range(P)):
        logits = [float(queries[b, head, p] @ image.keys[b, head, i]) / D**0.5 for i in range(P)]
        weights = [math.exp(logit) for logit in logits]
        for i, weight in enumerate(weights):
            out[b, :, p] += scores[b, :, i] * weight / sum(weights) / HEADS
    return out


@pytest.mark.parametrize("count", [1, 3, 2 * D + 1])  # also more concepts than a head is wide
def test_a_bounce_is_the_images_own_attention(image, count):
    scores = random(B, count, P, seed=4)
    once = propagate(scores, image, 1)
    torch.testing.assert_close(once, bounced_by_hand(scores, image), atol=1e-5, rtol=1e-5)
    twice = propagate(scores, image, 2)
    torch.testing.assert_close(twice, propagate(once, image, 1))


def test_bounces_keep_what_is_the_same_everywhere_and_smooth_the_rest(image):
    flat = torch.full((B, 2, P), 0.7)
    torch.testing.assert_close(propagate(flat, image, 3), flat)
    scores = random(B, 2, P, seed=5)
    bounced = propagate(scores, image, 1)
    assert (bounced.amax(2) < scores.amax(2)).all() and (bounced.amin(2) > scores.amin(2)).all()


def test_a_step_bounces_its_scores_and_leaves_the_stream_alone(block, image):
    concepts, mean = random(B, T, HEADS * D), token_mean(torch.tensor(OWNERS))
    stream, plain = step(block, concepts, image, mean, Method())
    again, bounced = step(block, concepts, image, mean, Method(bounces=2))
    assert torch.equal(stream, again)
    assert torch.equal(bounced, propagate(plain, image, 2))


@pytest.mark.parametrize("bounces", [-1, 4])
def test_bounces_have_a_limit(bounces):
    with pytest.raises(ConceptAttentionError, match="bounce 0 to 3 times"):
        Method(bounces=bounces)
