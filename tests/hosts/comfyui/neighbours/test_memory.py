"""Memory runs out while the model is called, and the host tries again."""

from typing import Any

import comfy.model_management
import comfy.patcher_extension
import comfy.sample
import comfy.samplers
import comfy.sd
import comfy.utils
import pytest
import torch
from conceptattention.conceptattention_core import ConceptAttentionError
from conceptattention.conceptattention_core.hosts.comfyui.store import STORE
from conceptattention.conceptattention_core.recording import Recorder
from torch import Tensor

from ....comfyui.tiny import Tiny
from .common import first_step


def with_retries(tiny: Tiny, model: Any, rows: int) -> Any:
    """A pack that goes on with parts of a batch when memory ends inside a call of over `rows`."""

    def short_of_memory(args, original):
        if len(args["img"]) > rows:
            raise comfy.model_management.OOM_EXCEPTION("no memory is left")
        return original(args)

    def around_call(apply, args):
        x, t, given = args["input"], args["timestep"], args["c"]
        try:
            return apply(x, t, **given)
        except comfy.model_management.OOM_EXCEPTION:
            made = []
            for start in range(0, len(x), rows):
                part = slice(start, start + rows)
                own = {name: rows_of(value, part, len(x)) for name, value in given.items()}
                kind = args["cond_or_uncond"][start * len(args["cond_or_uncond"]) // len(x)]
                options = {**given["transformer_options"], "cond_or_uncond": [kind]}
                own["transformer_options"] = options
                made.append(apply(x[part], t[part], **own))
            return torch.cat(made)

    retrying = model.clone()
    tiny.around(retrying, 1, short_of_memory)
    retrying.set_model_unet_function_wrapper(around_call)
    return retrying


def rows_of(value: Any, part: slice, batch: int) -> Any:
    return value[part] if isinstance(value, Tensor) and len(value) == batch else value


def test_a_call_that_is_made_again_after_oom_is_recorded_once(tiny, monkeypatch):
    kept, add = [], Recorder.add
    monkeypatch.setattr(
        Recorder, "add", lambda self, step, scores: kept.append(step) or add(self, step, scores)
    )
    latent = tiny.sample(with_retries(tiny, tiny.recorded(), rows=2), cfg=3.0)
    assert kept == [0, 1]
    assert torch.equal(latent, tiny.sample(with_retries(tiny, tiny.model(), rows=2), cfg=3.0))
    expected = first_step(tiny)
    found = STORE.find(latent).scores[:, 0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_a_batch_made_one_by_one_records_nothing_and_says_why(tiny):
    latent = tiny.sample(with_retries(tiny, tiny.recorded(), rows=1), cfg=3.0)
    assert torch.equal(latent, tiny.sample(with_retries(tiny, tiny.model(), rows=1), cfg=3.0))
    with pytest.raises(ConceptAttentionError, match="only parts of the picture"):
        STORE.find(latent)
