"""Around the blocks of a model, for the length of one call: concepts step where a block attends.

A block is wrapped with whatever another pack has put there, or listened to as a module where there
is no place for patches. Its attention is the ordinary one, or another pack's; it is only listened
to.
"""

import inspect
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from torch import nn

from .override import OVERRIDE, merge_heads, split_heads
from .run import Arrival, Forward


def patch_blocks(forward: Forward, options: dict[str, Any]) -> None:
    """Wrap what is patched into the blocks, or the blocks themselves, in the options of a call."""
    replaced = dict(options.get("patches_replace", {}))
    blocks = replaced["dit"] = dict(replaced.get("dit", {}))
    for index in range(forward.run.tour.blocks.stop):
        key = ("double_block", index)
        blocks[key] = _around_block(forward, index, blocks.get(key))
    options["patches_replace"] = replaced


def hook_blocks(forward: Forward, network: nn.Module, hooks: ExitStack) -> None:
    """Listen to blocks that cannot be patched, until `hooks` are closed."""
    tour = forward.run.tour
    for index, block in enumerate(tour.family.blocks(network)[: tour.blocks.stop]):
        handle = block.register_forward_pre_hook(_before_block(forward, index), with_kwargs=True)
        hooks.callback(handle.remove)


def _around_block(forward: Forward, index: int, earlier: Callable | None) -> Callable:
    def around_block(args, extra):
        original = extra["original_block"]

        def listening(args):
            options = args.get("transformer_options")
            if options is None:
                return original(args)
            arrived = forward.arrives(index, {**args, "original_block": original})
            if arrived is None:
                return original(args)
            tap = _around_attention(forward, arrived, options.get(OVERRIDE))
            return original({**args, "transformer_options": {**options, OVERRIDE: tap}})

        if earlier is None:
            return listening(args)
        return earlier(args, {**extra, "original_block": listening})

    return around_block


def _before_block(forward: Forward, index: int) -> Callable:
    names = forward.run.tour.family.arguments

    def before_block(block, args, kwargs):
        # the class's forward: another pack may have put one with other arguments in its place
        call = inspect.signature(type(block).forward).bind(block, *args, **kwargs)
        options = call.arguments.get("transformer_options") or {}
        named = {ours: call.arguments.get(theirs) for ours, theirs in names.items()}
        named["transformer_options"] = options
        arrived = forward.arrives(index, named)
        if arrived is not None:
            tap = _around_attention(forward, arrived, options.get(OVERRIDE))
            call.arguments["transformer_options"] = {**options, OVERRIDE: tap}
        return call.args[1:], call.kwargs

    return before_block


def _around_attention(forward: Forward, arrived: Arrival, earlier: Callable | None) -> Callable:
    def around_attention(attention, q, k, v, heads, *rest, **kwargs):
        if earlier is None:
            out = attention(q, k, v, heads, *rest, **kwargs)
        else:
            out = earlier(attention, q, k, v, heads, *rest, **kwargs)
        if not kwargs.get("skip_reshape"):
            q, k, v = (split_heads(x, heads) for x in (q, k, v))
        if q.shape[2] == arrived.layout.length:
            merged = merge_heads(out) if kwargs.get("skip_output_reshape") else out
            forward.step(arrived, q, k, v, merged)
        return out

    return around_attention
