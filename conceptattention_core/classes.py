"""Classes known by their names, because not every version of a host has them."""

from typing import Any


def is_a(thing: Any, name: str) -> bool:
    """Whether it is of the class of this full name, or of one made from it."""
    return any(f"{kind.__module__}.{kind.__qualname__}" == name for kind in type(thing).__mro__)
