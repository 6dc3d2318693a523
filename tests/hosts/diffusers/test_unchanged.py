"""Recording changes nothing, in any family, by any method, whatever goes wrong."""

import copy
from collections.abc import Callable

import pytest
import torch
from conceptattention.conceptattention_core.attention import ATTEND, SPACES, Method
from conceptattention.conceptattention_core.hosts.diffusers.families import FAMILIES, family_of
from conceptattention.conceptattention_core.hosts.diffusers.patch import record
from conceptattention.conceptattention_core.maps import read_maps
from conceptattention.conceptattention_core.recording import Grid, RecordSpec

from .helpers import SPEC, generate, hook_state, record_run
from .tiny import TINY, Tiny


def test_every_family_has_a_toy_pipeline():
    assert [family.name for family in FAMILIES] == list(TINY)


TWO = ["a red balloon", "the moon"]
RUNS: dict[str, Callable[[Tiny], dict]] = {
    "plain": lambda tiny: {},
    "one row": lambda tiny: {"height": 16, "width": 112},
    "guided": lambda tiny: {"height": 80, "width": 48, **tiny.guided},
    "two prompts": lambda tiny: {"prompt": TWO, **({tiny.copies: 2} if tiny.copies else {})},
    "two prompts, guided": lambda tiny: {
        "prompt": TWO,
        **tiny.guided,
        **({"negative_prompt": ["a", "cat"]} if "negative_prompt" in tiny.guided else {}),
    },
}


@pytest.mark.parametrize("run", RUNS)
def test_recording_changes_nothing(pipe, tiny, run):
    changed = RUNS[run](tiny)
    plain = generate(pipe, **changed)
    before = list(hook_state(pipe))
    with record(pipe, SPEC) as session:
        recorded = generate(pipe, **changed)
    assert torch.equal(plain, recorded)
    assert list(hook_state(pipe)) == before
    h, w = plain.shape[-2:]
    assert session.recording().grid == Grid(h // 16, w // 16, 16, h, w, time=tiny.time)
    heard = (len(plain) * tiny.time.frames, 3, 3, 3, h // 16, w // 16)
    assert session.recording().scores.shape == heard
    assert session.recording().scores.isfinite().all()


@pytest.mark.parametrize("attend", ATTEND)
@pytest.mark.parametrize("space", SPACES)
def test_recording_changes_nothing_with_any_method(pipe, attend, space):
    spec = RecordSpec(SPEC.concepts, tokens="first", method=Method(attend, space))
    with record(pipe, spec) as session:
        recorded = generate(pipe)
    assert torch.equal(generate(pipe), recorded)
    maps = read_maps(session.recording()).maps
    torch.testing.assert_close(maps.sum(dim=1), torch.ones_like(maps[:, 0]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_recording_changes_nothing_in_half_precision(pipe, dtype):
    half = copy.deepcopy(pipe).to(dtype)
    with record(half, SPEC) as session:
        recorded = generate(half)
    assert torch.equal(generate(half), recorded)
    exact = record_run(pipe)
    assert session.recording().steps == exact.steps
    maps, expected = read_maps(session.recording()).maps, read_maps(exact).maps
    assert (maps - expected).abs().mean() < 0.05


def test_an_exception_in_the_pipeline_leaves_no_trace(pipe):
    before = list(hook_state(pipe))

    def fail(pipeline, i, t, tensors):
        raise RuntimeError("out of paint")

    with pytest.raises(RuntimeError, match="out of paint"), record(pipe, SPEC):
        generate(pipe, callback_on_step_end=fail)
    assert list(hook_state(pipe)) == before
    assert torch.equal(record_run(pipe).scores, record_run(pipe).scores)


def test_an_exception_inside_a_block_leaves_no_trace(pipe):
    before = list(hook_state(pipe))

    def fail(module, args):
        raise RuntimeError("torn canvas")

    block = family_of(pipe).blocks(pipe.transformer)[1]
    handle = family_of(pipe).attention(block).to_out[0].register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="torn canvas"), record(pipe, SPEC) as session:
        generate(pipe)
    handle.remove()
    assert list(hook_state(pipe)) == before
    assert session.forward is None
