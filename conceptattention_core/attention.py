"""Concept tokens in a joint-attention block: ConceptAttention, arXiv 2502.04320, section 4.

Concepts use the text stream's own weights. Their queries read the image (and each other); nothing
reads them, so image and prompt stay bit for bit as they were. What a block attends for concepts
and for the image lives in one space, its *output space*, and there their dot product says how
much of a concept is at a patch.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
import torch.nn.functional as F
from einops import einsum, rearrange, repeat
from torch import Tensor

from . import ConceptAttentionError


@dataclass(frozen=True)
class ImageVectors:
    """The image inside an attention layer.

    Its keys and values are the very tensors of the ordinary attention, positions applied; they have
    fewer heads than its queries where a few of these share one (grouped-query attention).
    `outputs` are attention outputs *before* the output projection.
    """

    keys: Tensor  # b head p d
    values: Tensor  # b head p d
    outputs: Tensor  # b p (head d)
    unplaced_queries: Callable[[], Tensor]  # b head p d, before positions; asked for on demand
    queries: Callable[[], Tensor]  # b head p d, positions applied; asked for on demand


@dataclass(frozen=True)
class ConceptVectors:
    """The concepts inside an attention layer, their keys as they are before positions."""

    keys: Tensor  # b head t d
    values: Tensor  # b head t d
    outputs: Tensor  # b t (head d)


class JointBlock(Protocol):
    """The text side of one joint-attention block, lent to the concepts. A family writes these."""

    def heads(self, concepts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys, values `b head t d` of the concept stream `b t (head d)`.

        Keys and values may have fewer heads, as those of the image may.
        """
        ...

    def place(self, heads: Tensor) -> Tensor:
        """Queries or keys `b head t d` at the positions where concepts stand among the text."""
        ...

    def update(self, concepts: Tensor, attended: Tensor) -> Tensor:
        """The stream after the block's residuals, from what was attended `b t (head d)`."""
        ...


# What concepts attend to: the ablation of the paper's section 5.


def _attend_both(q: Tensor, k: Tensor, v: Tensor, image: ImageVectors) -> Tensor:
    keys, values = torch.cat([k, image.keys], dim=2), torch.cat([v, image.values], dim=2)
    return F.scaled_dot_product_attention(q, keys, values)


def _attend_image(q: Tensor, k: Tensor, v: Tensor, image: ImageVectors) -> Tensor:
    return F.scaled_dot_product_attention(q, image.keys, image.values)


def _attend_concepts(q: Tensor, k: Tensor, v: Tensor, image: ImageVectors) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v)


def _attend_nothing(q: Tensor, k: Tensor, v: Tensor, image: ImageVectors) -> Tensor:
    return v


ATTEND: dict[str, Callable[[Tensor, Tensor, Tensor, ImageVectors], Tensor]] = {
    "concepts and image": _attend_both,
    "image": _attend_image,
    "concepts": _attend_concepts,
    "nothing": _attend_nothing,
}


# Where concepts and patches are compared. Each score is linear in the concept's vector.


def _score_outputs(concepts: ConceptVectors, image: ImageVectors, mean: Tensor) -> Tensor:
    return _similarity(mean @ concepts.outputs, image.outputs)


def _score_cross_attention(concepts: ConceptVectors, image: ImageVectors, mean: Tensor) -> Tensor:
    """The paper's comparison: concept key, image query before positions, mean over heads."""
    heads = concepts.keys.shape[1]
    return _similarity(mean @ _merge(concepts.keys), _merge(image.unplaced_queries())) / heads


def _score_values(concepts: ConceptVectors, image: ImageVectors, mean: Tensor) -> Tensor:
    return _similarity(mean @ _merge(concepts.values), _merge(image.values))


SPACES: dict[str, Callable[[ConceptVectors, ImageVectors, Tensor], Tensor]] = {
    "output": _score_outputs,
    "cross-attention": _score_cross_attention,
    "value": _score_values,
}


MOST_BOUNCES = 3


@dataclass(frozen=True)
class Method:
    """What concepts attend to and where they are compared. The defaults are the paper's."""

    attend: str = "concepts and image"
    space: str = "output"
    bounces: int = 0
    """How often scores pass through the image's attention to itself, see `propagate`."""

    def __post_init__(self):
        if not 0 <= self.bounces <= MOST_BOUNCES:
            raise ConceptAttentionError(
                f"Scores bounce 0 to {MOST_BOUNCES} times, got {self.bounces}."
            )
        for what, asked, accepted in (
            ("attend to", self.attend, ATTEND),
            ("space", self.space, SPACES),
        ):
            if asked not in accepted:
                raise ConceptAttentionError(
                    f"Unknown choice '{asked}' for {what}. Accepted: {', '.join(accepted)}."
                )


def token_mean(owners: Tensor) -> Tensor:
    """`c t`, rows sum to 1: the mean over the tokens of each concept; `owners` is t -> c."""
    belongs = F.one_hot(owners).T.float()
    return belongs / belongs.sum(1, keepdim=True)


def step(
    block: JointBlock, concepts: Tensor, image: ImageVectors, mean: Tensor, method: Method
) -> tuple[Tensor, Tensor]:
    """One block: the concept stream `b t (head d)` after it, and raw scores `b c p`.

    `mean` is `token_mean`: a concept's score is the mean of its tokens' scores, taken on the
    vectors because the score is linear in them.
    """
    q, k, v = block.heads(concepts)
    placed, k, v = (_ungroup(x, q) for x in (block.place(k), k, v))
    image = replace(image, keys=_ungroup(image.keys, q), values=_ungroup(image.values, q))
    attended = _merge(ATTEND[method.attend](block.place(q), placed, v, image))
    vectors = ConceptVectors(k, v, attended)
    scores = SPACES[method.space](vectors, image, mean.to(attended))
    if method.bounces:
        scores = propagate(scores, image, method.bounces)
    return block.update(concepts, attended), scores


def _ungroup(x: Tensor, queries: Tensor) -> Tensor:
    """Keys or values for each of the queries' heads: neighbours share theirs."""
    times = queries.shape[1] // x.shape[1]
    return x if times == 1 else repeat(x, "b head n d -> b (head times) n d", times=times)


def propagate(scores: Tensor, image: ImageVectors, bounces: int) -> Tensor:
    """Scores `b c p`, each patch taking those of the patches it attends to.

    One bounce is a step of the Markov chain that a block's image-image attention is (Erel et al.,
    arXiv 2507.17657), the mean over its heads. The scores go in as values of the attention, so
    the matrix of all pairs of patches is never kept.
    """
    q, k = image.queries(), image.keys
    _, heads, _, d = k.shape
    for _ in range(bounces):
        parts = []
        for part in scores.split(d, dim=1):  # as many at once as a head is wide
            values = F.pad(rearrange(part, "b c p -> b 1 p c"), (0, d - part.shape[1]))
            values = values.to(k).expand(-1, heads, -1, -1)
            bounced = F.scaled_dot_product_attention(q, k, values).mean(1)
            parts.append(rearrange(bounced[..., : part.shape[1]], "b p c -> b c p"))
        scores = torch.cat(parts, dim=1)
    return scores


def _merge(heads: Tensor) -> Tensor:
    return rearrange(heads, "b head n d -> b n (head d)")


def _similarity(concepts: Tensor, image: Tensor) -> Tensor:
    return einsum(concepts, image, "b c d, b p d -> b c p")
