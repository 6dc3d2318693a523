"""All that touches ComfyUI while it samples. Nothing of the host is copied or replaced.

`record` hangs two wrappers on a clone of the model patcher: one around a sampling run, which owns
the `Recorder` of that run and files what was heard, and one around each call of the model, which
wraps the joint blocks for the length of that call, whatever other packs put there before or after.
Around a block's own attention the concepts take their step; image tensors are only read.
"""

import inspect
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from einops import rearrange
from torch import Tensor, nn

from ... import ConceptAttentionError
from ...attention import ImageVectors, step
from ...locating import Enough
from ...ranges import select
from ...recording import Recorder, Recording, RecordSpec, board
from .families import find
from .family import Family, Layout, Ride
from .shown import Film, Shown, look
from .store import STORE, Silence

if TYPE_CHECKING:  # it draws; recording needs no OpenCV
    from .live import Live

KEY = "conceptattention"
OVERRIDE = "optimized_attention_override"
POSITIVE = 0  # in transformer_options["cond_or_uncond"]
PARTS = (
    "Nothing was captured while {model} sampled: it was shown only parts of the picture or of the "
    "batch, as by tiled sampling, context windows or prompts for areas. Concepts are heard where "
    "it sees the whole: sample without these, or let one prompt be for the whole picture."
)


File = Callable[[list[Tensor], Recording | Silence], None]
"""Where a recording goes, with the latents `b ...` that it belongs to."""


@dataclass(frozen=True)
class Tour:
    """What rides, and where it is looked at. The same for every run of a recorded model."""

    family: Family
    spec: RecordSpec
    blocks: range
    rows: Tensor  # t n
    mean: Tensor  # c t
    stops: bool  # whether a call of the model ends with the last of `blocks`


def record(
    model: ModelPatcher,
    clip: Any,
    spec: RecordSpec,
    *,
    file: File = STORE.file,
    stops: bool = False,
    live: "Live | None" = None,
) -> ModelPatcher:
    """A clone of `model` that records `spec` whenever it samples. `clip` reads the concepts.

    What was heard goes to `file`; `live` shows what was heard so far. A model that `stops`
    computes nothing after the last block of interest and gives zeros: for looking at a picture,
    not for making one.
    """
    network = model.get_model_object("diffusion_model")
    family = find(network)
    blocks = select(spec.blocks, len(family.blocks(network)), "blocks")
    rows = family.embed(clip, [concept.words for concept in spec.concepts.concepts])
    tour = Tour(family, spec, blocks, *board(spec, rows), stops=stops)

    recorded = model.clone()
    for kind in (WrappersMP.OUTER_SAMPLE, WrappersMP.APPLY_MODEL):
        recorded.remove_wrappers_with_key(kind, KEY)
    recorded.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, _around_sampling(tour, file, live))
    recorded.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, _around_model)
    recorded.set_attachments(KEY, spec)
    return recorded


def spec_of(model: ModelPatcher) -> RecordSpec:
    """What a recorded model listens to."""
    spec = model.get_attachment(KEY)
    if spec is None:
        raise ConceptAttentionError("This MODEL did not go through Record Concepts.")
    return spec


def _around_sampling(tour: Tour, file: File, live: "Live | None") -> Callable[..., Tensor]:
    # A closure: clones of the patcher deep-copy what they hold, and callable objects lose state.
    def around_sampling(
        executor, noise, latent_image, sampler, sigmas, mask=None, callback=None, *args, **kwargs
    ):
        guider = executor.class_obj
        network = guider.model_patcher.get_model_object("diffusion_model")
        run = Run(tour, network, noise.shape, sigmas)
        view = None if live is None else live.begin()
        denoised = []

        def keep_denoised(i, x0, x, total):
            denoised[:] = [x0]
            if callback is not None:
                callback(i, x0, x, total)
            if view is not None:
                view.show(i, total, run.heard)

        options = guider.model_options["transformer_options"]  # this guider's, for this run
        options[KEY] = run
        try:
            latent = executor(
                noise, latent_image, sampler, sigmas, mask, keep_denoised, *args, **kwargs
            )
        finally:
            del options[KEY]
        made = [guider.model_patcher.model.process_latent_out(x0.float()) for x0 in denoised]
        file([latent, *made], run.heard())
        return latent

    return around_sampling


def _around_model(
    executor, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, **conds
):
    options = dict(transformer_options or {})
    run = options.get(KEY)
    kinds = options.get("cond_or_uncond", [])
    chunks = [i for i, kind in enumerate(kinds) if kind == POSITIVE]
    if run is None or not chunks:
        return executor(x, t, c_concat, c_crossattn, control, transformer_options, **conds)
    network = executor.class_obj.diffusion_model
    shown = run.look(x, len(kinds), options.get("context_window"))
    if shown is None or not run.knows(network):
        return executor(x, t, c_concat, c_crossattn, control, transformer_options, **conds)
    # what ComfyUI tells the network of the noise level
    timesteps = executor.class_obj.model_sampling.timestep(t).float()
    forward = Forward(run, network, shown, len(x), chunks, {**conds, "timesteps": timesteps})
    with _uncompiled(), ExitStack() as hooks:
        if run.tour.family.arguments:
            _hook_blocks(forward, network, hooks)
        else:
            _patch_blocks(forward, options)
        try:
            out = executor(x, t, c_concat, c_crossattn, control, options, **conds)
        except Enough:
            out = torch.zeros_like(x)
    run.add(forward, options["sigmas"], options["sample_sigmas"])
    return out


def _patch_blocks(forward: "Forward", options: dict[str, Any]) -> None:
    """Wrap what is patched into the blocks, or the blocks themselves, in the options of a call."""
    replaced = dict(options.get("patches_replace", {}))
    blocks = replaced["dit"] = dict(replaced.get("dit", {}))
    for index in range(forward.run.tour.blocks.stop):
        key = ("double_block", index)
        blocks[key] = _around_block(forward, index, blocks.get(key))
    options["patches_replace"] = replaced


def _hook_blocks(forward: "Forward", network: nn.Module, hooks: ExitStack) -> None:
    """Listen to blocks that cannot be patched, until `hooks` are closed."""
    tour = forward.run.tour
    for index, block in enumerate(tour.family.blocks(network)[: tour.blocks.stop]):
        handle = block.register_forward_pre_hook(_before_block(forward, index), with_kwargs=True)
        hooks.callback(handle.remove)


def _uncompiled() -> AbstractContextManager:
    """Let compiled models run as they were written.

    A compiled graph keeps what it saw of `transformer_options` (TorchCompileModel tells it not to
    look again), ours as well: the next run would go on with this one's concepts, and one without
    concepts would break.
    """
    set_stance = getattr(torch.compiler, "set_stance", None)  # since torch 2.6
    if set_stance is None or "torch._dynamo" not in sys.modules:  # which takes seconds to import
        return nullcontext()
    return set_stance("force_eager")


def _around_block(forward: "Forward", index: int, earlier: Callable | None) -> Callable:
    def around_block(args, extra):
        original = extra["original_block"]

        def listening(args):
            options = args.get("transformer_options")
            if options is None or not forward.arrives(index, args):
                return original(args)
            tap = _around_attention(forward, index, args, options.get(OVERRIDE))
            return original({**args, "transformer_options": {**options, OVERRIDE: tap}})

        if earlier is None:
            return listening(args)
        return earlier(args, {**extra, "original_block": listening})

    return around_block


def _before_block(forward: "Forward", index: int) -> Callable:
    names = forward.run.tour.family.arguments

    def before_block(block, args, kwargs):
        # the class's forward: another pack may have put one with other arguments in its place
        call = inspect.signature(type(block).forward).bind(block, *args, **kwargs)
        options = call.arguments.get("transformer_options") or {}
        named = {ours: call.arguments.get(theirs) for ours, theirs in names.items()}
        named["transformer_options"] = options
        if forward.arrives(index, named):
            tap = _around_attention(forward, index, named, options.get(OVERRIDE))
            call.arguments["transformer_options"] = {**options, OVERRIDE: tap}
        return call.args[1:], call.kwargs

    return before_block


def _around_attention(
    forward: "Forward", index: int, args: dict[str, Any], earlier: Callable | None
) -> Callable:
    layout = forward.layout(args)

    def around_attention(attention, q, k, v, heads, *rest, **kwargs):
        if earlier is None:
            out = attention(q, k, v, heads, *rest, **kwargs)
        else:
            out = earlier(attention, q, k, v, heads, *rest, **kwargs)
        if not kwargs.get("skip_reshape"):
            q, k, v = (_split_heads(x, heads) for x in (q, k, v))
        if q.shape[2] == layout.length:
            merged = out
            if kwargs.get("skip_output_reshape"):
                merged = rearrange(out, "b head n d -> b n (head d)")
            forward.step(index, layout.patches, args["vec"], q, k, v, merged)
        return out

    return around_attention


def _split_heads(x: Tensor, heads: int) -> Tensor:
    if x.ndim == 4:  # SD3 leaves its values apart
        return rearrange(x, "b n head d -> b head n d")
    return rearrange(x, "b n (head d) -> b head n d", head=heads)


class Run:
    """One sampling run of a recorded model."""

    def __init__(self, tour: Tour, network: nn.Module, latent_shape: torch.Size, sigmas: Tensor):
        self.tour, self.latent_shape = tour, latent_shape
        _, _, *latents, h, w = latent_shape
        self.grid = tour.family.grid(network, h, w, *latents)
        self.recorder = Recorder(
            tour.spec, self.grid, tour.blocks, max(len(sigmas) - 1, 1), tour.family.name
        )
        self.depth = len(tour.family.blocks(network))
        self.film: Film | None = None
        self.saw_whole = self.saw_part = False

    def look(self, x: Tensor, chunks: int, window: Any) -> Shown | None:
        """What a call of the model shows; None: a part from which nothing can be recorded."""
        shown = look(x, self.latent_shape, chunks, self.grid, window)
        self.saw_part |= shown is None
        return shown

    def knows(self, network: nn.Module) -> bool:
        """Whether all blocks are there: packs that cache the first put one module for them all."""
        try:
            return len(self.tour.family.blocks(network)) == self.depth
        except AttributeError:
            return False

    def add(self, forward: "Forward", sigma: Tensor, schedule: Tensor) -> None:
        """Keep a forward in which the concepts got through every block."""
        self.saw_whole = True
        if len(forward.scores) != len(self.tour.blocks):
            return
        now = (schedule - sigma.flatten()[0].to(schedule)).abs().argmin().item()
        step = min(int(now), self.recorder.steps - 1)
        if forward.shown.frames is None:
            self.recorder.add(step, forward.scores)
            return
        if self.film is None or self.film.step != step:
            self.develop()
            self.film = Film(step, self.grid)
        self.film.add(forward.shown.frames, forward.scores)

    def develop(self) -> None:
        """Keep a step that was seen window by window, if every frame of the video was seen."""
        if self.film is not None and self.film.complete:
            self.recorder.add(self.film.step, self.film.scores())
        self.film = None

    def heard(self) -> "Recording | Silence":
        self.develop()
        try:
            return self.recorder.finish()
        except ConceptAttentionError as nothing:  # the picture is fine: say it where maps are read
            reason = str(nothing)
            if self.saw_part and not self.saw_whole:
                reason = PARTS.format(model=self.tour.family.name)
            return Silence(self.tour.spec, reason)


class Forward:
    """One call of the model: the concepts on their way through its blocks."""

    def __init__(
        self,
        run: Run,
        network: nn.Module,
        shown: Shown,
        batch: int,
        chunks: list[int],
        conds: dict[str, Any],
    ):
        self.run, self.network, self.shown = run, network, shown
        self.batch, self.chunks, self.conds = batch, chunks, conds
        self.size = run.latent_shape[0]
        self.ride: Ride | None = None
        self.concepts: Tensor | None = None
        self.mean = run.tour.mean
        self.at = 0  # the next block
        self.scores: list[Tensor] = []  # b c p for each scored block

    def arrives(self, index: int, args: dict[str, Any]) -> bool:
        """Whether the concepts are due at this block; they enter with the first one."""
        if index == 0 and self.ride is None:
            tour = self.run.tour
            own = {name: self._positive(value) for name, value in args.items()}
            conds = {name: self._positive(value) for name, value in self.conds.items()}
            self.ride = tour.family.enter(self.network, tour.rows, own, conds)
            self.concepts = self.ride.concepts
            self.mean = self.mean.to(self.concepts)
        return self.ride is not None and index == self.at

    def layout(self, args: dict[str, Any]) -> Layout:
        """Where the picture stands in the joint attention of a block called with `args`."""
        return self.run.tour.family.layout(self.network, args, self.shown.grid.patches)

    def step(
        self, index: int, patches: slice, vec: Any, q: Tensor, k: Tensor, v: Tensor, out: Tensor
    ) -> None:
        """Take one block, given its joint attention `b head n d`, the picture at `patches`."""
        ride, concepts = self.ride, self.concepts
        if index != self.at or ride is None or concepts is None:
            return
        image = ImageVectors(
            keys=self._positive(k)[:, :, patches],
            values=self._positive(v)[:, :, patches],
            outputs=self._positive(out)[:, patches],
            unplaced_queries=lambda: ride.unplaced(self._positive(q)[:, :, patches], patches),
            queries=lambda: self._positive(q)[:, :, patches],
        )
        tour = self.run.tour
        self.concepts, scores = step(
            ride.block(index, self._positive(vec)), concepts, image, self.mean, tour.spec.method
        )
        if index in tour.blocks:
            self.scores.append(
                rearrange(scores, "(chunk b) c p -> chunk b c p", b=self.size).mean(0)
            )
        self.at += 1
        if tour.stops and self.at == tour.blocks.stop:
            raise Enough

    def _positive(self, value: Any) -> Any:
        """The rows of the positive prompt; what has no row per picture is returned as it is."""
        if isinstance(value, tuple):
            return tuple(self._positive(part) for part in value)
        if is_dataclass(value) and not isinstance(value, type):  # the modulation of a block
            parts = {part.name: self._positive(getattr(value, part.name)) for part in fields(value)}
            return replace(value, **parts)
        if not isinstance(value, Tensor) or value.ndim == 0 or len(value) != self.batch:
            return value
        rows = [value[i * self.size : (i + 1) * self.size] for i in self.chunks]
        return rows[0] if len(rows) == 1 else torch.cat(rows)
