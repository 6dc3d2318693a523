"""What lies before a node in the graph that ComfyUI executes: read, never changed.

A recording is found by its latent, which does not depend on the words. The Record Concepts before
the latent tell which words were asked; and where nothing was recorded, what lies before it tells
why.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

RECORD = "ConceptAttentionRecord"
MODEL_INPUTS = ("model", "model1", "guider")
SECOND_MODEL = "model2"  # of a merge, which takes nothing but its weights

NO_RECORD = (
    "No Record Concepts lies before this latent: put it between the model and the sampler that "
    "made it."
)
NO_STEPS = (
    "{sampler} makes no step (its denoise or steps is 0), so that nothing was recorded: give it "
    "some, or connect the latent of the sampler before it."
)
ONLY_WEIGHTS = (
    "Record Concepts goes into '{second}' of {merge}, which takes only its weights: put it after "
    "the merge."
)
GOES_ROUND = (
    "{sampler} made this latent without ComfyUI's samplers, so that Record Concepts was never "
    "asked: use one that takes a MODEL and samples as KSampler does."
)
CHANGED = (
    "This latent is not what came out of the sampler: {changed} changed it. Connect Concept Maps "
    "to the sampler itself."
)
CHANGED_BY_NONE = (
    "Record Concepts recorded another latent than this one. Connect the LATENT that comes straight "
    "from the sampler."
)


@dataclass(frozen=True)
class Node:
    """A node of a prompt."""

    kind: str
    inputs: Mapping[str, Any]

    @property
    def links(self) -> dict[str, str]:
        """The node each connected input comes from."""
        return {
            name: str(value[0])
            for name, value in self.inputs.items()
            if isinstance(value, (list, tuple)) and len(value) == 2 and isinstance(value[1], int)
        }


Find = Callable[[str], "Node | None"]
"""A node by its id; None where there is none."""


@dataclass(frozen=True)
class Upstream:
    """All nodes before an input, by their ids, the nearest first."""

    nodes: dict[str, Node]

    @classmethod
    def of(cls, find: Find, node: str, name: str) -> "Upstream":
        """What lies before the input `name` of a node."""
        own = find(node)
        first = [] if own is None or name not in own.links else [own.links[name]]
        return cls(_collect(find, first, lambda link: True))

    @property
    def records(self) -> list[Node]:
        """The Record Concepts nodes."""
        return [node for node in self.nodes.values() if node.kind == RECORD]

    def explain(self, recorded: bool) -> str:
        """Why no recording belongs to the latent; `recorded`: another one of these words exists."""
        if not self.records:
            return NO_RECORD
        for node in self.nodes.values():
            if 0 in (node.inputs.get("denoise"), node.inputs.get("steps")):
                return NO_STEPS.format(sampler=node.kind)
        nearest, nodes = next(iter(self.nodes)), list(self.nodes.values())
        if not _has_record(_collect(self.nodes.get, [nearest], _carries_hooks)):
            for node, name, source in self._links():
                if not _carries_hooks(name) and self._leads_to_record(source):
                    return ONLY_WEIGHTS.format(second=name, merge=node.kind)
        sampler = next(
            (
                node
                for node, name, source in self._links()
                if name in MODEL_INPUTS and self._leads_to_record(source)
            ),
            nodes[0],
        )
        if not recorded:
            return GOES_ROUND.format(sampler=sampler.kind)
        return CHANGED_BY_NONE if nodes[0] is sampler else CHANGED.format(changed=nodes[0].kind)

    def _links(self) -> Iterator[tuple[Node, str, str]]:
        """Each connected input: its node, its name, the node before it."""
        for node in self.nodes.values():
            for name, source in node.links.items():
                yield node, name, source

    def _leads_to_record(self, node: str) -> bool:
        return _has_record(_collect(self.nodes.get, [node], lambda link: True))


def _carries_hooks(link: str) -> bool:
    """Whether what was added to a model goes on through this input of a merge."""
    return not link.startswith(SECOND_MODEL)


def _has_record(nodes: Mapping[str, Node]) -> bool:
    return any(node.kind == RECORD for node in nodes.values())


def _collect(find: Find, first: list[str], follows: Callable[[str], bool]) -> dict[str, Node]:
    """The nodes `first` and all before them, along the inputs that `follows` accepts."""
    nodes: dict[str, Node] = {}
    waiting = list(first)
    while waiting:
        at = waiting.pop(0)
        if at not in nodes and (found := find(at)) is not None:
            nodes[at] = found
            waiting.extend(source for name, source in found.links.items() if follows(name))
    return nodes
