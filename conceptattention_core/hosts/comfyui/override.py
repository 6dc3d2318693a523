"""ComfyUI's place for another attention, and the two shapes that heads come in there."""

from einops import rearrange
from torch import Tensor

OVERRIDE = "optimized_attention_override"
"""In `transformer_options`: called as override(attention, q, k, v, heads, ...) in its place."""


def split_heads(x: Tensor, heads: int) -> Tensor:
    """`b head n d` of what stands side by side."""
    if x.ndim == 4:  # SD3 leaves its values apart
        return rearrange(x, "b n head d -> b head n d")
    return rearrange(x, "b n (head d) -> b head n d", head=heads)


def merge_heads(x: Tensor) -> Tensor:
    """`b n (head d)` of `b head n d`."""
    return rearrange(x, "b head n d -> b n (head d)")
