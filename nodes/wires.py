"""The wire of concept maps, and schemas that every supported ComfyUI takes."""

import dataclasses
from typing import Any

from comfy_api.latest import io

ConceptMapsWire = io.Custom("CONCEPT_MAPS")


def schema(node_id: str, display_name: str, **fields: Any) -> io.Schema:
    """A schema in our category. Fields that this ComfyUI does not know yet are left out."""
    known = {field.name for field in dataclasses.fields(io.Schema)}
    kept = {name: value for name, value in fields.items() if name in known}
    return io.Schema(
        node_id=node_id, display_name=display_name, category="ConceptAttention", **kept
    )


def advanced(widget: io.WidgetInput) -> io.WidgetInput:
    """Fold an input away until it is asked for, where this ComfyUI's page can."""
    widget.extra_dict = {**(widget.extra_dict or {}), "advanced": True}
    return widget
