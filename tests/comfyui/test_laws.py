"""The laws of recording, for every family, on real models of ComfyUI at toy size."""

import gc
import importlib
import tracemalloc
from dataclasses import fields, replace
from functools import partial
from itertools import product

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy_extras.nodes_custom_sampler as custom
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from conceptattention.conceptattention_core import ConceptAttentionError, forward
from conceptattention.conceptattention_core.attention import ATTEND, SPACES, Method, step
from conceptattention.conceptattention_core.concepts import parse
from conceptattention.conceptattention_core.hosts.comfyui import patch
from conceptattention.conceptattention_core.hosts.comfyui.call import POSITIVE, CallForward
from conceptattention.conceptattention_core.hosts.comfyui.families import FAMILIES, family_of
from conceptattention.conceptattention_core.hosts.comfyui.families.base import (
    PATCHED,
    BlockCall,
    Family,
    ModelCall,
)
from conceptattention.conceptattention_core.hosts.comfyui.locate import locate
from conceptattention.conceptattention_core.hosts.comfyui.override import OVERRIDE
from conceptattention.conceptattention_core.hosts.comfyui.run import Run
from conceptattention.conceptattention_core.hosts.comfyui.store import STORE
from conceptattention.conceptattention_core.locating import LocateSpec, draw_looks
from conceptattention.conceptattention_core.maps import ORDERS, ReadSpec, read_maps
from conceptattention.conceptattention_core.recording import Recorder, Recording, RecordSpec
from conceptattention.conceptattention_core.tokens import pack_tokens
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

import nodes as stock

from .tiny import (
    CONCEPTS,
    HERE,
    TINY,
    Tiny,
    WordReader,
    call,
    with_attention_override,
    with_block_patch,
    with_replaced_block,
)


@pytest.fixture(params=[family.name for family in FAMILIES])
def tiny(request) -> Tiny:
    if request.param not in HERE:
        pytest.skip("this ComfyUI does not have the family")
    return TINY[request.param]


@pytest.fixture(autouse=True)
def _empty_store():
    STORE.clear()


def test_every_family_has_a_tiny_model_and_knows_it():
    assert set(TINY) == {family.name for family in FAMILIES}
    for name, tiny in HERE.items():
        assert family_of(tiny.model().model.diffusion_model).name == name


# --- Law 1: recording changes nothing -------------------------------------------------------------


def two_stages(tiny: Tiny, model) -> Tensor:
    """KSamplerAdvanced twice, the second going on where the first stopped."""
    latent = {"samples": tiny.empty(2, 5, 7)}
    for start, end, noise, rest in ((0, 2, "enable", "enable"), (2, 4, "disable", "disable")):
        (latent,) = call(
            stock.KSamplerAdvanced,
            model=model, add_noise=noise, noise_seed=3, steps=4, cfg=3.0, sampler_name="euler",
            scheduler="simple", positive=tiny.prompt(1), negative=tiny.prompt(2),
            latent_image=latent, start_at_step=start, end_at_step=end,
            return_with_leftover_noise=rest,
        )  # fmt: skip
    return latent["samples"]


def custom_sampler(tiny: Tiny, model, stop_after: int = 9) -> tuple[Tensor, Tensor]:
    """What SamplerCustomAdvanced gives: the latent and the denoised latent."""
    (guider,) = call(custom.BasicGuider, model=model, conditioning=tiny.prompt(1))
    (noise,) = call(custom.RandomNoise, noise_seed=5)
    (sampler,) = call(custom.KSamplerSelect, sampler_name="euler")
    (sigmas,) = call(custom.BasicScheduler, model=model, scheduler="simple", steps=3, denoise=1.0)
    out, denoised = call(
        custom.SamplerCustomAdvanced,
        noise=noise, guider=guider, sampler=sampler, sigmas=sigmas[: stop_after + 1],
        latent_image={"samples": tiny.empty(2, 5, 7)},
    )  # fmt: skip
    return out["samples"], denoised["samples"]


RUNS = {
    "one picture": lambda tiny, model: tiny.sample(model, (1, 8, 8)),
    "three pictures, odd sides": lambda tiny, model: tiny.sample(model, (3, 5, 7)),
    "cfg, one picture": lambda tiny, model: tiny.sample(model, (1, 9, 4), cfg=3.0),
    "cfg, three pictures, odd sides": lambda tiny, model: tiny.sample(model, (3, 5, 7), cfg=3.0),
    "prompts of different lengths": lambda tiny, model: tiny.sample(
        model, cfg=3.0, positive=tiny.prompt(1, tokens=5), negative=tiny.prompt(2, tokens=9)
    ),
    "two prompts together": lambda tiny, model: tiny.sample(
        model, cfg=3.0, positive=tiny.prompt(1) + tiny.prompt(4)
    ),
    "image to image": lambda tiny, model: tiny.sample(
        model, cfg=3.0, steps=5, start=tiny.latent(2, 5, 7, seed=9), denoise=0.6
    ),
    "inpainting": lambda tiny, model: tiny.sample(
        model, start=tiny.latent(2, 5, 7, seed=9), noise_mask=torch.eye(5, 7)[None, None]
    ),
    "heun": lambda tiny, model: tiny.sample(model, cfg=3.0, sampler="heun", steps=3),
    "dpm_2": lambda tiny, model: tiny.sample(model, cfg=3.0, sampler="dpm_2", steps=3),
    "euler_ancestral": lambda tiny, model: tiny.sample(model, sampler="euler_ancestral", steps=3),
    "KSamplerAdvanced, two stages": two_stages,
    "SamplerCustomAdvanced": lambda tiny, model: custom_sampler(tiny, model)[0],
}


@pytest.mark.parametrize("run", RUNS)
def test_recording_changes_nothing_and_records_every_picture(tiny, run):
    recorded = RUNS[run](tiny, tiny.recorded())
    plain = RUNS[run](tiny, tiny.model())
    assert torch.equal(recorded, plain)
    assert plain.std() > 0.1
    recording = STORE.find(recorded)
    assert len(recording.scores) == len(plain) * max(tiny.frames, 1)
    assert recording.scores.isfinite().all()


@pytest.mark.parametrize("other", [with_block_patch, with_attention_override])
def test_recording_changes_nothing_beside_another_pack_before_or_after(tiny, other):
    def run(model):
        return tiny.sample(model, cfg=3.0)

    plain = run(other(tiny, tiny.model()))
    if other is with_attention_override and not tiny.overridden:
        assert torch.equal(plain, run(tiny.model()))
        heard = [STORE.find(run(m)).scores for m in (tiny.recorded(), other(tiny, tiny.recorded()))]
        assert torch.equal(*heard)
        pytest.skip("this family's attention looks for no other in ComfyUI's place for these")
    assert not torch.equal(plain, run(tiny.model()))
    scores = []
    for model in (
        tiny.recorded(model=other(tiny, tiny.model())),
        other(tiny, tiny.recorded()),
    ):
        recorded = run(model)
        assert torch.equal(recorded, plain)
        scores.append(STORE.find(recorded).scores)
    assert torch.equal(*scores)
    alone = STORE.find(run(tiny.recorded())).scores
    assert not torch.allclose(scores[0], alone)  # what is recorded is what the other pack made


def test_both_stages_are_recorded_each_with_its_own_steps(tiny):
    model = tiny.recorded()
    second = two_stages(tiny, model)
    assert STORE.find(second).steps == ((0, 0), (1, 1))


def test_steps_are_the_runs_own_where_its_sampler_tells_a_longer_schedule(tiny):
    model, steps = tiny.recorded(), 3

    def tell_longer(executor, guider, sigmas, extra_args, *args, **kwargs):
        earlier = sigmas[0] + torch.arange(9.0, 0, -1).to(sigmas)
        options = extra_args["model_options"]["transformer_options"]
        options["sample_sigmas"] = torch.cat([earlier, sigmas])
        return executor(guider, sigmas, extra_args, *args, **kwargs)

    model.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, "longer", tell_longer)
    latent = tiny.sample(model, steps=steps)
    assert STORE.find(latent).steps == tuple((step, step) for step in range(steps))


@pytest.mark.parametrize("sampler", ["heun", "dpm_2"])
def test_samplers_that_call_the_model_twice_a_step_record_every_step(tiny, sampler):
    latent = tiny.sample(tiny.recorded(), sampler=sampler, steps=3)
    assert STORE.find(latent).steps == ((0, 0), (1, 1), (2, 2))


def test_the_denoised_latent_finds_the_same_recording(tiny):
    noisy, denoised = custom_sampler(tiny, tiny.recorded(), stop_after=2)
    assert not torch.allclose(noisy, denoised)
    assert torch.equal(STORE.find(noisy).scores, STORE.find(denoised).scores)


# --- Law 2: riding equals being the prompt --------------------------------------------------------


def call_apart(tiny: Tiny, block: nn.Module, args: dict) -> tuple[dict, dict]:
    """Run one block and keep its output and what its joint attention was called with and gave."""
    seen = {}
    joint = args["txt"].shape[1] + args["img"].shape[1]

    def override(attention, q, k, v, heads, *rest, **kwargs):
        out = attention(q, k, v, heads, *rest, **kwargs)
        if not kwargs.get("skip_reshape"):
            q, k, v = (x.reshape(*x.shape[:2], heads, -1).transpose(1, 2) for x in (q, k, v))
        if q.shape[2] == joint:
            merged = heads_merged(out, kwargs)
            # several heads of queries may share one of values
            v = v.repeat_interleave(q.shape[1] // v.shape[1], dim=1)
            seen.update(q=q.clone(), v=v.clone(), out=merged.clone())
        return out

    _, keys = tiny.placeless(block)
    hook = keys.register_forward_hook(lambda _m, _a, out: seen.update(keys=tiny.keys(out).clone()))
    try:
        return tiny.run(block, args, {OVERRIDE: override}), seen
    finally:
        hook.remove()


def heads_merged(out: Tensor, how: dict) -> Tensor:
    """What an attention that was called so gave, as `b n (head d)`."""
    return out.transpose(1, 2).flatten(2) if how.get("skip_output_reshape") else out


def of_rows(value, rows: slice, b: int):
    """The rows of a batch of `b` of what a block was called with."""
    if isinstance(value, Tensor):
        return value[rows].clone() if len(value) == b else value.clone()
    if value is None or isinstance(value, int):
        return value
    if isinstance(value, (tuple, list)):
        return tuple(of_rows(part, rows, b) for part in value)
    parts = {field.name: of_rows(getattr(value, field.name), rows, b) for field in fields(value)}
    return replace(value, **parts)


class Witness:
    """Another pack's patches that note what each block was called with, positive rows only."""

    def __init__(self, tiny: Tiny, b: int):
        self.tiny, self.b = tiny, b
        self.args: dict[int, dict] = {}
        self.out: dict[int, Tensor] = {}
        self.queries: dict[int, Tensor] = {}
        self.network = tiny.model().model.diffusion_model

    def on(self, model):
        watched = model.clone()
        depth = len(family_of(self.network).blocks(self.network))
        for index in range(depth):
            self.tiny.around(watched, index, self._watch(index))
        return watched

    def _watch(self, index: int):
        def patch_of_block(args, original):
            options = args["transformer_options"]
            at = options["cond_or_uncond"].index(POSITIVE) * self.b
            rows = slice(at, at + self.b)
            self.args[index] = {
                name: of_rows(value, rows, len(args["img"]))
                for name, value in args.items()
                if isinstance(value, (Tensor, tuple, list))
            }
            text = args.get("num_tokens", args["txt"].shape[1])  # Mochi joins no padding
            joint = text + args["img"].shape[1]

            earlier = options.get(OVERRIDE)

            def override(attention, *rest, **kwargs):
                out = (attention if earlier is None else partial(earlier, attention))(
                    *rest, **kwargs
                )
                merged = heads_merged(out, kwargs)
                if merged.shape[1] == joint:
                    self.out[index] = merged[rows].clone()
                return out

            def before_positions(_module, _args, out):
                # where both streams have one norm, concepts come through it later
                self.queries.setdefault(index, self.tiny.queries(out)[rows].clone())

            options = {**options, OVERRIDE: override}
            queries, _ = self.tiny.placeless(self.tiny.block(self.network, index))
            hook = queries.register_forward_hook(before_positions)
            try:
                return original({**args, "transformer_options": options})
            finally:
                hook.remove()

        return patch_of_block


def scores_as_prompt(tiny: Tiny, witness: Witness, words: list[list[str]], space: str, grid):
    """For each block the scores `b c y x` of concepts that *are* the block's text."""
    clip = tiny.clip()
    rows = torch.cat([clip.row(word) for own in words for word in own])
    tokens = [c for c, own in enumerate(words) for _ in range(len(own) * tiny.readings)]
    text = 0 if tiny.text_last else witness.args[0]["txt"].shape[1]
    patches = grid.patches
    own = slice(patches, None) if tiny.text_last else slice(len(rows))
    picture = slice(patches) if tiny.text_last else slice(len(rows), None)
    stream = tiny.enter(witness.network, rows).expand(witness.b, -1, -1)
    found = []
    for index, args in sorted(witness.args.items()):
        stream = tiny.renew(witness.network, rows, stream, index)
        given = tiny.as_text(args, stream, text, patches)
        out, seen = call_apart(tiny, tiny.block(witness.network, index), given)
        stream = out["txt"]
        if space == "output":
            of_tokens = seen["out"][:, own]
            of_image = witness.out[index][:, text : text + patches]
        else:
            of_tokens = seen["keys" if space == "cross-attention" else "v"]
            if of_tokens.shape[2] > len(rows):  # keys of the text alone
                of_tokens = of_tokens[:, :, own]
            of_tokens = torch.cat(of_tokens.unbind(1), dim=-1)
            of_image = seen["v"][:, :, picture]
            if space == "cross-attention":
                of_image = witness.queries[index] / seen["q"].shape[1]
                start = text if of_image.shape[2] == witness.out[index].shape[1] else 0
                of_image = of_image[:, :, start : start + patches]
            of_image = torch.cat(of_image.unbind(1), dim=-1)
        products = of_tokens @ of_image.mT
        means = [
            products[:, [t for t, owner in enumerate(tokens) if owner == c]].mean(1)
            for c in range(len(words))
        ]
        frames = torch.stack(means, 1).unflatten(-1, (grid.time.frames, grid.y, grid.x))
        found.append(frames.transpose(1, 2).flatten(0, 1))
    return found


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize(("cfg", "references"), [(1.0, 0), (3.0, 0), (1.0, 2)])
def test_riding_equals_being_the_prompt(tiny, space, cfg, references):
    more = {}
    if references and not tiny.references:
        pytest.skip("this family has no reference pictures")
    if references:  # Kontext: tokens of other pictures behind those of this one
        latents = [tiny.latent(1, *tiny.reference, seed=n) for n in range(references)]
        more = {"reference_latents": latents}
    witness = Witness(tiny, b=2)
    latent = tiny.sample(
        witness.on(tiny.recorded(method=Method(space=space))),
        (2, 5, 7), steps=1, cfg=cfg, positive=tiny.prompt(1, pooled=0.0, **more),
    )  # fmt: skip
    recording = STORE.find(latent)
    with torch.inference_mode():
        expected = scores_as_prompt(
            tiny, witness, [["cat"], ["red", "dog"], ["sky"]], space, recording.grid
        )
    assert len(expected) == len(recording.blocks) > 1
    for index, scores in enumerate(expected):
        error = (recording.scores[:, 0, index] - scores).abs().max() / scores.abs().max()
        assert error <= 1e-5, f"block {index}: {error}"


@pytest.mark.parametrize("method", ["index", "offset", "index_timestep_zero"])
def test_references_change_nothing_and_are_not_in_the_maps(tiny, method):
    if not tiny.references:
        pytest.skip("this family has no reference pictures")
    if method == "index_timestep_zero" and tiny not in (TINY["Qwen-Image"], TINY["Krea 2"]):
        pytest.skip("ComfyUI has this way for Qwen-Image-Edit and Krea 2")
    latents = [tiny.latent(1, *tiny.reference)]
    positive = tiny.prompt(1, reference_latents=latents, reference_latents_method=method)
    recorded = tiny.sample(tiny.recorded(), cfg=3.0, positive=positive)
    assert torch.equal(recorded, tiny.sample(tiny.model(), cfg=3.0, positive=positive))
    found = STORE.find(recorded)
    assert found.scores.isfinite().all()
    assert found.scores.shape[-2:] == (found.grid.y, found.grid.x)


WITNESSED = {**PATCHED, "text_rotary": "text_pe", "zero_index": "current"}
"""What a witness calls the fields of a `BlockCall`, in families whose blocks are hooked."""


def block_call(family: Family, args: dict) -> BlockCall:
    """A block's call as a witness saw it."""
    return BlockCall.of(WITNESSED if family.hooked else family.arguments, args, {})


@torch.inference_mode()
def test_the_prompts_pooled_vector_does_not_reach_the_concepts(tiny):
    network = tiny.model().model.diffusion_model
    family = family_of(network)
    spec = RecordSpec(parse("cat, red dog"))
    tokens = pack_tokens(spec, family.embed(tiny.clip(), ["cat", "red dog"]))
    streams, modulations = [], []
    for pooled in (1.0, 0.0):
        witness = Witness(tiny, b=2)
        prompt = tiny.prompt(1, pooled=pooled)
        tiny.sample(witness.on(tiny.model()), (2, 5, 7), steps=1, positive=prompt)
        given = ModelCall(
            timesteps=torch.full((2,), 1000.0),
            text=prompt[0][0].expand(2, -1, -1),
            pooled=prompt[0][1]["pooled_output"].expand(2, -1),
        )
        calls = [block_call(family, args) for args in witness.args.values()]
        modulations.append([family.modulation(block) for block in calls])
        streams.append(family.start_stream(network, tokens, calls[0], given))
    concepts = streams[0].concepts
    for index in range(len(family.blocks(network))):
        pairs = zip(streams, modulations, strict=True)
        blocks = [stream.text_side(index, own[index]) for stream, own in pairs]
        heads = [block.heads(concepts) for block in blocks]
        torch.testing.assert_close(*heads, rtol=1e-4, atol=1e-5)
        q, _, v = heads[0]
        attended = torch.cat(v.repeat_interleave(q.shape[1] // v.shape[1], dim=1).unbind(1), dim=-1)
        after = [block.update(concepts, attended) for block in blocks]
        torch.testing.assert_close(*after, rtol=1e-4, atol=1e-5)


def test_every_way_of_riding_and_comparing_gives_its_own_scores(tiny):
    found = []
    for attend, space in product(ATTEND, SPACES):
        latent = tiny.sample(tiny.recorded(method=Method(attend, space)), cfg=3.0)
        scores = STORE.find(latent).scores
        assert scores.isfinite().all()
        assert all(not torch.allclose(scores, other) for other in found), (attend, space)
        found.append(scores)


class Halves:
    """Stands in for a VAE: the means of a picture's cells, in all channels alike."""

    def __init__(self, tiny: Tiny):
        self.tiny = tiny

    def encode(self, pixels: Tensor) -> Tensor:
        b, h, w, _ = pixels.shape
        cells = adaptive_avg_pool2d(
            pixels.mean(-1)[:, None], (h // self.tiny.scale, w // self.tiny.scale)
        )
        empty = self.tiny.empty(b, *cells.shape[-2:])
        return empty + (cells if empty.ndim == 4 else cells[:, :, None])  # all frames alike


def test_a_picture_that_exists_is_looked_at_up_to_the_last_block_of_interest(tiny):
    picture = torch.rand(2, 70, 100, 3, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found, shorter, again = (
            locate(tiny.model(), tiny.clip(), Halves(tiny), picture,
                   RecordSpec(parse(CONCEPTS), blocks=blocks), LocateSpec(noise=(0.4, 0.7)))
            for blocks in ("all", "first 2", "all")
        )  # fmt: skip
    assert found.grid.size == (70, 100)
    assert found.scores.shape == (2 * found.grid.time.frames, 2, 3, 3, found.grid.y, found.grid.x)
    assert torch.equal(found.scores[:, :, :2], shorter.scores)
    assert torch.equal(found.scores, again.scores)
    assert found.scores.std() > 1e-3


def test_a_look_gives_the_model_the_picture_noised_as_it_was_trained(tiny):
    picture = torch.rand(1, 64, 96, 3, generator=torch.Generator().manual_seed(0))
    how, model, vae = LocateSpec(noise=(0.3, 0.6)), tiny.model(), Halves(tiny)
    network, sampling = model.model.diffusion_model, model.get_model_object("model_sampling")
    given = []
    hook = network.register_forward_pre_hook(lambda _, args: given.append(args[:2]))
    with torch.inference_mode():
        locate(model, tiny.clip(), vae, picture, RecordSpec(parse(CONCEPTS)), how)
        latent = model.model.process_latent_in(vae.encode(picture))
    hook.remove()
    looks = list(draw_looks(how, latent))
    assert len(given) == len(looks) == 2
    for (noised, timestep), (_, level, noise) in zip(given, looks, strict=True):
        mixture = (1 - level) * latent + level * noise  # as rectified flow has it
        if hasattr(sampling, "log_sigmas"):  # a diffusion has the same at unit variance
            mixture = mixture / ((1 - level) ** 2 + level**2) ** 0.5
            ratio = sampling.sigma(timestep[0]).item()
            assert ratio == pytest.approx(level / (1 - level), rel=0.01)  # one of 1000 timesteps
        torch.testing.assert_close(noised, mixture, atol=1e-5, rtol=1e-5)


# --- Law 4: concepts compete, and their order means nothing ---------------------------------------


def record_of(tiny: Tiny, words: str = CONCEPTS, **spec) -> Recording:
    return STORE.find(tiny.sample(tiny.recorded(words, **spec), cfg=3.0))


@pytest.mark.parametrize("order", ORDERS)
def test_permuted_concepts_give_permuted_maps_that_share_one(tiny, order):
    plain = read_maps(
        record_of(tiny, "cat, red dog, sky"), ReadSpec(order=order, blocks="all")
    ).maps
    turned = read_maps(
        record_of(tiny, "sky, cat, red dog"), ReadSpec(order=order, blocks="all")
    ).maps
    torch.testing.assert_close(turned, plain[:, [2, 0, 1]], rtol=0, atol=1e-4)
    torch.testing.assert_close(plain.sum(1), torch.ones_like(plain[:, 0]))
    assert plain.std() > 1e-3  # far more than what they may differ by


def test_the_same_words_under_two_names_get_equal_maps(tiny):
    maps = read_maps(record_of(tiny, "left: red dog, sky, right: red dog")).maps
    left, sky, right = maps.unbind(1)
    # equal rows of one product may round differently, by where they stand in it
    assert (left - right).abs().max() < 0.05 * (left - sky).abs().max()


def test_first_token_means_the_first_one_only(tiny):
    first = record_of(tiny, "dog: red dog, sky", tokens="first")
    # in numbered text a lone token stands elsewhere than the first of two
    if not tiny.numbered and tiny.readings == 1:
        assert torch.equal(first.scores, record_of(tiny, "dog: red, sky").scores)
    assert not torch.equal(first.scores, record_of(tiny, "dog: red dog, sky").scores)


def test_a_range_of_blocks_is_that_part_of_all_blocks(tiny):
    everything = record_of(tiny)
    for blocks in ("1", "1-", "first 1", "last 2"):
        part = record_of(tiny, blocks=blocks)
        rows = [everything.blocks.index(block) for block in part.blocks]
        assert torch.equal(part.scores, everything.scores[:, :, rows])
    with pytest.raises(ConceptAttentionError, match="Asked for blocks '7', but there are 3"):
        tiny.recorded(blocks="7")


def test_the_recording_covers_the_padded_patch_grid_of_the_picture(tiny):
    recording = STORE.find(tiny.sample(tiny.recorded(), (2, 5, 7), steps=3))
    grid = recording.grid
    assert (grid.h, grid.w) == (5 * tiny.scale, 7 * tiny.scale)
    assert (grid.y, grid.x) == (-(-5 // tiny.patch), -(-7 // tiny.patch))
    assert grid.patch == tiny.patch * tiny.scale
    pictures = 2 * max(tiny.frames, 1)
    assert recording.scores.shape == (pictures, 3, len(recording.blocks), 3, grid.y, grid.x)
    assert recording.concepts == parse(CONCEPTS)


# --- Law 5: a run leaves nothing behind but its recording -----------------------------------------


def frozen(value):
    """Dicts and lists by content, everything else by identity."""
    if isinstance(value, dict):
        return {key: frozen(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [frozen(item) for item in value]
    return id(value)


def test_the_second_run_equals_the_first_and_a_new_seed_does_not(tiny):
    model = tiny.recorded()
    first = STORE.find(tiny.sample(model)).scores
    assert torch.equal(STORE.find(tiny.sample(model)).scores, first)
    assert not torch.allclose(STORE.find(tiny.sample(model, seed=1)).scores, first)


def test_samplers_on_one_recorded_model_keep_apart(tiny):
    model = tiny.recorded()
    runs = [
        {"seed": 0},
        {"seed": 1, "steps": 3},
        {"size": (1, 8, 6)},
        {"start": tiny.latent(2, 5, 7, seed=9), "denoise": 0.5},
    ]
    alone = [STORE.find(tiny.sample(tiny.recorded(), **run)).scores for run in runs]
    STORE.clear()
    latents = [tiny.sample(model, **run) for run in runs]
    for latent, scores in zip(latents, alone, strict=True):
        assert torch.equal(STORE.find(latent).scores, scores)


def test_two_recordings_of_one_picture_are_told_apart_by_their_model(tiny):
    models = [tiny.recorded("cat, sky"), tiny.recorded("dog, sea")]
    latents = [tiny.sample(model) for model in models]
    assert torch.equal(*latents)
    for model, latent in zip(models, latents, strict=True):
        spec = patch.spec_of(model)
        assert STORE.find(latents[0], spec).concepts is spec.concepts
        assert STORE.find(latent).concepts is spec.concepts  # the very tensor tells, too
    with pytest.raises(ConceptAttentionError, match="'dog, sea' and of 'cat, sky'"):
        STORE.find(latents[0].clone())


def test_recording_a_recorded_model_replaces_what_it_listens_to(tiny):
    model = tiny.recorded("dog, sea", model=tiny.recorded("cat, sky"))
    latent = tiny.sample(model)
    assert STORE.find(latent).concepts.names == ("dog", "sea")
    with pytest.raises(ConceptAttentionError, match="No concepts were recorded"):
        STORE.find(latent, patch.spec_of(tiny.recorded("cat, sky")))


def test_a_clone_of_a_recorded_model_records(tiny):
    latent = tiny.sample(tiny.recorded().clone())
    assert STORE.find(latent).concepts.names == ("cat", "red dog", "sky")


def test_the_model_that_was_recorded_stays_as_it_was(tiny):
    plain = tiny.model()
    before = frozen([plain.model_options, plain.wrappers, plain.attachments])
    recorded = tiny.recorded()
    given = frozen([recorded.model_options, recorded.wrappers, recorded.attachments])
    weights = {name: value.clone() for name, value in plain.model.state_dict().items()}
    prompt = tiny.prompt(1)
    kept = [prompt[0][0].clone(), prompt[0][1]["pooled_output"].clone()]

    tiny.sample(recorded, cfg=3.0, positive=prompt)

    assert frozen([plain.model_options, plain.wrappers, plain.attachments]) == before
    assert frozen([recorded.model_options, recorded.wrappers, recorded.attachments]) == given
    assert all(torch.equal(plain.model.state_dict()[name], w) for name, w in weights.items())
    assert torch.equal(prompt[0][0], kept[0])
    assert torch.equal(prompt[0][1]["pooled_output"], kept[1])
    with pytest.raises(ConceptAttentionError, match="No concepts were recorded"):
        STORE.find(tiny.sample(plain, seed=4))


@pytest.mark.parametrize(
    "trouble", [RuntimeError, comfy.model_management.InterruptProcessingException]
)
def test_a_run_that_breaks_off_leaves_no_trace(tiny, trouble):
    model = tiny.recorded()
    whole = STORE.find(tiny.sample(model)).scores
    STORE.clear()
    before = frozen(model.model_options)

    def break_off(step, x0, x, total):
        raise trouble("stop")

    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(tiny.prompt(1), tiny.prompt(2))
    with pytest.raises(trouble):
        guider.sample(
            tiny.latent(1, 5, 7), tiny.empty(1, 5, 7),
            comfy.samplers.sampler_object("euler"), torch.tensor([1.0, 0.5, 0.0]),
            callback=break_off, seed=0, disable_pbar=True,
        )  # fmt: skip
    assert len(STORE) == 0
    assert frozen(model.model_options) == before
    assert patch.KEY not in guider.model_options["transformer_options"]
    assert not living(Run, CallForward, Recorder)
    assert torch.equal(STORE.find(tiny.sample(model)).scores, whole)


def living(*kinds: type) -> list:
    gc.collect()
    return [thing for thing in gc.get_objects() if type(thing) in kinds]


def held() -> dict[str, int]:
    """What is alive: bytes allocated by our code, tensors, recordings."""
    gc.collect()
    ours = tracemalloc.Filter(True, "*conceptattention_core*")
    traces = tracemalloc.take_snapshot().filter_traces([ours]).traces
    return {
        "bytes": sum(trace.size for trace in traces),
        "tensors": len(living(Tensor)),
        "filed": len(STORE),
    }


def test_a_hundred_runs_leave_memory_flat(tiny, monkeypatch):
    model = tiny.recorded()
    tiny.sample(model, (1, 4, 4), steps=1, seed=100)
    monkeypatch.setattr(STORE, "capacity", 10 * STORE._nbytes())
    tracemalloc.start()
    try:
        seen = []
        for seed in range(100):
            tiny.sample(model, (1, 4, 4), steps=1, seed=seed)
            if seed in (39, 69, 99):
                seen.append(held())
    finally:
        tracemalloc.stop()
    before, _, after = seen
    assert 2 < after["filed"] <= before["filed"] < 40
    assert after["tensors"] <= before["tensors"]
    bytes_ = [held["bytes"] for held in seen]
    # 30 runs and 30 more: what is left of each would show in both, what is made once in one
    assert min(bytes_[1] - bytes_[0], bytes_[2] - bytes_[1]) < 1024, bytes_
    assert not living(Run, CallForward, Recorder)


def test_a_call_is_gone_with_its_tensors_as_soon_as_it_is_over(tiny):
    model = tiny.recorded()
    tiny.sample(model, (1, 4, 4), steps=1)
    gc.collect()
    gc.disable()  # what refers to itself stays until it is collected, and so does its memory
    try:
        tiny.sample(model, (1, 4, 4), steps=1)
        assert not [
            thing for thing in gc.get_objects() if type(thing) in (Run, CallForward, Recorder)
        ]
    finally:
        gc.enable()


# --- What cannot be recorded ----------------------------------------------------------------------


@pytest.mark.parametrize("index", [0, 1])
def test_a_replaced_block_leaves_the_picture_alone_and_is_named_where_maps_are_read(tiny, index):
    plain = tiny.sample(with_replaced_block(tiny, tiny.model(), index))
    for model in (
        tiny.recorded(model=with_replaced_block(tiny, tiny.model(), index)),
        with_replaced_block(tiny, tiny.recorded(), index),
    ):
        latent = tiny.sample(model)
        assert torch.equal(latent, plain)
        with pytest.raises(ConceptAttentionError, match="Nothing was captured while .* sampled"):
            STORE.find(latent)


def test_blocks_after_the_last_recorded_one_may_be_replaced(tiny):
    latent = tiny.sample(with_replaced_block(tiny, tiny.recorded(blocks="first 1"), 1))
    assert STORE.find(latent).blocks == ((0, 0),)


def test_a_patch_that_runs_a_block_twice_records_its_first_run(tiny):
    def twice(args, original):
        again = {**args, "img": args["img"].clone() * 3, "txt": args["txt"].clone()}
        out = original(args)
        original(again)
        return out

    model = tiny.recorded()
    alone = STORE.find(tiny.sample(model)).scores
    tiny.around(model, 1, twice)
    assert torch.equal(STORE.find(tiny.sample(model)).scores, alone)


def test_steps_that_another_pack_skips_are_left_out(tiny):
    kept = {}

    def reuse(executor, *args, **kwargs):
        step = len(kept)
        kept[step] = kept[step - 1] if step == 1 else executor(*args, **kwargs)
        return kept[step]

    model = tiny.recorded()
    if not tiny.wrapped:
        pytest.skip("ComfyUI calls no such wrappers for this family")
    model.add_wrapper_with_key(patch.WrappersMP.DIFFUSION_MODEL, "lazy", reuse)
    latent = tiny.sample(model, steps=3)
    assert STORE.find(latent).steps == ((0, 0), (2, 2))


def area(h: int, w: int, y: int, x: int) -> dict:
    return {"area": (h, w, y, x), "strength": 1.0}


def test_a_prompt_for_a_part_of_the_picture_is_not_recorded(tiny):
    part = tiny.prompt(4, **area(4, 4, 0, 2))
    latent = tiny.sample(tiny.recorded(), positive=part)
    assert torch.equal(latent, tiny.sample(tiny.model(), positive=part))
    with pytest.raises(ConceptAttentionError, match="Nothing was captured"):
        STORE.find(latent)


def test_beside_a_prompt_for_a_part_the_prompt_for_the_whole_is_recorded(tiny):
    both = tiny.prompt(1) + tiny.prompt(4, **area(4, 4, 0, 2))
    latent = tiny.sample(tiny.recorded(), steps=1, positive=both)
    assert torch.equal(latent, tiny.sample(tiny.model(), steps=1, positive=both))
    whole = tiny.sample(tiny.recorded(), steps=1, positive=tiny.prompt(1))
    torch.testing.assert_close(STORE.find(latent).scores, STORE.find(whole).scores)


def test_without_a_positive_prompt_in_a_call_nothing_is_heard(tiny):
    latent = tiny.sample(tiny.recorded(), cfg=3.0)
    swapped = tiny.sample(
        tiny.recorded(), cfg=3.0, positive=tiny.prompt(1), negative=tiny.prompt(7)
    )
    first = STORE.find(latent).scores[:, 0]  # both start from the same noise
    difference = (STORE.find(swapped).scores[:, 0] - first).abs().max()
    # HiDream's experts compute the tokens of all prompts at once: others shift the rounding
    assert difference <= (1e-6 * first.abs().max() if tiny is TINY["HiDream"] else 0)


def test_a_model_without_joint_attention_is_named_with_what_is_supported(tiny):
    model = tiny.model().clone()
    model.add_object_patch("diffusion_model", nn.Conv2d(4, 4, 3))
    with pytest.raises(ConceptAttentionError) as error:
        tiny.recorded(model=model)
    supported = ", ".join(family.name for family in FAMILIES)
    assert str(error.value) == (
        f"Concept attention needs joint text-image attention. Got Conv2d; supported: {supported}."
    )


def test_a_model_that_was_not_recorded_has_no_spec(tiny):
    with pytest.raises(ConceptAttentionError, match="did not go through Record Concepts"):
        patch.spec_of(tiny.model())


# --- Flux.1: what its text encoder reads ----------------------------------------------------------

FLUX = next(family for family in FAMILIES if family.name == "Flux.1")


def test_flux_2_and_its_like_are_not_taken_for_flux_1():
    network = TINY["Flux.1"].model().model.diffusion_model
    for difference in ({"global_modulation": True}, {"txt_ids_dims": [1, 2]}):
        other = type(network).__new__(type(network))
        nn.Module.__init__(other)
        other.params = type("Params", (), difference)()
        assert not FLUX.matches(other)


def test_a_concept_is_its_own_tokens_without_end_and_pads():
    both = FLUX.embed(WordReader(), ["cat", "very red dog"])
    alone = [FLUX.embed(WordReader(), [words])[0] for words in ("cat", "very red dog")]
    assert [len(own) for own in both] == [1, 3]
    assert all(torch.equal(one.rows, own.rows) for one, own in zip(both, alone, strict=True))


def test_a_concept_longer_than_the_encoders_least_length_is_read_whole():
    long = " ".join(f"word{i}" for i in range(20))
    read = FLUX.embed(WordReader(), ["cat", long, "red dog"])
    assert [len(own) for own in read] == [1, 20, 2]
    assert torch.equal(read[2].rows, FLUX.embed(WordReader(), ["red dog"])[0].rows)


def test_brackets_in_a_concept_are_words_not_weights():
    def read(text: str) -> Tensor:
        return FLUX.embed(WordReader(), [text])[0].rows

    plain = read("red dog")
    assert torch.equal(read("(red) ((dog))"), plain)
    weighed = read("(red:1.5) dog")
    assert torch.equal(weighed[[0, -1]], plain)


def test_a_clip_without_t5_is_refused_with_what_to_do():
    class OnlyClip(WordReader):
        def tokenize(self, text):
            return {"l": super().tokenize(text)["l"]}

    tiny = replace(TINY["Flux.1"], clip=OnlyClip)
    with pytest.raises(
        ConceptAttentionError, match="with 't5xxl'; this CLIP, OnlyClip with l, has"
    ):
        tiny.recorded()


def test_a_concept_in_which_the_encoder_reads_nothing_is_named():
    with pytest.raises(ConceptAttentionError, match=r"reads nothing in '!\?' \(oops\)"):
        TINY["Flux.1"].recorded("cat, oops: !?, sky")


# --- Lens: an empty prompt is no text at all ------------------------------------------------------


def test_over_an_empty_prompt_concepts_are_recorded():
    if "Lens" not in HERE:
        pytest.skip("this ComfyUI does not have the family")
    tiny = TINY["Lens"]
    positive, negative = tiny.prompt(1, tokens=0), tiny.prompt(2, tokens=0)
    recorded = tiny.sample(tiny.recorded(), cfg=3.0, positive=positive, negative=negative)
    plain = tiny.sample(tiny.model(), cfg=3.0, positive=positive, negative=negative)
    assert torch.equal(recorded, plain)
    assert STORE.find(recorded).scores.std() > 0


# --- HiDream-E1: the picture to edit at the side of its own ---------------------------------------


@pytest.mark.parametrize("w", [6, 7])
def test_beside_a_picture_to_edit_only_the_picture_itself_is_heard(w):
    tiny = TINY["HiDream"]
    other = tiny.latent(1, 5, w, seed=4)
    positive = tiny.prompt(1, concat_latent_image=other)
    # concepts read the picture alone; so what they would be without it is compared
    model = tiny.recorded(method=Method(attend="concepts"))
    edited = tiny.sample(model, (2, 5, w), steps=1, positive=positive)
    plain = tiny.sample(tiny.model(), (2, 5, w), steps=1, positive=positive)
    assert torch.equal(edited, plain)

    # at the first step a picture is its noise, so that both side by side are one of twice its width
    side = tiny.model().model.process_latent_in(other).expand(2, -1, -1, -1)
    noise = torch.cat([tiny.latent(2, 5, w), side], dim=-1)
    with torch.inference_mode():
        wide = comfy.sample.sample(
            model, noise, 1, 1.0, "euler", "simple", tiny.prompt(1), tiny.prompt(2),
            torch.zeros_like(noise), disable_pbar=True,
        )  # fmt: skip
    found = STORE.find(edited)
    own = STORE.find(wide).scores[..., : found.grid.x]
    torch.testing.assert_close(found.scores, own, rtol=1e-5, atol=1e-5)


# --- ERNIE-Image: what its attention is given is put together from its projections ----------------


def test_of_projections_the_same_is_made_as_by_the_attention_itself(monkeypatch):
    if "ERNIE-Image" not in HERE:
        pytest.skip("this ComfyUI does not have the family")
    tiny = TINY["ERNIE-Image"]
    module = importlib.import_module("comfy.ldm.ernie.model")
    attention = module.optimized_attention
    given, heard = [], []

    def listen(q, k, v, heads, **how):
        out = attention(q, k, v, heads, **how)
        given.append([x[:, : 5 * 7].clone() for x in (q, k, v, out)])
        return out

    def keep(block, concepts, image, *rest):
        q, k, v = (
            x.transpose(1, 2).flatten(2) for x in (image.queries(), image.keys, image.values)
        )
        heard.append([q, k, v, image.outputs])
        return step(block, concepts, image, *rest)

    monkeypatch.setattr(module, "optimized_attention", listen)
    monkeypatch.setattr(forward, "step", keep)
    tiny.sample(tiny.recorded(), (2, 5, 7), steps=1)
    assert len(heard) == len(given) == 3
    for own, expected in zip(heard, given, strict=True):
        torch.testing.assert_close(own, expected, rtol=1e-5, atol=1e-5)


def test_a_concept_longer_than_the_prompt_stands_at_its_start(monkeypatch):
    if "ERNIE-Image" not in HERE:
        pytest.skip("this ComfyUI does not have the family")
    tiny = TINY["ERNIE-Image"]
    family = family_of(tiny.model().model.diffusion_model)
    own_start, started = family.start_stream, []

    def keep(network, tokens, block, call):
        stream = own_start(network, tokens, block, call)
        own = stream.text_side(0, family.modulation(block)).rotary
        started.append((block.rotary.clone(), own.matrices.clone()))
        return stream

    monkeypatch.setattr(family, "start_stream", keep)
    recorded = tiny.recorded("very red dog")
    tiny.sample(recorded, (1, 5, 7), steps=1, positive=tiny.prompt(1, tokens=2))
    ((positions, own),) = started
    assert positions.shape[1] == 35 + 2
    expected = positions[:, [35, 35, 36]].movedim(2, 1)
    assert torch.equal(own[:, :, :3], expected)  # a lone concept has a hidden one beside it


def test_a_concept_longer_than_the_prompt_is_heard_in_every_family(tiny):
    positive = tiny.prompt(1, tokens=1)
    latent = tiny.sample(tiny.recorded("very big red dog, sky"), positive=positive)
    assert torch.equal(latent, tiny.sample(tiny.model(), positive=positive))
    assert STORE.find(latent).scores.isfinite().all()


def test_as_many_concepts_as_tokens_are_not_taken_for_these():
    """They go through the layers that are listened to."""
    if "ERNIE-Image" not in HERE:
        pytest.skip("this ComfyUI does not have the family")
    tiny = TINY["ERNIE-Image"]
    prompt = tiny.prompt(1, tokens=2)
    model = tiny.recorded("cat, dog, sky, sea, sun, ice")
    latent = tiny.sample(model, (1, 2, 2), positive=prompt)
    assert torch.equal(latent, tiny.sample(tiny.model(), (1, 2, 2), positive=prompt))
    assert STORE.find(latent).scores.shape == (1, 2, 3, 6, 2, 2)
