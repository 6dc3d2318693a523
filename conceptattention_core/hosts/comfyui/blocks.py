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

from .foreign import forward_pack
from .override import OVERRIDE, merge_heads, split_heads
from .run import Arrival, Forward

PROJECTIONS = ("to_q", "to_k", "to_v")
OUR_NAMES = {name: name for name in ("img", "txt", "vec", "pe")}


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
            hook_block(forward, index, block, tour.family.arguments, hooks)
        else:
            _hook_projections(forward, index, block, attention, hooks)


def hook_where_patches_are_ignored(forward: Forward, network: nn.Module, hooks: ExitStack) -> None:
    """Listen to a model's blocks as modules as well, where another pack's forward runs it.

    Such a forward may not look for patches. Its blocks are listened to if they are ComfyUI's own
    and called by our names.
    """
    if forward_pack(network) is None:
        return
    tour = forward.run.tour
    blocks = tour.family.blocks(network)[: tour.blocks.stop]
    if any(forward_pack(block) is not None for block in blocks):
        return
    for index, block in enumerate(blocks):
        known = inspect.signature(type(block).forward).parameters
        if all(name in known for name in ("transformer_options", *OUR_NAMES)):
            hook_block(forward, index, block, OUR_NAMES, hooks)


def hook_block(
    forward: Forward, index: int, block: nn.Module, names: dict[str, str], hooks: ExitStack
) -> None:
    """Listen to a block, whose arguments have these `names`, until `hooks` are closed."""
    before_block = _before_block(forward, index, names)
    hooks.callback(block.register_forward_pre_hook(before_block, with_kwargs=True).remove)


def _hook_projections(
    forward: Forward, index: int, block: nn.Module, attention: Any, hooks: ExitStack
) -> None:
    """Listen to a block with an attention that none can take the place of."""
    ears = Ears(forward, index)
    for name in PROJECTIONS:
        hear = partial(ears.after_projection, name)
        hooks.callback(getattr(attention, name).register_forward_hook(hear).remove)
    for handle in (
        block.register_forward_pre_hook(ears.before_block, with_kwargs=True),
        attention.to_out[0].register_forward_pre_hook(ears.before_output_projection),
        block.register_forward_hook(ears.after_block),
    ):
        hooks.callback(handle.remove)


class Ears:
    """Tells the concepts before a block what its attention projects, and then what it attends to.

    They are told once: afterwards they go through the same layers, and nothing is heard.
    """

    def __init__(self, forward: Forward, index: int):
        self.forward, self.index = forward, index
        self.arrived: Arrival | None = None
        self.heard: dict[str, Tensor] = {}  # b n (head d)

    def before_block(self, block: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        self.arrived, self.heard = None, {}
        with self.forward.run.guard():
            names = self.forward.run.tour.family.arguments
            self.arrived = self.forward.arrives(
                self.index, _named(names, _call(block, args, kwargs))
            )

    def after_projection(
        self, name: str, _layer: nn.Module, _args: tuple, projected: Tensor
    ) -> None:
        if self.arrived is not None:
            self.heard[name] = projected

    def before_output_projection(self, _layer: nn.Module, args: tuple[Tensor]) -> None:
        arrived, heard = self.arrived, self.heard
        self.arrived, self.heard = None, {}
        if arrived is None or len(heard) < len(PROJECTIONS):
            return
        with self.forward.run.guard():
            heard = {**heard, "out": args[0]}
            if all(x.shape[1] == arrived.layout.length for x in heard.values()):
                q, k, v = (heard[name] for name in PROJECTIONS)
                self.forward.step_by_projections(arrived, q, k, v, heard["out"])

    def after_block(self, *_: Any) -> None:
        self.arrived, self.heard = None, {}  # the host's tensors go with their block


def _around_block(forward: Forward, index: int, earlier: Callable | None) -> Callable:
    def around_block(args, extra):
        original = extra["original_block"]

        def listening(args):
            given = args
            with forward.run.guard():
                options = args.get("transformer_options")
                if options is not None:
                    arrived = forward.arrives(index, {**args, "original_block": original})
                    if arrived is not None:
                        tap = _around_attention(forward, arrived, options.get(OVERRIDE))
                        given = {**args, "transformer_options": {**options, OVERRIDE: tap}}
            return original(given)

        if earlier is None:
            return listening(args)
        return earlier(args, {**extra, "original_block": listening})

    return around_block


def _before_block(forward: Forward, index: int, names: dict[str, str]) -> Callable:
    def before_block(block, args, kwargs):
        given = None
        with forward.run.guard():
            call = _call(block, args, kwargs)
            named = _named(names, call)
            options = named["transformer_options"]
            arrived = forward.arrives(index, named)
            if arrived is not None:
                tap = _around_attention(forward, arrived, options.get(OVERRIDE))
                call.arguments["transformer_options"] = {**options, OVERRIDE: tap}
                given = call.args[1:], call.kwargs
        return given

    return before_block


def _call(block: nn.Module, args: tuple, kwargs: dict[str, Any]) -> inspect.BoundArguments:
    # the class's forward: another pack may have put one with other arguments in its place
    return inspect.signature(type(block).forward).bind(block, *args, **kwargs)


def _named(names: dict[str, str], call: inspect.BoundArguments) -> dict[str, Any]:
    """What a block is called with, by our names."""
    named = {ours: call.arguments.get(theirs) for ours, theirs in names.items()}
    named["transformer_options"] = call.arguments.get("transformer_options") or {}
    return named


def _around_attention(forward: Forward, arrived: Arrival, earlier: Callable | None) -> Callable:
    def around_attention(attention, q, k, v, heads, *rest, **kwargs):
        if earlier is None:
            out = attention(q, k, v, heads, *rest, **kwargs)
        else:
            out = earlier(attention, q, k, v, heads, *rest, **kwargs)
        with forward.run.guard():
            if not kwargs.get("skip_reshape"):
                q, k, v = (split_heads(x, heads) for x in (q, k, v))
            if q.shape[2] == arrived.layout.length:
                merged = merge_heads(out) if kwargs.get("skip_output_reshape") else out
                forward.step(arrived, q, k, v, merged)
        return out

    return around_attention
