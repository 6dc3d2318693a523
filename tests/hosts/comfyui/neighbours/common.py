"""What several tests of this folder share."""

from typing import Any

from conceptattention.conceptattention_core.hosts.comfyui.store import STORE
from torch import Tensor

from ....comfyui.tiny import Tiny


def first_step(tiny: Tiny, model: Any = None, **prompts: Any) -> Tensor:
    """What is heard in the first step: whatever was before it is the same noise."""
    latent = tiny.sample(tiny.recorded(model=model), steps=1, cfg=3.0, **prompts)
    return STORE.find(latent).scores[:, 0]
