"""Around the blocks of a model, for the length of one call: concepts step where a block attends.

A block is wrapped with whatever another pack has put there, or hooked as a module where ComfyUI has
no place for patches. Its attention is the ordinary one, or another pack's; its tensors are only
read, and where no other attention can take its place, those of its projections.
"""

import inspect
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

from torch import Tensor, nn

from .call import BlockInput, CallForward
from .families.base import PATCHED, BlockCall, Names
from .foreign import forward_pack
from .override import OVERRIDE, merge_heads, split_heads

PROJECTIONS = ("to_q", "to_k", "to_v")
OPTIONS = "transformer_options"


def patch_blocks(forward: CallForward, options: dict[str, Any]) -> None:
    """Wrap what is patched into the blocks, or the blocks themselves, in the options of a call."""
    replaced = dict(options.get("patches_replace", {}))
    blocks = replaced["dit"] = dict(replaced.get("dit", {}))
    for index in range(forward.plan.blocks.stop):
        key = ("double_block", index)
        blocks[key] = _around_block(forward, index, blocks.get(key))
    options["patches_replace"] = replaced


def hook_blocks(forward: CallForward, hooks: ExitStack) -> None:
    """Hook blocks that cannot be patched, until `hooks` are closed."""
    family = forward.family
    blocks = family.blocks(forward.network)[: forward.plan.blocks.stop]
    for index, block in enumerate(blocks):
        attention = family.attention(block)
        if attention is None:
            hook_block(forward, index, block, family.arguments, hooks)
        else:
            _hook_projections(forward, index, block, attention, hooks)


def hook_where_patches_are_ignored(forward: CallForward, hooks: ExitStack) -> None:
    """Hook a model's blocks as modules as well, where another pack's forward runs the model.

    Such a forward may not look for patches. Its blocks are hooked if they are ComfyUI's own and
    called by the names that patches use.
    """
    if forward_pack(forward.network) is None:
        return
    blocks = forward.family.blocks(forward.network)[: forward.plan.blocks.stop]
    if any(forward_pack(block) is not None for block in blocks):
        return
    for index, block in enumerate(blocks):
        known = inspect.signature(type(block).forward).parameters
        if all(name in known for name in (OPTIONS, *PATCHED.values())):
            hook_block(forward, index, block, PATCHED, hooks)


def hook_block(
    forward: CallForward, index: int, block: nn.Module, names: Names, hooks: ExitStack
) -> None:
    """Hook a block, whose arguments have these `names`, until `hooks` are closed."""
    before_block = _before_block(forward, index, names)
    hooks.callback(block.register_forward_pre_hook(before_block, with_kwargs=True).remove)


def _hook_projections(
    forward: CallForward, index: int, block: nn.Module, attention: Any, hooks: ExitStack
) -> None:
    """Hook a block with an attention that none can take the place of."""
    own = ProjectionHooks(forward, index)
    for name in PROJECTIONS:
        after_projection = partial(own.after_projection, name)
        hooks.callback(getattr(attention, name).register_forward_hook(after_projection).remove)
    for handle in (
        block.register_forward_pre_hook(own.before_block, with_kwargs=True),
        attention.to_out[0].register_forward_pre_hook(own.before_output_projection),
        block.register_forward_hook(own.after_block),
    ):
        hooks.callback(handle.remove)


class ProjectionHooks:
    """Collects what a block's attention projects, until its output is projected.

    The concepts step once: afterwards they go through the same layers themselves, and nothing is
    collected.
    """

    def __init__(self, forward: CallForward, index: int):
        self.forward, self.index = forward, index
        self.at: BlockInput | None = None
        self.projected: dict[str, Tensor] = {}  # b n (head d)

    def before_block(self, block: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        self.at, self.projected = None, {}
        with self.forward.guard():
            call = _block_call(self.forward.family.arguments, _bind(block, args, kwargs))
            self.at = self.forward.before_block(self.index, call)

    def after_projection(
        self, name: str, _layer: nn.Module, _args: tuple, projected: Tensor
    ) -> None:
        if self.at is not None:
            self.projected[name] = projected

    def before_output_projection(self, _layer: nn.Module, args: tuple[Tensor]) -> None:
        at, projected = self.at, self.projected
        self.at, self.projected = None, {}
        if at is None or len(projected) < len(PROJECTIONS):
            return
        with self.forward.guard():
            (out, *_), (q, k, v) = args, (projected[name] for name in PROJECTIONS)
            if all(x.shape[1] == at.layout.length for x in (q, k, v, out)):
                self.forward.after_projections(at, q, k, v, out)

    def after_block(self, *_: Any) -> None:
        self.at, self.projected = None, {}  # the host's tensors go with their block


def _around_block(forward: CallForward, index: int, earlier: Callable | None) -> Callable:
    def around_block(args, extra):
        original = extra["original_block"]

        def recording(args):
            given = args
            with forward.guard():
                options = args.get(OPTIONS)
                if options is not None:
                    call = BlockCall.of(forward.family.arguments, args, options, original)
                    at = forward.before_block(index, call)
                    if at is not None:
                        tap = _around_attention(forward, at, options.get(OVERRIDE))
                        given = {**args, OPTIONS: {**options, OVERRIDE: tap}}
            return original(given)

        if earlier is None:
            return recording(args)
        return earlier(args, {**extra, "original_block": recording})

    return around_block


def _before_block(forward: CallForward, index: int, names: Names) -> Callable:
    def before_block(block, args, kwargs):
        given = None
        with forward.guard():
            bound = _bind(block, args, kwargs)
            call = _block_call(names, bound)
            at = forward.before_block(index, call)
            if at is not None:
                options = call.options or {}
                tap = _around_attention(forward, at, options.get(OVERRIDE))
                bound.arguments[OPTIONS] = {**options, OVERRIDE: tap}
                given = bound.args[1:], bound.kwargs
        return given

    return before_block


def _bind(block: nn.Module, args: tuple, kwargs: dict[str, Any]) -> inspect.BoundArguments:
    # the class's forward: another pack may have put one with other arguments in its place
    return inspect.signature(type(block).forward).bind(block, *args, **kwargs)


def _block_call(names: Names, bound: inspect.BoundArguments) -> BlockCall:
    return BlockCall.of(names, bound.arguments, bound.arguments.get(OPTIONS) or {})


def _around_attention(forward: CallForward, at: BlockInput, earlier: Callable | None) -> Callable:
    def around_attention(attention, q, k, v, heads, *rest, **kwargs):
        if earlier is None:
            out = attention(q, k, v, heads, *rest, **kwargs)
        else:
            out = earlier(attention, q, k, v, heads, *rest, **kwargs)
        with forward.guard():
            if not kwargs.get("skip_reshape"):
                q, k, v = (split_heads(x, heads) for x in (q, k, v))
            if q.shape[2] == at.layout.length:
                merged = merge_heads(out) if kwargs.get("skip_output_reshape") else out
                forward.after_attention(at, q, k, v, merged)
        return out

    return around_attention
