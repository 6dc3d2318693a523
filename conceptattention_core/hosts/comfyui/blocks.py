"""Around the blocks of a model, for the length of one call: concepts step where a block attends.

A block is wrapped with whatever another pack has put there, or listened to as a module where there
is no place for patches. Its attention is the ordinary one, or another pack's; it is only listened
to, and by its projections where no other can take its place.
"""

import inspect
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

from torch import Tensor, nn

from .override import OVERRIDE, merge_heads, split_heads
from .run import Arrival, Forward

PROJECTIONS = ("to_q", "to_k", "to_v")


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
        attention = tour.family.attention(block)
        if attention is None:
            before_block = _before_block(forward, index)
        else:
            before_block = _hook_projections(forward, index, attention, hooks)
        handle = block.register_forward_pre_hook(before_block, with_kwargs=True)
        hooks.callback(handle.remove)


def _hook_projections(
    forward: Forward, index: int, attention: Any, hooks: ExitStack
) -> Callable[..., None]:
    """Listen to an attention that none can take the place of, until `hooks` are closed.

    Gives what is to be done before its block.
    """
    ears = Ears(forward, index)
    for name in PROJECTIONS:
        hear = partial(ears.after_projection, name)
        hooks.callback(getattr(attention, name).register_forward_hook(hear).remove)
    attended = attention.to_out[0].register_forward_pre_hook(ears.before_output_projection)
    hooks.callback(attended.remove)
    return ears.before_block


class Ears:
    """Tells the concepts before a block what its attention projects, and then what it attends to.

    They are told once: afterwards they go through the same layers, and nothing is heard.
    """

    def __init__(self, forward: Forward, index: int):
        self.forward, self.index = forward, index
        self.arrived: Arrival | None = None
        self.heard: dict[str, Tensor] = {}  # b n (head d)

    def before_block(self, block: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        named = _named(self.forward, _call(block, args, kwargs))
        self.arrived, self.heard = self.forward.arrives(self.index, named), {}

    def after_projection(
        self, name: str, _layer: nn.Module, _args: tuple, projected: Tensor
    ) -> None:
        if self.arrived is not None:
            self.heard[name] = projected

    def before_output_projection(self, _layer: nn.Module, args: tuple[Tensor]) -> None:
        arrived, heard = self.arrived, {**self.heard, "out": args[0]}
        self.arrived, self.heard = None, {}
        if arrived is None or len(heard) <= len(PROJECTIONS):
            return
        if all(x.shape[1] == arrived.layout.length for x in heard.values()):
            q, k, v = (heard[name] for name in PROJECTIONS)
            self.forward.step_by_projections(arrived, q, k, v, heard["out"])


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
    def before_block(block, args, kwargs):
        call = _call(block, args, kwargs)
        named = _named(forward, call)
        options = named["transformer_options"]
        arrived = forward.arrives(index, named)
        if arrived is not None:
            tap = _around_attention(forward, arrived, options.get(OVERRIDE))
            call.arguments["transformer_options"] = {**options, OVERRIDE: tap}
        return call.args[1:], call.kwargs

    return before_block


def _call(block: nn.Module, args: tuple, kwargs: dict[str, Any]) -> inspect.BoundArguments:
    # the class's forward: another pack may have put one with other arguments in its place
    return inspect.signature(type(block).forward).bind(block, *args, **kwargs)


def _named(forward: Forward, call: inspect.BoundArguments) -> dict[str, Any]:
    """What a block is called with, by our names."""
    names = forward.run.tour.family.arguments
    named = {ours: call.arguments.get(theirs) for ours, theirs in names.items()}
    named["transformer_options"] = call.arguments.get("transformer_options") or {}
    return named


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
