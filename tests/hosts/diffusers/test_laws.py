"""What holds for every family: recording changes nothing, and what it hears makes sense."""

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from conceptattention.conceptattention_core import ConceptAttentionError
from conceptattention.conceptattention_core.attention import ATTEND, SPACES, ImageVectors, Method
from conceptattention.conceptattention_core.concepts import parse
from conceptattention.conceptattention_core.hosts.diffusers import patch
from conceptattention.conceptattention_core.hosts.diffusers.families import FAMILIES, find
from conceptattention.conceptattention_core.hosts.diffusers.families.base import see, see_still
from conceptattention.conceptattention_core.hosts.diffusers.locate import locate
from conceptattention.conceptattention_core.hosts.diffusers.patch import record
from conceptattention.conceptattention_core.locating import LocateSpec, draw_looks
from conceptattention.conceptattention_core.maps import read_maps
from conceptattention.conceptattention_core.recording import Grid, Recording, RecordSpec
from diffusers import DiffusionPipeline, FlowMatchHeunDiscreteScheduler, SchedulerMixin
from einops import rearrange
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .tiny import LENGTH, TINY, Tiny

SPEC = RecordSpec(parse("red balloon, sky, sea: the green sea"))
CALL = {"prompt": "a red balloon over the sea", "height": 48, "width": 80}


def paint(pipe: DiffusionPipeline, seed: int = 0, **changed) -> Tensor:
    """The pictures of a short run, `b rgb h w`, or its videos, `b frame rgb h w`."""
    usual = {"num_inference_steps": 3, "max_sequence_length": LENGTH, "output_type": "pt"}
    settings = {**usual, **CALL, **TINY[find(pipe).name].call, **changed}
    generator = torch.Generator().manual_seed(seed)
    return pipe(**settings, generator=generator, return_dict=False)[0]


def heard(pipe: DiffusionPipeline, spec: RecordSpec = SPEC, seed: int = 0, **changed) -> Recording:
    with record(pipe, spec) as listener:
        paint(pipe, seed, **changed)
    return listener.recording()


def hooks(pipe: DiffusionPipeline) -> Iterator[tuple[str, list, list, list, object]]:
    """All that recording could leave behind in the transformer."""
    for name, module in pipe.transformer.named_modules():
        pre, post = module._forward_pre_hooks, module._forward_hooks
        keyed = module._forward_pre_hooks_with_kwargs
        yield name, list(pre), list(post), list(keyed), getattr(module, "processor", None)


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
    plain = paint(pipe, **changed)
    before = list(hooks(pipe))
    with record(pipe, SPEC) as listener:
        recorded = paint(pipe, **changed)
    assert torch.equal(plain, recorded)
    assert list(hooks(pipe)) == before
    h, w = plain.shape[-2:]
    assert listener.recording().grid == Grid(h // 16, w // 16, 16, h, w, time=tiny.time)
    heard = (len(plain) * tiny.time.frames, 3, 3, 3, h // 16, w // 16)
    assert listener.recording().scores.shape == heard
    assert listener.recording().scores.isfinite().all()


@pytest.mark.parametrize("attend", ATTEND)
@pytest.mark.parametrize("space", SPACES)
def test_recording_changes_nothing_with_any_method(pipe, attend, space):
    spec = RecordSpec(SPEC.concepts, tokens="first", method=Method(attend, space))
    with record(pipe, spec) as listener:
        recorded = paint(pipe)
    assert torch.equal(paint(pipe), recorded)
    maps = read_maps(listener.recording()).maps
    torch.testing.assert_close(maps.sum(dim=1), torch.ones_like(maps[:, 0]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_recording_changes_nothing_in_half_precision(pipe, dtype):
    half = copy.deepcopy(pipe).to(dtype)
    with record(half, SPEC) as listener:
        recorded = paint(half)
    assert torch.equal(paint(half), recorded)
    exact = heard(pipe)
    assert listener.recording().steps == exact.steps
    maps, expected = read_maps(listener.recording()).maps, read_maps(exact).maps
    assert (maps - expected).abs().mean() < 0.05


# --- concepts are what a prompt would be ----------------------------------------------------------


class Calls:
    """Listens to modules on its own: the named inputs and the outputs of each call."""

    def __init__(self, *modules: nn.Module):
        self.inputs: list[dict] = []
        self.outputs: list = []
        self.handles = [m.register_forward_hook(self.keep, with_kwargs=True) for m in modules]

    def keep(self, module, args, kwargs, output):
        self.inputs.append(dict(kwargs))
        self.outputs.append(output)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        for handle in self.handles:
            handle.remove()


def call_of(pipe: DiffusionPipeline, **changed) -> dict:
    """What the transformer is called with first in a run."""
    with Calls(pipe.transformer) as calls:
        paint(pipe, **changed)
    return calls.inputs[0]


@pytest.fixture
def steps(monkeypatch) -> list[tuple[Tensor, Tensor, ImageVectors]]:
    """For each step of the concepts their stream before and after it, and the image."""
    seen = []

    def spy(block, concepts, image, mean, method):
        after, scores = step(block, concepts, image, mean, method)
        seen.append((concepts, after, image))
        return after, scores

    step = patch.step
    monkeypatch.setattr(patch, "step", spy)
    return seen


@torch.no_grad()
def test_riding_equals_being_the_prompt(pipe, tiny, steps):
    family, model = find(pipe), pipe.transformer
    call = tiny.bare(call_of(pipe))
    if "pooled_projections" in call:
        call["pooled_projections"] = torch.zeros_like(call["pooled_projections"])
    rows = call["encoder_hidden_states"][0]
    tour = patch.Tour(family, SPEC, range(3), tiny.number(rows), torch.eye(len(rows)))
    ears = patch.Ears(pipe, tour)
    ears.forward = patch.Forward(tour, family.grid(pipe, call), model, call, pictures=1)
    handles = list(patch.hang_on_blocks(ears))
    with Calls(*family.blocks(model)) as blocks:
        model(**call)
    for handle in handles:
        handle.remove()
    streams = [streams[1 if tiny.image_first else 0] for streams in blocks.outputs]
    assert len(steps) == len(streams) == 3
    for (before, after, _), text in zip(steps, streams, strict=True):
        if text is not None:  # SD3's last block has none
            torch.testing.assert_close(after, text, atol=1e-5, rtol=1e-5)
            assert not torch.allclose(after, before, atol=1e-2)


def test_pooled_text_does_not_move_concepts(pipe, monkeypatch):
    family, entered = find(pipe), []

    def spy(model, rows, call, first):
        entered.append((model, rows, call, first))
        return enter(*entered[-1])

    enter = family.enter
    monkeypatch.setattr(family, "enter", spy)
    heard(pipe, num_inference_steps=1)
    model, rows, call, first = entered[0]
    pooled = call.get("pooled_projections")
    if pooled is None:
        pytest.skip("this family has no pooled text")
    rides = [enter(model, rows, {**call, "pooled_projections": pooled * n}, first) for n in (0, 1)]
    assert all(map(torch.equal, *(ride.block(0).heads(ride.concepts) for ride in rides)))


def test_a_concept_is_read_as_if_it_were_the_prompt_alone(pipe, tiny):
    with record(pipe, SPEC) as listener:
        pass
    rows = listener.tour.rows
    for concept in SPEC.concepts.concepts:
        text = call_of(pipe, prompt=concept.words)["encoder_hidden_states"][-1]
        own = slice(tiny.start, tiny.start + len(concept.words.split()))
        expected = tiny.number(text)[own]
        # what a family numbers besides places is its own
        kept = len(rows[0]) if tiny.column == "places" else text.shape[1]
        torch.testing.assert_close(rows[: len(expected), :kept], expected[:, :kept])
        rows = rows[len(expected) :]
    assert len(rows) == 0


def test_the_first_token_alone_stands_for_a_concept_when_asked(pipe):
    both = RecordSpec(parse("a: red, b: red balloon, c: sky"), tokens="first")
    with record(pipe, both) as listener:
        assert listener.tour.mean.tolist() == torch.eye(3).tolist()


class Attention(TorchFunctionMode):
    """Sees what goes through torch's attention."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func is F.scaled_dot_product_attention:
            q, k, v = (*args, *(kwargs[name] for name in ("query", "key", "value")[len(args) :]))
            self.seen.append((q, k, v, out))
        return out


def test_the_image_vectors_are_those_of_the_ordinary_attention(pipe, tiny, steps):
    with Attention() as attention:
        grid = heard(pipe, num_inference_steps=1).grid
    joint = [seen for seen in attention.seen if seen[0].shape[2] > grid.patches]
    for _, _, image in steps:
        merged = rearrange(image.outputs, "b p (head d) -> b head p d", head=image.keys.shape[1])
        ours = (image.queries(), image.keys, image.values, merged)
        assert any(
            all(map(torch.equal, ours, (x[:, :, patches] for x in theirs)))
            for theirs in joint
            for patches in (slice(grid.patches), slice(-grid.patches, None))
        )
        lengths = (q.norm(dim=-1) for q in (image.queries_before_rope(), image.queries()))
        torch.testing.assert_close(*lengths)


# --- pictures that exist already ------------------------------------------------------------------

PICTURES = torch.rand(2, 3, 48, 80, generator=torch.Generator().manual_seed(3))


def still(pipe: DiffusionPipeline) -> dict:
    """What makes a run one of pictures: a video of one."""
    return {"num_frames": 1} if "num_frames" in TINY[find(pipe).name].call else {}


@torch.no_grad()
def test_a_look_at_a_picture_is_a_step_towards_it(pipe):
    """A look calls the transformer with all that sampling calls it with."""
    how = LocateSpec("a red balloon", noise=(0.25, 0.5), samples=2)
    family, seen = find(pipe), []
    located = locate(pipe, PICTURES, SPEC, how, progress=lambda: seen.append(1))
    assert located.grid == Grid(3, 5, 16, 48, 80, size=(48, 80))
    assert located.scores.shape == (2, 2, 3, 3, 3, 5)
    assert located.pictures == 2
    assert len(seen) == how.looks
    latent = family.encode(pipe, PICTURES)
    looked = family.prepare(pipe, latent.shape, how.caption, LENGTH)(latent, 0.5)
    sampled = call_of(pipe, prompt=[how.caption] * 2, num_inference_steps=2, **still(pipe))
    tensors = {name for name, value in sampled.items() if isinstance(value, Tensor)}
    assert tensors <= set(looked)
    for name in tensors:
        assert looked[name].shape == sampled[name].shape
    same = {"encoder_hidden_states", "encoder_attention_mask", "txt_ids", "img_ids"} & tensors
    for name in (*same, *({"image_rotary_emb"} & set(sampled))):
        torch.testing.assert_close(looked[name], sampled[name])


def level_of(scheduler: SchedulerMixin, timestep: Tensor) -> float:
    """The noise level of a timestep: that of rectified flow with as much noise to the latent."""
    if not hasattr(scheduler, "alphas_cumprod"):
        return timestep.item() / 1000
    ratio = (1 / scheduler.alphas_cumprod[timestep.long()] - 1).sqrt().item()
    return ratio / (1 + ratio)


def look_and_sample(pipe: DiffusionPipeline) -> tuple[Recording, Recording]:
    """A look at a picture, and a run whose second step starts from the same one, noised."""
    family, picture, levels = find(pipe), PICTURES[:1], []
    caption = CALL["prompt"]
    latent = family.encode(pipe, picture).float()
    ((_, _, noise),) = draw_looks(LocateSpec(), latent)
    arguments = family.prepare(pipe, latent.shape, caption, LENGTH)

    def start_at_the_picture(pipeline, i, t, tensors):
        if i > 0:
            return {}
        scheduler = pipeline.scheduler
        now = scheduler.timesteps[1:2]
        levels.append(level_of(scheduler, now))
        flows = hasattr(scheduler, "scale_noise")
        noised = (
            scheduler.scale_noise(latent, now, noise)
            if flows
            else scheduler.add_noise(latent, noise, now)
        )
        return {"latents": arguments(noised, levels[0])["hidden_states"]}

    def without_pooled_text_and_guidance(transformer, args, kwargs):
        zeros = {
            name: torch.zeros_like(kwargs[name])
            for name in ("pooled_projections", "guidance")
            if kwargs.get(name) is not None
        }
        return args, {**kwargs, **zeros}

    handle = pipe.transformer.register_forward_pre_hook(
        without_pooled_text_and_guidance, with_kwargs=True
    )
    try:
        sampled = heard(pipe, callback_on_step_end=start_at_the_picture, **still(pipe))
    finally:
        handle.remove()
    return locate(pipe, picture, SPEC, LocateSpec(caption, noise=tuple(levels))), sampled


def test_a_look_hears_what_sampling_hears_from_the_same_noised_picture(pipe):
    located, sampled = look_and_sample(pipe)
    torch.testing.assert_close(located.scores[:, 0], sampled.scores[:, 1], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(located.scores[:, 0], sampled.scores[:, 2], atol=1e-2)


@torch.no_grad()
def encode_and_decode(pipe: DiffusionPipeline) -> tuple[Tensor, Tensor]:
    """What the autoencoder makes of a picture, and what the pipeline makes of our latent of it."""
    family, picture = find(pipe), PICTURES[:1]
    latent = family.encode(pipe, picture)
    packed = family.prepare(pipe, latent.shape, "", LENGTH)(latent, 0.5)["hidden_states"]
    painted = paint(
        pipe,
        num_inference_steps=1,
        callback_on_step_end=lambda *_: {"latents": packed},
        **still(pipe),
    )
    is_video = "num_frames" in still(pipe)
    looks_at_videos = any(isinstance(part, nn.Conv3d) for part in pipe.vae.modules())
    seen = see_still(pipe, picture) if looks_at_videos else see(pipe, picture)
    rebuilt = pipe.vae.decode(seen).sample
    rebuilt = (rebuilt if rebuilt.ndim == 4 else rebuilt[:, :, 0]) / 2 + 0.5
    return rebuilt.clamp(0, 1), painted[:, 0] if is_video else painted


def test_what_a_picture_is_encoded_to_is_what_the_pipeline_decodes(pipe):
    torch.testing.assert_close(*encode_and_decode(pipe), atol=1e-5, rtol=1e-5)


# --- concepts among themselves, and runs ----------------------------------------------------------


def test_permuting_concepts_permutes_maps(pipe):
    turned = RecordSpec(parse("sea: the green sea, red balloon, sky"))
    torch.testing.assert_close(heard(pipe, turned).scores, heard(pipe).scores[:, :, :, [2, 0, 1]])


def test_a_concept_given_twice_gets_equal_maps(pipe):
    maps = read_maps(heard(pipe, RecordSpec(parse("sky, cat, twin: sky"))))
    torch.testing.assert_close(maps.of("sky"), maps.of("twin"))


def test_the_second_run_equals_the_first_and_another_seed_differs(pipe):
    assert torch.equal(heard(pipe).scores, heard(pipe).scores)
    assert not torch.equal(heard(pipe).scores, heard(pipe, seed=1).scores)


def test_the_last_run_counts(pipe):
    with record(pipe, SPEC) as listener:
        paint(pipe, seed=1, height=32)
        first = listener.recording()
        paint(pipe)
    assert first.grid.h == 32
    assert torch.equal(listener.recording().scores, heard(pipe).scores)


def test_listeners_keep_apart(pipe):
    other = RecordSpec(parse("moon, cloud"), blocks="1")
    with record(pipe, SPEC) as outer, record(pipe, other) as inner:
        paint(pipe)
    assert torch.equal(outer.recording().scores, heard(pipe).scores)
    assert torch.equal(inner.recording().scores, heard(pipe, other).scores)


def test_each_picture_of_a_batch_is_recorded_as_if_alone(pipe, tiny):
    prompts = ["a red balloon", "the moon over the sea"]
    noise = torch.randn(2, *tiny.noise, generator=torch.Generator().manual_seed(2))
    both = heard(pipe, prompt=prompts, latents=noise).scores.chunk(2)
    for i, prompt in enumerate(prompts):
        alone = heard(pipe, prompt=prompt, latents=noise[i : i + 1]).scores
        torch.testing.assert_close(both[i], alone, atol=1e-4, rtol=1e-4)


def test_the_negative_prompt_is_not_heard(pipe, tiny):
    # the first step starts from the same noise whatever the guidance
    plain, guided = heard(pipe), heard(pipe, **tiny.guided)
    torch.testing.assert_close(plain.scores[:, 0], guided.scores[:, 0], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(plain.scores[:, 1], guided.scores[:, 1], atol=1e-3)
    assert guided.steps == plain.steps == ((0, 0), (1, 1), (2, 2))


def test_a_prompt_swapped_between_steps_is_still_the_prompt(pipe, tiny):
    def swap(pipeline, i, t, tensors):
        return {"prompt_embeds": tensors["prompt_embeds"].flip(1)}

    swapped = heard(
        pipe,
        callback_on_step_end=swap,
        callback_on_step_end_tensor_inputs=["prompt_embeds"],
        **tiny.guided,
    )
    assert swapped.steps == ((0, 0), (1, 1), (2, 2))
    assert not torch.equal(swapped.scores[:, 1], heard(pipe, **tiny.guided).scores[:, 1])


SHIFT = {
    "base_image_seq_len": 256,
    "max_image_seq_len": 4096,
    "base_shift": 0.5,
    "max_shift": 1.15,
}  # older pipelines read it from every scheduler


class Heun(FlowMatchHeunDiscreteScheduler):
    """The real scheduler, called as pipelines call theirs."""

    def set_timesteps(self, num_inference_steps=None, device=None, sigmas=None, mu=None):
        super().set_timesteps(num_inference_steps or len(sigmas), device)


def test_a_second_order_scheduler_counts_steps_and_not_calls(pipe, tiny):
    if not tiny.heun:
        pytest.skip("this family has schedulers of its own")
    heun = copy.copy(pipe)
    heun.scheduler = Heun()
    heun.scheduler.register_to_config(**SHIFT)
    for changed in ({}, tiny.guided):
        steps = heard(heun, num_inference_steps=4, **changed).steps
        assert steps == ((0, 0), (1, 1), (2, 2), (3, 3))


def test_steps_keep_apart_in_bfloat16(pipe):
    half = copy.deepcopy(pipe).to(torch.bfloat16)
    steps = heard(half, num_inference_steps=40, height=16, width=16).steps
    assert steps == tuple((i, i) for i in range(40))


def test_a_run_that_stops_early_leaves_the_steps_it_made(pipe):
    def stop(pipeline, i, t, tensors):
        pipeline._interrupt = i == 1
        return {}

    recording = heard(pipe, num_inference_steps=5, callback_on_step_end=stop)
    assert recording.steps == ((0, 0), (1, 1))


def test_blocks_that_are_not_scored_are_still_ridden(pipe):
    late = heard(pipe, RecordSpec(SPEC.concepts, blocks="last 1"))
    assert late.blocks == ((2, 2),)
    assert torch.equal(late.scores, heard(pipe).scores[:, :, 2:])


def test_fused_projections_are_heard_too(pipe, tiny):
    if not tiny.fuses:
        pytest.skip("diffusers does not fuse the projections of this toy")
    fused = copy.deepcopy(pipe)
    fused.transformer.fuse_qkv_projections()
    with record(fused, SPEC) as listener:
        recorded = paint(fused)
    assert torch.equal(paint(fused), recorded)
    torch.testing.assert_close(
        listener.recording().scores, heard(pipe).scores, atol=1e-4, rtol=1e-4
    )


def test_an_exception_in_the_pipeline_leaves_no_trace(pipe):
    before = list(hooks(pipe))

    def fail(pipeline, i, t, tensors):
        raise RuntimeError("out of paint")

    with pytest.raises(RuntimeError, match="out of paint"), record(pipe, SPEC):
        paint(pipe, callback_on_step_end=fail)
    assert list(hooks(pipe)) == before
    assert torch.equal(heard(pipe).scores, heard(pipe).scores)


def test_an_exception_inside_a_block_leaves_no_trace(pipe):
    before = list(hooks(pipe))

    def fail(module, args):
        raise RuntimeError("torn canvas")

    block = find(pipe).blocks(pipe.transformer)[1]
    handle = find(pipe).attention(block).to_out[0].register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="torn canvas"), record(pipe, SPEC) as listener:
        paint(pipe)
    handle.remove()
    assert list(hooks(pipe)) == before
    assert listener.forward is None


def test_blocks_that_something_else_skips_are_said_to_be_silent(pipe, tiny):
    class Replaced(nn.Module):
        def forward(self, hidden_states, encoder_hidden_states, *rest, **named):
            streams = (encoder_hidden_states, hidden_states)
            return streams[::-1] if tiny.image_first else streams

    skipping = copy.deepcopy(pipe)
    find(pipe).blocks(skipping.transformer)[1].forward = Replaced().forward
    with pytest.raises(ConceptAttentionError, match="Nothing was captured"):
        heard(skipping)


def test_a_listener_without_a_run_says_so(pipe):
    with record(pipe, SPEC) as listener, pytest.raises(ConceptAttentionError, match="No picture"):
        listener.recording()


def test_blocks_that_are_not_there_are_refused(pipe):
    spec = RecordSpec(SPEC.concepts, blocks="2-5")
    before = list(hooks(pipe))
    with pytest.raises(ConceptAttentionError, match="there are 3"), record(pipe, spec):
        pass
    assert list(hooks(pipe)) == before


def test_a_compiled_transformer_is_refused(pipe):
    compiled = copy.copy(pipe)
    compiled.transformer = torch.compile(pipe.transformer)
    partly = copy.deepcopy(pipe)
    find(pipe).blocks(partly.transformer)[1].compile()
    for one in (compiled, partly):
        with pytest.raises(ConceptAttentionError, match="compiled"), record(one, SPEC):
            pass


def test_a_pipeline_without_joint_attention_is_refused():
    class ImagePipeline:
        unet = nn.Linear(1, 1)

    class TextPipeline:
        transformer = nn.Linear(1, 1)

    message = r"joint text-image attention. Got {}; supported: Flux.1"
    for made, found in ((ImagePipeline(), "ImagePipeline"), (TextPipeline(), r".*\(Linear\)")):
        with pytest.raises(ConceptAttentionError, match=message.format(found)), record(made, SPEC):
            pass
