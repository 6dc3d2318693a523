"""The text encoder that reads the concepts: one that is not the model's is refused here.

Whatever encodes the prompt is ComfyUI's business. A concept is cut out of what its encoder gives,
by counting: rows of another encoder would be cut in the wrong place, and what was read there
would look like a concept.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from comfy.model_management import OOM_EXCEPTION, InterruptProcessingException
from torch import Tensor, nn

from ... import ConceptAttentionError

if TYPE_CHECKING:
    from .families.base import Family

HOST = (OOM_EXCEPTION, InterruptProcessingException)
"""What is ComfyUI's own to handle: it frees memory and tries again, or ends the prompt."""


@dataclass(frozen=True)
class Encoder:
    """A CLIP as families read with it. Rows of another width than the model's text are refused."""

    clip: Any
    family: str
    model: str | None
    """What ComfyUI calls the text encoder of the model; None where that is unknown."""
    width: int | None
    """How many numbers a row of it has; None where that is unknown."""

    def tokenize(self, text: str) -> dict[str, list]:
        return self.clip.tokenize(text)

    def encode_from_tokens(self, tokens: dict[str, list], return_dict: bool = True) -> dict:
        encoded = self.clip.encode_from_tokens(tokens, return_dict=return_dict)
        found = encoded["cond"].shape[-1]
        if self.width not in (None, found):
            own = "" if self.model is None else f" of {self.model}"
            wanted = f"rows{own} that are {self.width} wide"
            raise misfit(self.family, self, tokens, wanted, f"gives rows that are {found} wide")
        return encoded


def embed(family: "Family", network: nn.Module, settings: Any, clip: Any, words: list[str]) -> Any:
    """For each concept the rows of its own tokens, as `family.embed` gives them.

    `settings` are ComfyUI's of the model; they know its text encoder. Raises ConceptAttentionError
    for a CLIP that does not fit the model.
    """
    encoder = Encoder(clip, family.name, _encoder_of(settings), _width(family, network))
    try:
        return family.embed(encoder, words)
    except (ConceptAttentionError, *HOST):
        raise
    except Exception as error:  # whatever another kind of encoder makes of our calls
        own = "the model's own" if encoder.model is None else encoder.model
        raise ConceptAttentionError(
            f"{family.name} could not read concepts with this CLIP, {_named(clip)}, in the place "
            f"of {own}: {type(error).__name__}: {error}. Connect the CLIP that encodes the prompt."
        ) from error


def expect_rows(rows: Tensor, counts: tuple[int, ...], key: str, clip: Any, family: str) -> None:
    """Refuse rows `n d` that are none of `counts` in number, the rows of the encoder `key`."""
    if len(rows) not in counts:
        wanted = f"the rows of '{key}', one for each token"
        found = f"gives {len(rows)} rows where {counts[0]} were expected"
        raise misfit(family, clip, {}, wanted, found)


def misfit(
    family: str, clip: Any, tokens: Mapping[str, Any], wanted: str, found: str
) -> ConceptAttentionError:
    """The refusal of a CLIP that is not the model's."""
    keys = f" with {', '.join(tokens)}" if tokens else ""
    return ConceptAttentionError(
        f"{family} reads concepts with {wanted}; this CLIP, {_named(clip)}{keys}, {found}. "
        "Connect the CLIP that encodes the prompt."
    )


def _named(clip: Any) -> str:
    clip = clip.clip if isinstance(clip, Encoder) else clip
    return type(getattr(clip, "cond_stage_model", clip)).__name__.rstrip("_")


def _encoder_of(settings: Any) -> str | None:
    try:
        return settings.clip_target({}).clip.__name__.rstrip("_")
    except Exception:  # it is for a sentence only, and many settings ask the encoder's weights
        return None


def _width(family: "Family", network: nn.Module) -> int | None:
    try:
        return family.text_width(network)
    except AttributeError:  # a layer of another pack's own
        return None
