"""The concepts on their way through the blocks of a model, in one call of it."""

from dataclasses import dataclass

from torch import Tensor

from .attention import ImageVectors, JointBlock, step
from .recording import RecordSpec
from .tokens import ConceptTokens


class StopForward(Exception):  # noqa: N818 - a signal, no error
    """Ends a call of the model after its last block of interest."""


@dataclass(frozen=True, eq=False)
class RecordPlan:
    """What is recorded of a model: the same for each of its runs."""

    model: str
    """The name of its family."""
    spec: RecordSpec
    """What the user asked for."""
    blocks: range
    """The joint-attention blocks that are scored; concepts pass all those before the last."""
    tokens: ConceptTokens
    """The concepts as the model's text encoder reads them."""
    stops: bool = False
    """Whether a call of the model ends with the last of `blocks`, by `StopForward`."""


class ConceptForward:
    """The concepts in one call of a model: where they are, and their scores so far."""

    def __init__(self, plan: RecordPlan):
        self.plan = plan
        self.index = 0
        """The block that is next."""
        self.scores: list[Tensor] = []
        """`b c p` for each scored block."""
        self._concepts: Tensor | None = None

    def start(self, concepts: Tensor) -> None:
        """Let the concepts `b t (head d)` start before block 0."""
        self._concepts, self._mean = concepts, self.plan.tokens.mean.to(concepts)

    @property
    def started(self) -> bool:
        return self._concepts is not None

    @property
    def done(self) -> bool:
        """Whether every block of interest was scored."""
        return len(self.scores) == len(self.plan.blocks)

    def is_due(self, index: int) -> bool:
        """Whether the concepts stand before the block `index`."""
        return self.started and index == self.index

    def step(self, block: JointBlock, image: ImageVectors) -> None:
        """Take the concepts through the block that is next, given the image in its attention."""
        assert self._concepts is not None
        method = self.plan.spec.method
        self._concepts, scores = step(block, self._concepts, image, self._mean, method)
        if self.index in self.plan.blocks:
            self.scores.append(scores)
        self.index += 1
        if self.plan.stops and self.index == self.plan.blocks.stop:
            raise StopForward
