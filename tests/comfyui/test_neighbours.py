"""Other packs and ComfyUI's own helpers on a recorded model: the picture is theirs, unchanged.

Real nodes where ComfyUI has them; packs of others are rebuilt from how they document their hooks.
`docs/compatibility.md` names these tests.
"""

import importlib
import inspect
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.patcher_extension
import comfy.sample
import comfy.samplers
import comfy.sd
import comfy.utils
import comfy_extras.nodes_context_windows as windows
import comfy_extras.nodes_custom_sampler as custom
import comfy_extras.nodes_easycache as easycache
import comfy_extras.nodes_hooks as hooks
import comfy_extras.nodes_model_merging as merging
import comfy_extras.nodes_tcfg as tcfg
import folder_paths
import pytest
import torch
from comfy.ldm.modules.attention import optimized_attention
from comfy_api.torch_helpers import set_torch_compile_wrapper
from conceptattention.conceptattention_core import ConceptAttentionError
from conceptattention.conceptattention_core.hosts.comfyui.families import family_of
from conceptattention.conceptattention_core.hosts.comfyui.store import STORE
from conceptattention.conceptattention_core.recording import Recorder
from torch import Tensor, nn

from .tiny import HERE, Tiny, call, random_weights
from .tiny.common import Conditioning, lora_for

KEPT = "transformer_options"  # newer versions do not look whether these have changed


@pytest.fixture(params=HERE)
def tiny(request) -> Tiny:
    return HERE[request.param]


@pytest.fixture(autouse=True)
def _empty_store():
    STORE.clear()


def with_easycache(tiny: Tiny, model: Any) -> Any:
    (cached,) = call(
        easycache.EasyCacheNode, model=model, reuse_threshold=3.0, start_percent=0.0,
        end_percent=1.0, verbose=False,
    )  # fmt: skip
    return cached


def with_lazycache(tiny: Tiny, model: Any) -> Any:
    (cached,) = call(
        easycache.LazyCacheNode, model=model, reuse_threshold=3.0, start_percent=0.0,
        end_percent=1.0, verbose=False,
    )  # fmt: skip
    return cached


def with_tcfg(tiny: Tiny, model: Any) -> Any:
    (damped,) = call(tcfg.TCFG, model=model)
    return damped


def with_nag(tiny: Tiny, model: Any) -> Any:
    try:
        nag = importlib.import_module("comfy_extras.nodes_nag")
    except ModuleNotFoundError:
        pytest.skip("this ComfyUI has no NAG")
    (guided,) = call(nag.NAGuidance, model=model, nag_scale=5.0, nag_alpha=0.5, nag_tau=1.5)
    return guided


def with_merge(tiny: Tiny, model: Any) -> Any:
    other = model.clone()
    weights = {
        f"diffusion_model.{name}": (value * 1.5,)
        for name, value in other.model.diffusion_model.state_dict().items()
    }
    other.add_patches(weights, 0.5)
    (merged,) = call(merging.ModelSubtract, model1=model, model2=other, multiplier=0.5)
    return merged


def with_rescaled_cfg(tiny: Tiny, model: Any) -> Any:
    """A guidance of its own, as many packs set one."""
    guided = model.clone()
    guided.set_model_sampler_cfg_function(
        lambda args: args["uncond"] + (args["cond"] - args["uncond"]) * args["cond_scale"] * 0.7
    )
    return guided


def with_call_wrapper(tiny: Tiny, model: Any) -> Any:
    """The one slot around a model's call, which TeaCache and WaveSpeed use."""
    wrapped = model.clone()
    wrapped.set_model_unet_function_wrapper(
        lambda apply, args: apply(args["input"], args["timestep"], **args["c"]) * 0.9
    )
    return wrapped


NEIGHBOURS = {
    "EasyCache": with_easycache,
    "LazyCache": with_lazycache,
    "TCFG": with_tcfg,
    "NAG": with_nag,
    "model merging": with_merge,
    "another guidance": with_rescaled_cfg,
    "a wrapper of the model's call": with_call_wrapper,
}


@pytest.mark.parametrize("name", NEIGHBOURS)
def test_the_picture_is_the_neighbours_and_maps_are_recorded(tiny, name):
    neighbour = NEIGHBOURS[name]
    if name == "EasyCache" and not tiny.wrapped:
        pytest.skip("ComfyUI's EasyCache does nothing for this family")

    # with a negative prompt EasyCache of 0.3.64 breaks on a batch, with and without us
    cfg = 1.0 if name == "EasyCache" else 3.0

    def run(model: Any) -> Tensor:
        return tiny.sample(model, cfg=cfg, steps=4)

    plain = run(neighbour(tiny, tiny.model()))
    if name == "NAG" and torch.equal(plain, run(tiny.model())):
        pytest.skip("ComfyUI's NAG does nothing for this family")
    assert not torch.equal(plain, run(tiny.model()))
    scores = []
    for model in (
        tiny.recorded(model=neighbour(tiny, tiny.model())),
        neighbour(tiny, tiny.recorded()),
    ):
        recorded = run(model)
        assert torch.equal(recorded, plain)
        scores.append(STORE.find(recorded).scores)
    assert torch.equal(*scores)


def hooked_as_modules(tiny: Tiny) -> bool:
    return family_of(tiny.model().model.diffusion_model).hooked


def test_a_forward_that_drops_the_options_makes_its_picture_and_the_sentence_says_so(tiny):
    """TeaCache and its like copy a forward that calls blocks without `transformer_options`."""

    def bare(model: Any) -> Any:
        cut = model.clone()

        def forget(executor, *args, **kwargs):
            kept = ({} if isinstance(arg, dict) and "sigmas" in arg else arg for arg in args)
            kwargs = {name: v for name, v in kwargs.items() if name != "transformer_options"}
            return executor(*kept, **kwargs)

        cut.add_wrapper_with_key(
            comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, "forgetful", forget
        )
        return cut

    if not tiny.wrapped:
        pytest.skip("ComfyUI calls no such wrappers for this family")
    latent = tiny.sample(bare(tiny.recorded()))
    assert torch.equal(latent, tiny.sample(bare(tiny.model())))
    if hooked_as_modules(tiny):
        heard = STORE.find(latent).scores
        assert torch.equal(heard, STORE.find(tiny.sample(tiny.recorded())).scores)
        return
    with pytest.raises(ConceptAttentionError, match="Nothing was captured"):
        STORE.find(latent)


def test_a_patch_that_hands_on_no_options_makes_its_picture_and_the_sentence_says_so(tiny):
    """Copies of a forward by TeaCache and NAG hand these to no patch on a block."""

    def forgetful(model: Any) -> Any:
        cut = model.clone()

        def forget(executor, *args, **kwargs):
            for given in (*args, kwargs.get("transformer_options")):
                if isinstance(given, dict):
                    given.get("patches_replace", {}).get("dit", {}).update(
                        {key: without_options(patch) for key, patch in patched(given).items()}
                    )
            return executor(*args, **kwargs)

        cut.add_wrapper_with_key(
            comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, "forgetful", forget
        )
        return cut

    def patched(options: dict) -> dict:
        return options.get("patches_replace", {}).get("dit", {})

    def without_options(patch):
        def around_block(args, extra):
            def original(args):
                return extra["original_block"]({**args, "transformer_options": {}})

            args = {name: value for name, value in args.items() if name != "transformer_options"}
            return patch(args, {"original_block": original})

        return around_block

    if not tiny.wrapped:
        pytest.skip("ComfyUI calls no such wrappers for this family")
    latent = tiny.sample(forgetful(tiny.recorded()))
    assert torch.equal(latent, tiny.sample(forgetful(tiny.model())))
    if hooked_as_modules(tiny):
        pytest.skip("this family's blocks have no place for patches")
    with pytest.raises(ConceptAttentionError, match="Nothing was captured while .* its blocks"):
        STORE.find(latent)


class FirstBlockCache(nn.Module):
    """WaveSpeed's way: one module in place of all blocks.

    It runs the first block, and of the others what they changed when they last ran.
    """

    def __init__(self, blocks: Any, streams: tuple[str, str]):
        super().__init__()
        self.blocks, self.streams = blocks, streams
        self.change: list[Tensor] = []

    def forward(self, **given):
        first, *others = self.blocks
        before = [stream.clone() for stream in first(**given)]
        if not self.change:
            after = [stream.clone() for stream in before]
            for block in others:
                after = block(**{**given, **dict(zip(self.streams, after))})
            self.change = [new - old for new, old in zip(after, before)]
        return tuple(old + change for old, change in zip(before, self.change))


@pytest.mark.parametrize(
    ("family", "name", "streams"),
    [
        ("Flux.1", "double_blocks", ("img", "txt")),
        ("CogVideoX", "blocks", ("hidden_states", "encoder_hidden_states")),
    ],
)
def test_one_module_for_all_blocks_makes_its_picture_and_the_sentence_says_so(
    family, name, streams
):
    if family not in HERE:
        pytest.skip("this ComfyUI does not have the family")
    tiny = HERE[family]
    network = tiny.model().model.diffusion_model
    blocks = getattr(network, name)

    def cached(model: Any) -> Any:
        cache = nn.ModuleList([FirstBlockCache(blocks, streams)])

        def around_call(apply, args):
            setattr(network, name, cache)
            try:
                return apply(args["input"], args["timestep"], **args["c"])
            finally:
                setattr(network, name, blocks)

        clone = model.clone()
        clone.set_model_unet_function_wrapper(around_call)
        return clone

    plain = tiny.sample(cached(tiny.model()), steps=3)
    assert not torch.equal(plain, tiny.sample(tiny.model(), steps=3))
    for recorded in (cached(tiny.recorded()), cached(tiny.recorded(blocks="first 1"))):
        latent = tiny.sample(recorded, steps=3)
        assert torch.equal(latent, plain)
        with pytest.raises(ConceptAttentionError, match="Nothing was captured while .* its blocks"):
            STORE.find(latent)


@pytest.mark.parametrize("name", ["NunchakuFluxTransformer2dModel", "NunchakuTransformerBlock"])
def test_nunchaku_is_refused_with_one_sentence(name):
    """Its Flux is one module inside a wrapper, its Qwen-Image is ComfyUI's with other blocks."""
    tiny = HERE["Flux.1"]
    foreign = type(name, (nn.Module,), {})
    network = nn.Sequential(foreign())
    if name.endswith("Block"):
        network = object.__new__(type(tiny.model().model.diffusion_model))
        nn.Module.__init__(network)
        network.params, network.double_blocks = None, nn.ModuleList([foreign()])
    model = tiny.model().clone()
    model.add_object_patch("diffusion_model", network)
    with pytest.raises(ConceptAttentionError, match="Nunchaku runs a model in blocks of its own"):
        tiny.recorded(model=model)


# --- ERNIE-Image: an attention that looks for no other --------------------------------------------


@pytest.fixture
def ernie() -> Tiny:
    if "ERNIE-Image" not in HERE:
        pytest.skip("this ComfyUI does not have the family")
    return HERE["ERNIE-Image"]


def test_another_attention_for_all_models_is_heard_in_what_it_gives(ernie, monkeypatch):
    """ComfyUI's own choice of one (`--use-sage-attention`), and packs that change it."""
    usual = STORE.find(ernie.sample(ernie.recorded())).scores
    module = importlib.import_module("comfy.ldm.ernie.model")
    attention = module.optimized_attention
    monkeypatch.setattr(
        module, "optimized_attention", lambda *args, **how: attention(*args, **how) * 0.75
    )
    latent = ernie.sample(ernie.recorded())
    assert torch.equal(latent, ernie.sample(ernie.model()))
    heard = STORE.find(latent).scores
    torch.testing.assert_close(heard[:, 0, 0], usual[:, 0, 0] * 0.75, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(heard[:, 0, 1], usual[:, 0, 1] * 0.75, rtol=1e-2, atol=1e-2)


def projecting_at_once(own: Any, x: Tensor, positions: Tensor) -> Tensor:
    """An attention with one projection in place of three."""
    weights = torch.cat([layer.weight for layer in (own.to_q, own.to_k, own.to_v)])
    q, k, v = nn.functional.linear(x, weights).chunk(3, dim=-1)
    return own.to_out[0](optimized_attention(q, k, v, own.heads))


def in_parts(own: Any, x: Tensor, positions: Tensor) -> Tensor:
    """An attention of each half of the sequence to itself."""
    half = x.shape[1] // 2
    return torch.cat(
        [
            type(own).forward(own, x[:, part], image_rotary_emb=positions[:, part])
            for part in (slice(half), slice(half, None))
        ],
        dim=1,
    )


@pytest.mark.parametrize("attention", [projecting_at_once, in_parts])
def test_an_attention_in_place_of_its_own_makes_its_picture_and_the_sentence_says_so(
    ernie, attention
):
    def replaced(model: Any) -> Any:
        clone = model.clone()
        name = "diffusion_model.layers.1.self_attention"
        own = clone.get_model_object(name)

        def forward(x, attention_mask=None, image_rotary_emb=None):
            return attention(own, x, image_rotary_emb)

        clone.add_object_patch(f"{name}.forward", forward)
        return clone

    latent = ernie.sample(replaced(ernie.recorded()))
    assert torch.equal(latent, ernie.sample(replaced(ernie.model())))
    assert not torch.equal(latent, ernie.sample(ernie.model()))
    with pytest.raises(ConceptAttentionError, match="Nothing was captured while .* its blocks"):
        STORE.find(latent)


# --- Prompts --------------------------------------------------------------------------------------


def first_step(tiny: Tiny, model: Any = None, **prompts: Any) -> Tensor:
    """What is heard in the first step: whatever was before it is the same noise."""
    latent = tiny.sample(tiny.recorded(model=model), steps=1, cfg=3.0, **prompts)
    return STORE.find(latent).scores[:, 0]


def left_and_right(tiny: Tiny) -> list[Conditioning]:
    left = torch.zeros(1, 5, 7)
    left[..., :3] = 1
    return [tiny.prompt(1, mask=left), tiny.prompt(4, mask=1 - left)]


@pytest.mark.parametrize(
    "several",
    [
        lambda tiny: [tiny.prompt(1), tiny.prompt(4)],
        lambda tiny: [tiny.prompt(1), tiny.prompt(4, tokens=9)],
        left_and_right,
    ],
    ids=["several prompts", "of different lengths", "for masked parts"],
)
def test_of_several_prompts_the_mean_is_heard(tiny, several):
    one, other = several(tiny)
    latent = tiny.sample(tiny.recorded(), cfg=3.0, positive=one + other)
    assert torch.equal(latent, tiny.sample(tiny.model(), cfg=3.0, positive=one + other))
    alone = [first_step(tiny, positive=prompt) for prompt in (one, other)]
    assert not torch.allclose(*alone, rtol=1e-2)
    found = STORE.find(latent).scores[:, 0]
    torch.testing.assert_close(found, torch.stack(alone).mean(0), rtol=1e-4, atol=1e-4)


def test_negative_prompts_of_any_length_do_not_change_what_is_heard(tiny):
    heard = [first_step(tiny, negative=tiny.prompt(2, tokens=tokens)) for tokens in (5, 9)]
    torch.testing.assert_close(*heard, rtol=1e-4, atol=1e-4)


@pytest.fixture
def lora_folder(tmp_path) -> Iterator[Path]:
    folder_paths.add_model_folder_path("loras", str(tmp_path))
    yield tmp_path
    folder_paths.folder_names_and_paths["loras"][0].remove(str(tmp_path))


def hooked(tiny: Tiny, prompt: Conditioning, folder: Path) -> Conditioning:
    """A prompt with a LoRA of its own."""
    comfy.utils.save_torch_file(lora_for(tiny.model()), str(folder / "hook.safetensors"))
    (hook,) = call(hooks.CreateHookLoraModelOnly, lora_name="hook.safetensors", strength_model=1.0)
    (own,) = call(
        hooks.ConditioningSetProperties,
        cond_NEW=prompt, strength=1.0, set_cond_area="default", hooks=hook,
    )  # fmt: skip
    return own


def test_a_lora_on_one_prompt_is_heard_with_that_prompt(tiny, lora_folder):
    with_lora, _ = comfy.sd.load_lora_for_models(
        tiny.model(), None, lora_for(tiny.model()), 1.0, 0.0
    )
    bare, everywhere = first_step(tiny), first_step(tiny, with_lora)
    assert not torch.allclose(bare, everywhere, rtol=1e-3, atol=1e-3)

    prompts: dict[str, Any] = {"positive": tiny.prompt(1), "negative": tiny.prompt(2)}
    for which, expected in (("positive", everywhere), ("negative", bare)):
        hung = {**prompts, which: hooked(tiny, prompts[which], lora_folder)}
        latent = tiny.sample(tiny.recorded(), cfg=3.0, **hung)
        assert torch.equal(latent, tiny.sample(tiny.model(), cfg=3.0, **hung))
        assert not torch.equal(latent, tiny.sample(tiny.model(), cfg=3.0))
        found = STORE.find(latent).scores[:, 0]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def first_step_by(guider: Any, tiny: Tiny, model: Any) -> Tensor:
    """What a guider of several prompts or models makes of two pictures in one step."""
    (sigmas,) = call(custom.BasicScheduler, model=model, scheduler="simple", steps=1, denoise=1)
    with torch.inference_mode():
        return guider.sample(
            tiny.latent(2, 5, 7), tiny.empty(2, 5, 7), comfy.samplers.sampler_object("euler"),
            sigmas, seed=0, disable_pbar=True,
        )  # fmt: skip


@pytest.mark.parametrize("negative", [False, True])
def test_the_pass_without_a_text_that_another_model_makes_is_not_heard(negative):
    """Ideogram 4 is sampled so."""
    if "Ideogram 4" not in HERE:
        pytest.skip("this ComfyUI does not have the family")
    tiny = HERE["Ideogram 4"]
    weights = tiny.model().model.diffusion_model.state_dict()
    other = random_weights(
        tiny.model().model.model_config, {name: own * 1.5 for name, own in weights.items()}
    )

    def run(model: Any) -> Tensor:
        (guider,) = call(
            custom.DualModelGuider, model=model, model_negative=other, positive=tiny.prompt(1),
            cfg=3.0, negative=tiny.prompt(2) if negative else None,
        )  # fmt: skip
        return first_step_by(guider, tiny, model)

    latent = run(tiny.recorded())
    assert torch.equal(latent, run(tiny.model()))
    assert not torch.equal(latent, tiny.sample(tiny.model(), steps=1))
    found = STORE.find(latent).scores[:, 0]
    torch.testing.assert_close(found, first_step(tiny), rtol=1e-4, atol=1e-4)


def test_of_three_prompts_the_positive_one_is_heard(tiny):
    """Dual CFG Guider numbers the negative one as others number the positive one."""

    def run(model: Any) -> Tensor:
        (guider,) = call(
            custom.DualCFGGuider, model=model, cond1=tiny.prompt(1), cond2=tiny.prompt(4),
            negative=tiny.prompt(2), cfg_conds=3.0, cfg_cond2_negative=2.0, style="regular",
        )  # fmt: skip
        return first_step_by(guider, tiny, model)

    latent = run(tiny.recorded())
    assert torch.equal(latent, run(tiny.model()))
    found = STORE.find(latent).scores[:, 0]
    torch.testing.assert_close(found, first_step(tiny), rtol=1e-4, atol=1e-4)


# --- Calls for parts of the picture ---------------------------------------------------------------


def with_tiles(model: Any, steps: int) -> Any:
    """Tiled Diffusion's way, in the first `steps`: two tiles that overlap, in one batch."""
    tiles = [slice(0, 5), slice(2, 7)]

    def around_call(apply, args):
        x, t, given = args["input"], args["timestep"], args["c"]
        schedule = given["transformer_options"]["sample_sigmas"]
        if t[0] <= schedule[steps]:
            return apply(x, t, **given)
        given = {
            name: torch.cat([value] * 2) if isinstance(value, Tensor) else value
            for name, value in given.items()
        }
        shown = torch.cat([x[..., tile] for tile in tiles])
        made = apply(shown, torch.cat([t] * 2), **given).chunk(2)
        whole, times = torch.zeros_like(x), torch.zeros_like(x)
        for tile, part in zip(tiles, made):
            whole[..., tile] += part
            times[..., tile] += 1
        return whole / times

    tiled = model.clone()
    tiled.set_model_unet_function_wrapper(around_call)
    return tiled


def test_of_a_picture_that_is_only_shown_in_tiles_nothing_is_heard_and_the_sentence_says_so(tiny):
    plain = tiny.sample(with_tiles(tiny.model(), 2), cfg=3.0)
    assert not torch.equal(plain, tiny.sample(tiny.model(), cfg=3.0))
    latent = tiny.sample(with_tiles(tiny.recorded(), 2), cfg=3.0)
    assert torch.equal(latent, plain)
    with pytest.raises(ConceptAttentionError, match="only parts of the picture .* as by tiled"):
        STORE.find(latent)


def test_steps_that_show_the_whole_picture_are_heard_beside_tiled_ones(tiny):
    latent = tiny.sample(with_tiles(tiny.recorded(), 1), cfg=3.0)
    assert torch.equal(latent, tiny.sample(with_tiles(tiny.model(), 1), cfg=3.0))
    assert STORE.find(latent).steps == ((1, 1),)


def with_windows(model: Any, length: int, overlap: int, axis: int) -> Any:
    inputs = {"freenoise": False} if "freenoise" in windowing() else {}  # newer versions ask
    (windowed,) = call(
        windows.ContextWindowsManualNode,
        model=model, context_length=length, context_overlap=overlap, context_stride=1,
        context_schedule="standard_static", closed_loop=False, fuse_method="pyramid", dim=axis,
        **inputs,
    )  # fmt: skip
    return windowed


def windowing() -> Any:
    return inspect.signature(windows.ContextWindowsManualNode.execute).parameters


VIDEO = "Hunyuan Video and Image"


def test_context_windows_along_time_are_heard_frame_by_frame():
    tiny = replace(HERE[VIDEO], frames=5)
    size = (1, 5, 7)
    latent = tiny.sample(with_windows(tiny.recorded(), 3, 1, axis=2), size, cfg=3.0)
    assert torch.equal(latent, tiny.sample(with_windows(tiny.model(), 3, 1, axis=2), size, cfg=3.0))
    assert not torch.equal(latent, tiny.sample(tiny.model(), size, cfg=3.0))
    found = STORE.find(latent)
    assert found.steps == ((0, 0), (1, 1))
    assert found.grid.time.frames == len(found.scores) == 5

    seen = [[] for _ in range(5)]
    before = [1] if "causal_window_fix" in windowing() else []
    for frames in ([0, 1, 2], [*before, 2, 3, 4]):
        noise = tiny.latent(*size)[:, :, frames]
        with torch.inference_mode():
            alone = comfy.sample.sample(
                tiny.recorded(), noise, 2, 3.0, "euler", "simple", tiny.prompt(1), tiny.prompt(2),
                torch.zeros_like(noise), seed=0, disable_pbar=True,
            )  # fmt: skip
        for frame, own in zip(frames, STORE.find(alone).scores[:, 0], strict=True):
            seen[frame].append(own)
    expected = torch.stack([torch.stack(own).mean(0) for own in seen])
    torch.testing.assert_close(found.scores[:, 0], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("family", "axis"), [(VIDEO, 3), ("Flux.1", 2), ("Flux.1", 0)])
def test_context_windows_along_another_axis_are_not_heard_and_the_sentence_says_so(family, axis):
    tiny = HERE[family]
    size = (1 if axis else 2, 5, 7)
    latent = tiny.sample(with_windows(tiny.recorded(), 1, 0, axis), size, steps=1)
    assert torch.equal(latent, tiny.sample(with_windows(tiny.model(), 1, 0, axis), size, steps=1))
    with pytest.raises(ConceptAttentionError, match="tiled sampling, context windows"):
        STORE.find(latent)


# --- Memory runs out ------------------------------------------------------------------------------


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


def test_a_call_that_ran_out_of_memory_is_heard_once_when_it_is_made_again(tiny, monkeypatch):
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


def test_a_batch_that_is_only_made_picture_by_picture_is_not_heard_and_the_sentence_says_so(tiny):
    latent = tiny.sample(with_retries(tiny, tiny.recorded(), rows=1), cfg=3.0)
    assert torch.equal(latent, tiny.sample(with_retries(tiny, tiny.model(), rows=1), cfg=3.0))
    with pytest.raises(ConceptAttentionError, match="only parts of the picture"):
        STORE.find(latent)


# --- Compiled models ------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["Flux.1", "SD3"])
def test_a_compiled_model_is_recorded_and_its_graphs_stay_its_own(family):
    tiny = HERE[family]

    def compiled(model: Any) -> Any:
        clone = model.clone()  # as TorchCompileModel does, with the fastest backend to compile
        options = {"guard_filter_fn": lambda entries: [KEPT not in e.name for e in entries]}
        set_torch_compile_wrapper(clone, backend="eager", options=options)
        return clone

    expected = {seed: STORE.find(tiny.sample(tiny.recorded(), seed=seed)).scores for seed in (0, 1)}
    STORE.clear()
    recorded, plain = compiled(tiny.recorded()), compiled(tiny.model())
    for model, seed in product((recorded, plain, recorded), expected):
        latent = tiny.sample(model, seed=seed)
        assert torch.equal(latent, tiny.sample(tiny.model(), seed=seed))
        if model is recorded:
            assert torch.equal(STORE.find(latent).scores, expected[seed])
            STORE.clear()
