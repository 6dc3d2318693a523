"""ConceptAttention (Helbling et al., ICML 2025, arXiv 2502.04320), free of any host.

Concept tokens go through the joint-attention blocks of a diffusion transformer. They read the
image, the image never reads them, so the image stays as it is; the similarity of image and
concept vectors in the output space of the attention says where each concept is.

Data, in the order it flows::

    ConceptSet -> a family embeds it -> attention.step per block -> Recorder -> Recording
               -> maps.read_maps -> ConceptMaps -> masks.draw_masks -> one mask per concept

Axes, one letter or word each, everywhere in this package:

    b      images of a batch              t      text-encoder rows that stand for concepts
    c      concepts                       p      patches of the image, row by row (y x)
    y x    the patch grid                 h w    pixels of the image
    step   sampling steps                 block  joint-attention blocks
    frame  of a video; in `b` the frames of each follow one another
    head d attention heads, their width   rgb    colours
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .texts import escape_text

if TYPE_CHECKING:
    from .api import RecordedRun as RecordedRun
    from .api import Results as Results
    from .api import evaluate as evaluate
    from .api import generate as generate
    from .api import locate as locate
    from .api import record as record
    from .api import segment as segment
    from .attention import Method as Method
    from .concepts import Concept as Concept
    from .concepts import ConceptSet as ConceptSet
    from .concepts import parse as parse
    from .locating import LocateSpec as LocateSpec
    from .maps import ConceptMaps as ConceptMaps
    from .maps import ReadSpec as ReadSpec
    from .maps import measure_presence as measure_presence
    from .maps import read_maps as read_maps
    from .masks import MaskSpec as MaskSpec
    from .masks import draw_masks as draw_masks
    from .recording import Recording as Recording
    from .recording import RecordSpec as RecordSpec

    __version__: str

_PUBLIC = {
    "record": "api",
    "locate": "api",
    "generate": "api",
    "segment": "api",
    "evaluate": "api",
    "RecordedRun": "api",
    "Results": "api",
    "Method": "attention",
    "Concept": "concepts",
    "ConceptSet": "concepts",
    "parse": "concepts",
    "LocateSpec": "locating",
    "ConceptMaps": "maps",
    "ReadSpec": "maps",
    "measure_presence": "maps",
    "read_maps": "maps",
    "MaskSpec": "masks",
    "draw_masks": "masks",
    "Recording": "recording",
    "RecordSpec": "recording",
}
"""Public names and their modules, which are imported when a name is first used: they need torch."""

__all__ = ["ConceptAttentionError", "__version__", *_PUBLIC]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from .version import read_version

        found = read_version()
    elif name in _PUBLIC:
        found = getattr(import_module(f".{_PUBLIC[name]}", __name__), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class ConceptAttentionError(ValueError):
    """A request that cannot be met. The message says what was asked, found and accepted.

    It can always be encoded and logged, whatever text it quotes.
    """

    # ComfyUI shows this before the class's name, and its own name of the module is a path
    __module__ = "conceptattention"

    def __str__(self) -> str:
        return escape_text(super().__str__())

    def __reduce__(self):
        # other processes find the class by a function: what `__module__` names may not exist there
        if type(self) is ConceptAttentionError:
            return _make_error, self.args, self.__dict__ or None
        return super().__reduce__()


def _make_error(*args: object) -> ConceptAttentionError:
    return ConceptAttentionError(*args)
