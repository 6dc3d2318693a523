"""From what a caller writes to specs: text or a finished spec, and fields as keywords."""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, TypedDict, TypeVar

from . import ConceptAttentionError
from .attention import Method
from .concepts import ConceptSet, parse
from .locating import LocateSpec
from .maps import ReadSpec
from .ranges import DEEP
from .recording import RecordSpec

Spec = TypeVar("Spec", RecordSpec, LocateSpec, ReadSpec)


class RecordFields(TypedDict, total=False):
    """Those of RecordSpec but the concepts."""

    tokens: str
    method: Method
    blocks: str
    budget_mib: int


class LocateFields(TypedDict, total=False):
    """Those of LocateSpec."""

    caption: str
    noise: tuple[float, ...]
    samples: int
    seed: int
    megapixels: float


class FindFields(RecordFields, LocateFields, total=False):
    """Those of RecordSpec but the concepts, and those of LocateSpec."""


class ReadFields(TypedDict, total=False):
    """Those of ReadSpec."""

    steps: str
    blocks: str
    order: str
    temperature: float
    scale: str
    space: str | None


def record_spec(
    concepts: str | ConceptSet | RecordSpec,
    background: bool = False,
    given: Mapping[str, Any] | None = None,
) -> RecordSpec:
    """A RecordSpec of concepts as text, as a set, or as a spec, with the `given` fields.

    `background` adds a hidden concept to those in a text, as `concepts.parse` does.
    """
    if isinstance(concepts, RecordSpec):
        return change(concepts, given or {})
    if isinstance(concepts, str):
        concepts = parse(concepts, background)
    if not isinstance(concepts, ConceptSet):
        raise ConceptAttentionError(
            f"Concepts are a text, a ConceptSet or a RecordSpec; got {type(concepts).__name__}."
        )
    return change(RecordSpec(concepts), given or {})


def locate_specs(
    concepts: str | ConceptSet | RecordSpec, background: bool, given: Mapping[str, Any]
) -> tuple[RecordSpec, LocateSpec]:
    """What is looked for in an image, and how; `given` holds fields of both.

    Unless they are given, the blocks are those that `ReadSpec` reads: nothing after them runs.
    """
    recording, looking = (names(spec) for spec in (RecordSpec, LocateSpec))
    check_names(given, [*recording, *looking])
    own = {name: value for name, value in given.items() if name in recording}
    if not isinstance(concepts, RecordSpec):
        own = {"blocks": DEEP, **own}
    how = {name: value for name, value in given.items() if name in looking}
    return record_spec(concepts, background, own), LocateSpec(**how)


def names(spec: type) -> list[str]:
    """The fields of a spec that may be given by name."""
    return [field.name for field in fields(spec) if field.name != "concepts"]


def change(spec: Spec, given: Mapping[str, Any]) -> Spec:
    """`spec` with some fields changed, by name."""
    check_names(given, names(type(spec)))
    return replace(spec, **given)


def check_names(given: Mapping[str, Any], accepted: list[str]) -> None:
    """An error that lists what is accepted unless all names are."""
    if unknown := [name for name in given if name not in accepted]:
        raise ConceptAttentionError(
            f"Unknown: {', '.join(unknown)}. Accepted: {', '.join(accepted)}."
        )
