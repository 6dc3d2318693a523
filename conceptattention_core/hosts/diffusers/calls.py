"""What a transformer and its first block are called with, by the names that diffusers gives it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

from torch import Tensor

NOT_GIVEN: Any = None
"""Stands for an argument that a family's transformer, or this call of it, does not have."""

BATCHED = (
    "hidden_states",
    "timestep",
    "guidance",
    "pooled_projections",
    "encoder_hidden_states",
    "encoder_hidden_states_mask",
)
"""Arguments of a transformer that have one row for each row of the call."""

Call = TypeVar("Call", bound="ModelCall | BlockCall")


@dataclass(frozen=True, eq=False)
class ModelCall:
    """One call of a transformer."""

    hidden_states: Tensor
    """Noised latents, one for each row of the call: `b p n` where the pipeline packs them, else
    `b c h w`, with an axis of frames where the model has one."""
    encoder_hidden_states: Tensor
    """The text of each row, `b t n`."""
    timestep: Tensor
    """The noise level, one for each row or one for all, in the transformer's own unit."""
    guidance: Tensor | None = None
    """The strength of distilled guidance, `b`, in models that take it."""
    pooled_projections: Tensor = NOT_GIVEN
    """The pooled text, `b n`."""
    encoder_hidden_states_mask: Tensor | None = None
    """Which tokens of a text are no padding, `b t` (Qwen-Image)."""
    img_ids: Tensor = NOT_GIVEN
    """Positions of patches, `p n` or `b p n` (Flux.1 and Flux.2)."""
    img_shapes: Sequence[Any] = NOT_GIVEN
    """Patches along time, height and width of each image, or several of each row (Qwen-Image)."""
    num_ref_tokens: int = 0
    """Patches of reference images (Flux.2 Klein KV)."""
    kv_cache_mode: str | None = None
    """What is done with the keys of reference images (Flux.2 Klein KV)."""

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> "ModelCall":
        """From all arguments, by name; those that no family needs are left out."""
        return _known(cls, arguments)

    def select(self, rows: Sequence[int]) -> "ModelCall":
        """The same call of some of its rows alone."""
        batch = len(self.hidden_states)
        if list(rows) == list(range(batch)):
            return self
        batched = {
            name: value[list(rows)]
            for name, value in vars(self).items()
            if name in BATCHED and isinstance(value, Tensor) and value.ndim and len(value) == batch
        }
        return replace(self, **batched)


@dataclass(frozen=True, eq=False)
class BlockCall:
    """One call of a joint-attention block."""

    hidden_states: Tensor = NOT_GIVEN
    """The image stream, `b p (head d)`."""
    encoder_hidden_states: Tensor = NOT_GIVEN
    """The text stream, `b t (head d)`."""
    temb: Tensor = NOT_GIVEN
    """What modulates both streams, `b n`, from the noise level and, in most families, pooled text.
    """
    temb_mod_txt: Tensor = NOT_GIVEN
    """The modulation of the text stream in all blocks, `b (six d)` (Flux.2)."""
    image_rotary_emb: Any = None
    """Rotary positions: cosines and sines `n d`, or complex numbers (Qwen-Image)."""
    freqs_cis: tuple[Tensor, Tensor] = NOT_GIVEN
    """Rotary positions of patches, cosines and sines `p d` (HunyuanVideo)."""

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> "BlockCall":
        """From all arguments, by name; those that no family needs are left out."""
        return _known(cls, arguments)


def _known(kind: type[Call], arguments: Mapping[str, Any]) -> Call:
    names = [field.name for field in fields(kind)]
    return kind(**{name: arguments[name] for name in names if name in arguments})
