"""The door that what comes into a node goes through: masks, texts and numbers put right."""

import math
from collections.abc import Callable
from functools import wraps
from inspect import signature
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..conceptattention_core import ConceptAttentionError
from ..conceptattention_core.texts import clean_text

MOST_OF_8_BITS = 255


def accepting(execute: Callable[..., io.NodeOutput]) -> Callable[..., io.NodeOutput]:
    """An `execute` that gets each input as its schema promises it, whatever was connected.

    A MASK is `b h w`, float32, 0..1; a STRING can be encoded and holds no control characters; a
    FLOAT is finite. What cannot be put right is a ConceptAttentionError that names the input.
    """
    names = list(signature(execute).parameters)[1:]

    @wraps(execute)
    def accept(cls: type[io.ComfyNode], *args: Any, **inputs: Any) -> io.NodeOutput:
        given = dict(zip(names, args)) | inputs
        kinds = {one.id: one.io_type for one in cls.define_schema().inputs}
        return execute(cls, **{name: _accept(kinds[name], name, it) for name, it in given.items()})

    return accept


def _accept(kind: str, name: str, given: Any) -> Any:
    put_right = _DOORS.get(kind)
    if put_right is None or given is None:
        return given
    if isinstance(given, list):  # of a node that takes whole lists
        return [put_right(name, one) for one in given]
    return put_right(name, given)


def to_masks(name: str, mask: Tensor) -> Tensor:
    """Masks of any shape that packs give as `b h w`, float32, 0..1.

    Taken are `h w`, `b h w`, `b 1 h w`, `b h w 1` and more axes before them; of any type of number.
    Whole numbers beyond 1 count as 8 bits, 0 to 255; other values are cut to 0..1.
    """
    if not isinstance(mask, Tensor):
        raise ConceptAttentionError(f"'{name}' takes masks, got {type(mask).__name__}.")
    shape = tuple(mask.shape)
    if mask.ndim > 3 and shape[-1] == 1 and shape[-3] != 1:
        mask = mask[..., 0]
    elif mask.ndim > 3 and shape[-1] in (3, 4) and shape[-3] not in (1, 3, 4):
        raise ConceptAttentionError(
            f"'{name}' takes masks, got pictures of the shape {shape}. Turn them into masks first."
        )
    if mask.ndim < 2 or not mask.numel():
        raise ConceptAttentionError(
            f"'{name}' takes masks of height and width, got none: a tensor of the shape {shape}."
        )
    if mask.ndim != 3:
        mask = mask.reshape(-1, *mask.shape[-2:])
    whole = not (mask.is_floating_point() or mask.is_complex())
    mask = mask.real if mask.is_complex() else mask
    mask = mask.float()
    if not bool(mask.isfinite().all()):
        raise ConceptAttentionError(
            f"'{name}' got a mask with values that are no numbers (NaN) or infinite. The node that "
            "made it failed, or its picture did."
        )
    least, most = (end.item() for end in mask.aminmax())
    if whole and most > 1:
        mask = mask / MOST_OF_8_BITS
    return mask if 0 <= least and most <= 1 else mask.clamp(0, 1)


def to_text(name: str, text: Any) -> str:
    """Any text as one that can be encoded, written into names of files, and logged."""
    return clean_text(str(text))


def to_number(name: str, number: Any) -> float:
    """A number, or an error for one that is none."""
    try:
        finite = math.isfinite(number)
    except (TypeError, OverflowError):
        finite = False
    if not finite:
        raise ConceptAttentionError(f"'{name}' takes a number, got {clean_text(str(number))}.")
    return number


_DOORS: dict[str, Callable[[str, Any], Any]] = {
    io.Mask.io_type: to_masks,
    io.String.io_type: to_text,
    io.Float.io_type: to_number,
}
