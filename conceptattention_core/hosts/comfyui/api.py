"""For other packs in a running ComfyUI: recorded models and maps in a few lines of Python.

A folder in custom_nodes cannot be imported by its name. So this module is registered as
`conceptattention` when ComfyUI loads this pack (`nodes/__init__.py`)::

    import conceptattention as ca                  # inside a function: packs load in any order

    model = ca.record(model, clip, "dragon, rock")   # MODEL; sample with it as ever
    maps = ca.maps_of(latent)                        # of the LATENT that came out
    maps = ca.locate(model, clip, vae, image, "dragon, rock")   # of an IMAGE that exists already

The public names of `conceptattention_core` are here, too, but for those that need diffusers.
docs/examples/other_pack is a pack with two nodes that do this.
"""

from typing import TYPE_CHECKING, Any

from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ... import ConceptAttentionError
from ... import __getattr__ as _find_public_name
from ...concepts import ConceptSet
from ...maps import ConceptMaps, ReadSpec, read_maps
from ...recording import RecordSpec
from ...specs import FindFields, ReadFields, RecordFields, change, locate_specs, record_spec
from . import locate as locating
from . import patch
from .store import STORE

if TYPE_CHECKING:
    from typing_extensions import Unpack

NAME = "conceptattention"
"""Under which `sys.modules` has this module while ComfyUI runs."""

__all__ = ["ConceptAttentionError", "locate", "maps_of", "record"]


def record(
    model: ModelPatcher,
    clip: Any,
    concepts: str | ConceptSet | RecordSpec,
    *,
    background: bool = False,
    **fields: "Unpack[RecordFields]",
) -> ModelPatcher:
    """A clone of a MODEL that records the concepts whenever it samples, as Record Concepts does.

    `clip` reads the concepts. The picture stays the same bit for bit. Fields of RecordSpec may be
    given as keywords.
    """
    return patch.record(model, clip, record_spec(concepts, background, fields))


def maps_of(
    latent: Any, model: ModelPatcher | None = None, **reading: "Unpack[ReadFields]"
) -> ConceptMaps:
    """The maps of a LATENT (or its samples, `b ...`) that a recorded MODEL made.

    `model` is the recorded one that is meant, where several made the very same latent. Fields of
    ReadSpec may be given as keywords.
    """
    samples: Tensor = latent["samples"] if isinstance(latent, dict) else latent
    spec = None if model is None else patch.spec_of(model)
    return read_maps(STORE.find(samples, spec), change(ReadSpec(), reading))


def locate(
    model: ModelPatcher,
    clip: Any,
    vae: Any,
    image: Tensor,
    concepts: str | ConceptSet | RecordSpec,
    *,
    background: bool = False,
    **fields: "Unpack[FindFields]",
) -> ConceptMaps:
    """The maps of an IMAGE `b h w rgb`, 0..1, that exists already, as Locate Concepts has them.

    Fields of RecordSpec and of LocateSpec may be given as keywords.
    """
    spec, how = locate_specs(concepts, background, fields)
    recording = locating.locate(model, clip, vae, image, spec, how)
    return read_maps(recording, ReadSpec(blocks="all"))


def __getattr__(name: str) -> Any:
    return _find_public_name(name)
