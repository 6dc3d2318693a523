"""All that touches diffusers while a pipeline samples. Nothing of it is copied or replaced.

For the length of a `with`, `record` puts hooks around each call of the transformer; for the length
of such a call, on its joint blocks, where the image's projections are taken as they come out and
its attended vectors as they go into the output projection. There the concepts take their step.
Modules and not attention processors, because all processors (IP-Adapter's, fused ones), attention
backends, adapters, quantized layers and off-loading call these modules, in every version. Call by
call, because adapters and caches put others in their place.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ... import ConceptAttentionError
from ...forward import RecordPlan
from ...ranges import select
from ...recording import Recording, RecordSpec
from ...tokens import pack_tokens
from .calls import ModelCall
from .families import family_of
from .families.base import Family
from .forward import FUSED, PROJECTIONS, TransformerForward
from .obstacles import describe_failure, describe_state, refuse_compiled, refuse_required_inputs
from .prompts import Prompts, observe_method
from .run import Run


@contextmanager
def record(
    pipe: Any,
    spec: RecordSpec,
    *,
    max_sequence_length: int | None = None,
    strict: bool = False,
) -> Iterator["RecordingSession"]:
    """Record `spec` whenever `pipe` samples inside this `with`::

        from diffusers import DiffusionPipeline

        from conceptattention_core.concepts import parse
        from conceptattention_core.hosts.diffusers.patch import record
        from conceptattention_core.maps import read_maps
        from conceptattention_core.recording import RecordSpec

        pipe = DiffusionPipeline.from_pretrained("demo/model")  # or a model of FAMILIES
        with record(pipe, RecordSpec(parse("dragon, rock, sky"))) as session:
            image = pipe("a dragon on a rock", height=128, width=128).images[0]
        maps = read_maps(session.recording())
        maps.overlay(image)

    Give `max_sequence_length` (tokens) here where the pipeline is called with it. CogVideoX 1.5 may
    sample padding in front of a video, and only its length shows it:
    `recording().of_length(len(frames))`.

    What is known to be impossible is refused here, by `ConceptAttentionError`. Whatever goes wrong
    later does not reach the pipeline: the image is generated, and `recording()` says why there are
    no maps. With `strict` it is raised where it happens.
    """
    family, plan = make_plan(pipe, spec, max_sequence_length)
    session = RecordingSession(pipe, family, plan, strict=strict)
    with ExitStack() as handles:
        handles.callback(session.close)
        for handle in session.attach_to_calls():
            handles.callback(handle.remove)
        for name, hook in (
            ("check_inputs", session.prompts.keep_inputs),
            ("encode_prompt", session.prompts.keep_encoded),
        ):
            safe = session.hook(hook, before_run=True)
            handles.enter_context(observe_method(pipe, name, safe))
        yield session


def make_plan(pipe: Any, spec: RecordSpec, length: int | None = None) -> tuple[Family, RecordPlan]:
    """What is recorded of a pipeline, its prompts padded to `length` tokens."""
    transformer = getattr(pipe, "transformer", None)
    refuse_compiled(transformer, ())
    family = family_of(pipe)
    every = list(family.blocks(transformer))
    refuse_compiled(transformer, every)
    refuse_required_inputs(pipe, family.name)
    length = length or family.text_length(pipe)
    blocks = select(spec.blocks, len(every), "blocks")
    family.require_encoder(pipe)
    try:
        tokens = family.embed(pipe, [concept.words for concept in spec.concepts.concepts], length)
    except ConceptAttentionError:
        raise
    except Exception as error:
        raise ConceptAttentionError(
            f"{family.name} could not read concepts with {type(pipe).__name__}: "
            f"{type(error).__name__}: {error}"
        ) from error
    return family, RecordPlan(family.name, spec, blocks, pack_tokens(spec, tokens))


class BlockHooks:
    """Hooks that take the concepts of the current call of a transformer through its blocks."""

    def __init__(self, family: Family, plan: RecordPlan):
        self.family, self.plan = family, plan
        self.forward: TransformerForward | None = None
        """The current call; None where there is none, or none that is recorded."""

    def hook(self, function: Callable[..., None]) -> Callable[..., None]:
        """What is put on a module: concepts step without gradients, whoever calls."""
        return torch.no_grad()(function)

    def attach(self, blocks: Sequence[Any]) -> Iterator[RemovableHandle]:
        """Put hooks on the joint blocks, up to the last of interest."""
        for index, block in enumerate(blocks[: self.plan.blocks.stop]):
            start = self.hook(partial(self.before_block, index))
            yield block.register_forward_pre_hook(start, with_kwargs=True)
            attention = self.family.attention(block)
            for name in (*PROJECTIONS, FUSED):
                if hasattr(attention, name):
                    keep = self.hook(partial(self.after_projection, index, name))
                    yield getattr(attention, name).register_forward_hook(keep)
            step = self.hook(partial(self.before_output_projection, index))
            yield attention.to_out[0].register_forward_pre_hook(step)

    def before_block(self, index: int, block: nn.Module, args: tuple, kwargs: dict) -> None:
        if self.forward is not None:
            self.forward.start(index, _named(block, args, kwargs))

    def after_projection(
        self, index: int, name: str, layer: nn.Module, args: tuple, output: Tensor
    ) -> None:
        if self.forward is not None:
            self.forward.check(index, name, layer)
            self.forward.keep(index, name, output)

    def before_output_projection(self, index: int, layer: nn.Module, args: tuple) -> None:
        if self.forward is not None:
            self.forward.check(index, "to_out", layer)
            self.forward.step(index, args[0])


class RecordingSession(BlockHooks):
    """Records the runs of a pipeline and keeps the last one."""

    def __init__(self, pipe: Any, family: Family, plan: RecordPlan, *, strict: bool = False):
        super().__init__(family, plan)
        self.pipe, self.transformer = pipe, pipe.transformer
        self.strict = strict
        self.prompts = Prompts()
        self.run: Run | None = None
        """The last run, or the one that is under way."""
        self.failure: str | None = None
        """Why the last run has no maps."""
        self._early_failure: str | None = None  # what went wrong since, before the next run
        self._timesteps: Any = None  # of the last run's schedule
        self._recording: Recording | None = None
        self._closed = False
        self._handles: list[RemovableHandle] = []  # on blocks, for the length of a call

    def recording(self) -> Recording:
        """What was recorded in the last run, all images of its batch.

        A `ConceptAttentionError` says why nothing was, or not all.
        """
        if self.failure is not None:
            raise ConceptAttentionError(self.failure)
        if self.run is None:
            raise ConceptAttentionError(self._explain_no_run())
        if self._recording is None:
            try:
                self._recording = self.run.recorder.finish()
            except ConceptAttentionError as nothing:
                cause = describe_state(self.transformer)
                raise ConceptAttentionError(f"{nothing}{cause and f' Note: {cause}.'}") from None
        return self._recording

    def _explain_no_run(self) -> str:
        said = "No image was generated while recording. Call the pipeline inside `with record(...)`"
        if self.pipe.transformer is self.transformer:
            return f"{said}."
        now = type(self.pipe.transformer).__name__
        return f"{said}; its transformer was replaced meanwhile (now {now}): replace it before."

    def hook(
        self, function: Callable[..., None], *, before_run: bool = False
    ) -> Callable[..., None]:
        """What fails while recording costs no image: it is said where the maps are asked for."""
        inner = super().hook(function)

        def guarded(*args: Any, **kwargs: Any) -> None:
            if self._closed:  # a copy that was made meanwhile has kept the hook
                return
            try:
                inner(*args, **kwargs)
            except Exception as error:
                if self.strict:
                    raise
                self.forward = None
                said = describe_failure(error, self.family.name, self.pipe)
                if before_run:
                    self._early_failure = self._early_failure or said
                else:
                    self.failure = self.failure or said

        return guarded

    def close(self) -> None:
        """Let go of everything but the scores."""
        self._closed = True
        self._detach()
        self.forward = None
        self.prompts.clear()
        if self.run is not None:
            self.run.passes.clear()

    def attach_to_calls(self) -> Iterator[RemovableHandle]:
        """Put hooks around each call of the transformer."""
        before, after = self.hook(self.before_call), self.hook(self.after_call)
        yield self.transformer.register_forward_pre_hook(before, with_kwargs=True)
        yield self.transformer.register_forward_hook(after)

    def _detach(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def before_call(self, transformer: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        self._detach()  # where an exception ended the last call
        self.forward = None
        if self._is_new_run(transformer, args, kwargs):
            self.run = self._recording = None
            self.failure, self._early_failure = self._early_failure, None
            self._timesteps = self.pipe.scheduler.timesteps
            self.run = self._begin(transformer, _model_call(transformer, args, kwargs))
        if self.run is None or self.failure is not None:
            return
        call = _model_call(transformer, args, kwargs)
        if rows := self.run.prompt_rows(call):
            blocks = list(self.family.blocks(transformer))
            self._handles += self.attach(blocks)
            self.forward = TransformerForward(
                self.family, self.plan, self.run.grid, transformer, call, rows, blocks
            )

    def _is_new_run(self, transformer: nn.Module, args: tuple, kwargs: dict[str, Any]) -> bool:
        """Whether the last run is over, so that a call begins the next one."""
        if self._timesteps is None or self.pipe.scheduler.timesteps is not self._timesteps:
            return True
        # one that could not begin lasts as long as its schedule
        return self.run is not None and self.run.is_over(_model_call(transformer, args, kwargs))

    def _begin(self, transformer: nn.Module, call: ModelCall) -> Run:
        refuse_compiled(transformer, self.family.blocks(transformer))  # meanwhile
        self.prompts.begin_run()
        return Run(self.family, self.plan, self.pipe, call, self.prompts)

    def after_call(self, transformer: nn.Module, args: tuple, output: Any) -> None:
        forward, self.forward = self.forward, None
        self._detach()
        if self.run is not None and forward is not None and forward.concepts.done:
            self.run.add(forward.call, forward.rows, forward.concepts.scores)


def _named(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Mapping[str, Any]:
    return inspect.signature(type(module).forward).bind(module, *args, **kwargs).arguments


def _model_call(transformer: nn.Module, args: tuple, kwargs: dict[str, Any]) -> ModelCall:
    return ModelCall.of(_named(transformer, args, kwargs))
