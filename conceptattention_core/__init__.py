"""ConceptAttention (Helbling et al., ICML 2025, arXiv 2502.04320), free of any host.

Concept tokens ride through the joint-attention blocks of a diffusion transformer. They read the
image, the image never reads them, so the picture stays as it is; the similarity of image and
concept vectors in the output space of the attention says where each concept is.

Data, in the order it flows::

    ConceptSet -> a family embeds it -> attention.step per block -> Recorder -> Recording
               -> maps.read_maps -> ConceptMaps -> masks.draw -> one mask per concept

Axes, one letter or word each, everywhere in this package:

    b      pictures of a batch            t      text-encoder rows that stand for concepts
    c      concepts                       p      patches of the picture, row by row (y x)
    y x    the patch grid                 h w    pixels of the picture
    step   sampling steps                 block  joint-attention blocks
    frame  of a video; in `b` the frames of each follow one another
    head d attention heads, their width   rgb    colours
"""

from .texts import escape_text


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
