"""Real pipelines at toy size: diffusers' and transformers' own classes with random weights.

To add a family, write its file beside this one and list it in TINY: the law tests run over FAMILIES
and fail where one is missing here.
"""

from . import cogvideox, flux, flux2, hunyuan_video, qwen_image, sd3
from .common import LENGTH as LENGTH
from .common import Tiny as Tiny
from .flux import save_tiny_flux as save_tiny_flux
from .flux import tiny_flux as tiny_flux

TINY: dict[str, Tiny] = {
    "Flux.1": flux.TINY,
    "SD3": sd3.TINY,
    "Qwen-Image": qwen_image.TINY,
    "Flux.2": flux2.TINY,
    "CogVideoX": cogvideox.TINY,
    "HunyuanVideo": hunyuan_video.TINY,
}
