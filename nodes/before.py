"""What can be known before anything is sampled, for the nodes' `validate_inputs`.

ComfyUI tells `validate_inputs` the values of a node's own widgets, but not what is connected to it.
So the prompt is kept while it is checked, and the words that were asked for are read off it.
"""

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any

from comfy_execution.utils import get_executing_context

from ..conceptattention_core import ConceptAttentionError, ranges
from ..conceptattention_core.concepts import BACKGROUND, ConceptSet, key_of, parse, split_names
from ..conceptattention_core.hosts.comfyui.upstream import Node, Upstream
from ..conceptattention_core.texts import clean_text

_prompt: ContextVar[Mapping[str, Any] | None] = ContextVar("prompt", default=None)


def keep_prompt(request: dict[str, Any]) -> dict[str, Any]:
    """For ComfyUI's `add_on_prompt_handler`: each request has a context of its own."""
    _prompt.set(request.get("prompt"))
    return request


def refusal(*checks: Callable[[], object]) -> bool | str:
    """What `validate_inputs` answers: True, or the sentence of the first check that fails."""
    for check in checks:
        try:
            check()
        except ConceptAttentionError as error:
            return str(error)
    return True


def check_concepts(text: str | None, live: str | None = None) -> None:
    """An error unless a text, where there is one, is concepts, and `live` one of them or empty."""
    if text is not None:
        concepts, name = parse(clean_text(text)), clean_text(live or "").strip()
        if name and key_of(name) != BACKGROUND:  # may be added by a widget
            concepts.index_of(name)


def check_range(text: str | None, what: str) -> None:
    """An error unless a text, where there is one, is a range of `what`, however many there are."""
    if text is not None:
        ranges.check_range(clean_text(text), what)


def check_names(text: str | None, link: str, *, needed: bool) -> None:
    """An error where names, comma-separated, are none of the concepts behind the input `link`.

    `needed`: also where there is none. Nothing is said where the graph does not tell the concepts.
    """
    if text is None:
        return
    names, known = split_names(clean_text(text)), concepts_behind(link)
    if needed and not names:
        listed = f" Recorded: {', '.join(known[0].names)}." if known else ""
        raise ConceptAttentionError(f"No concept was named.{listed}")
    for name in names:
        check_name(name, known)


def check_name(name: str, known: list[ConceptSet]) -> None:
    """An error that names the first of these sets of concepts if none has this one."""
    reasons = []
    for concepts in known:
        try:
            concepts.index_of(name)
        except ConceptAttentionError as reason:
            reasons.append(reason)
    if known and len(reasons) == len(known):
        raise reasons[0]


def concepts_behind(link: str) -> list[ConceptSet]:
    """What the concepts of the node that is checked may be; none where the graph leaves it open."""
    context = get_executing_context()
    if context is None:
        return []
    return _concepts_of(context.node_id, link)


def _concepts_of(node: str, link: str) -> list[ConceptSet]:
    own = _find(node)
    source = None if own is None else own.links.get(link)
    before = None if source is None else _find(source)
    if source is None or before is None:
        return []
    if before.kind == "ConceptAttentionMasks":
        return _concepts_of(source, "maps")
    if before.kind == "ConceptAttentionLocate":
        return _read([before])
    if before.kind == "ConceptAttentionMaps":
        records = [
            record
            for name in ("latent", "model")
            for record in Upstream.of(_find, source, name).records
        ]
        return _read(records)
    return []


def _find(node: str) -> Node | None:
    own = (_prompt.get() or {}).get(node)
    return own and Node(own["class_type"], own["inputs"])


def _read(nodes: list[Node]) -> list[ConceptSet]:
    """The concepts of nodes; none where one of them gets its words from others, or has none."""
    read = []
    for node in nodes:
        words, background = node.inputs.get("concepts"), node.inputs.get("background", False)
        if not isinstance(words, str) or not isinstance(background, bool):
            return []
        try:
            read.append(parse(clean_text(words), background))
        except ConceptAttentionError:  # that node says so
            return []
    return read
