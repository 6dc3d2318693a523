"""ComfyUI's compiler since 0.34: a block's memory is free at its end, and our work is outside.

The stand-in for `comfy.model_prefetch` stops where the real one breaks off or aborts: at memory of
a block that outlives it, at a pause inside a pause, and at a block that is run inside a pause.
"""

import sys
import types
from collections.abc import Iterator
from threading import get_ident
from typing import Any

import pytest
import torch
from conceptattention.conceptattention_core import ConceptAttentionError
from conceptattention.conceptattention_core.hosts.comfyui import families
from conceptattention.conceptattention_core.hosts.comfyui.families import family_of
from conceptattention.conceptattention_core.hosts.comfyui.patch import WrappersMP
from conceptattention.conceptattention_core.hosts.comfyui.store import STORE
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ....comfyui.tiny import TINY


class Aborted(BaseException):
    """No `except Exception` catches what ends the process."""


class Graph(TorchDispatchMode):
    """Counts what is allocated in a block while it is not paused."""

    def __init__(self):
        super().__init__()
        self.paused = self.inside = False
        self.allocated: dict[int, StorageWeakRef] = {}
        self.known: set[int] = set()
        self.blocks = self.pauses = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if self.inside and not self.paused:
            for tensor in tensors((out,)):
                ref = StorageWeakRef(tensor.untyped_storage())
                if ref.cdata not in self.known:
                    self.allocated[ref.cdata] = ref
        return out

    def pause(self):
        if self.paused:
            raise Aborted("paused twice")
        self.paused = True
        self.pauses += 1

    def resume(self):
        if not self.paused:
            raise Aborted("resumed twice")
        self.paused = False

    def begin(self, block, args, kwargs):
        if self.paused:
            raise Aborted("a block inside a pause")
        weights = [*block.parameters(), *block.buffers()]
        given = [StorageWeakRef(t.untyped_storage()) for t in tensors((args, kwargs, weights))]
        self.known = {ref.cdata for ref in given}
        self.allocated, self.inside = {}, True
        self.blocks += 1

    def end(self, _block, _args, out):
        if self.paused:
            raise Aborted("a block ends inside a pause")
        self.inside = False
        given = {StorageWeakRef(t.untyped_storage()).cdata for t in tensors(out)}
        self.ended = {key: ref for key, ref in self.allocated.items() if key not in given}

    def check(self, *_: Any):
        """After the block has returned: nothing of it is left."""
        if any(not ref.expired() for ref in getattr(self, "ended", {}).values()):
            raise Aborted("memory of a block outlives it")


def tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


class Pause:
    def __init__(self, graph: Graph):
        self.graph = graph

    def __enter__(self):
        self.graph.pause()

    def __exit__(self, *_: Any):
        self.graph.resume()


@pytest.fixture
def graph(monkeypatch) -> Graph:
    graph = Graph()
    module = types.ModuleType("comfy.model_prefetch")
    before = sys.modules.get("comfy.model_prefetch")
    if before is not None:
        vars(module).update(vars(before))
    module.pause_malloc_graph = lambda sync=False: Pause(graph)
    module.MALLOC_GRAPHS = {get_ident(): types.SimpleNamespace(_comfy_active=True)}
    monkeypatch.setitem(sys.modules, "comfy.model_prefetch", module)
    return graph


@pytest.fixture
def compiled(tiny, graph) -> Iterator[Graph]:
    network = tiny.model().model.diffusion_model
    blocks = list(family_of(network).blocks(network))
    handles = []
    for block in blocks:
        handles.append(block.register_forward_pre_hook(graph.check))
        handles.append(block.register_forward_pre_hook(graph.begin, with_kwargs=True, prepend=True))
        handles.append(block.register_forward_hook(graph.end, always_call=False))
    handles.append(network.register_forward_hook(graph.check))
    yield graph
    for handle in handles:
        handle.remove()


def test_our_own_work_is_outside_of_what_the_compiler_counts(tiny, compiled):
    STORE.clear()
    model = tiny.recorded()
    with compiled:
        plain = tiny.sample(tiny.model(), (2, 5, 7), cfg=3.0)
        before = compiled.blocks
        latent = tiny.sample(model, (2, 5, 7), cfg=3.0)
    assert compiled.blocks > before
    assert compiled.pauses >= compiled.blocks - before
    assert not compiled.paused
    assert torch.equal(latent, plain)
    assert STORE.find(latent).steps == ((0, 0), (1, 1))


@pytest.mark.parametrize("name", ["MALLOC_GRAPHS", "ACTIVE_MALLOC_GRAPHS"])
def test_a_model_of_no_family_is_not_called_inside_of_its_own_call(
    name, graph, monkeypatch, request
):
    """Each version of ComfyUI counts one call at a time: another inside of it ends the process."""
    tiny = TINY["Flux.1"]
    monkeypatch.setattr(families, "FAMILIES", [])
    host = sys.modules["comfy.model_prefetch"]
    graphs = vars(host).pop("MALLOC_GRAPHS")
    setattr(host, name, graphs if name == "MALLOC_GRAPHS" else {get_ident(): object()})
    plain = tiny.sample(tiny.model(), cfg=3.0)
    network, inside = tiny.model().model.diffusion_model, []

    def enter(*_: Any):
        if inside:
            raise Aborted("a call inside of a call")
        inside.append(1)

    request.addfinalizer(network.register_forward_pre_hook(enter).remove)
    leave = network.register_forward_hook(lambda *_: inside.clear(), always_call=True)
    request.addfinalizer(leave.remove)
    latent = tiny.sample(tiny.recorded(), cfg=3.0)
    assert torch.equal(latent, plain)
    with pytest.raises(ConceptAttentionError, match="no model .* --disable-comfy-compiler"):
        STORE.find(latent)
    getattr(host, name).clear()  # the compiler is off
    with pytest.raises(Aborted, match="a call inside"):
        tiny.sample(tiny.recorded(), cfg=3.0)


def test_the_stand_in_aborts_where_memory_of_a_block_is_kept(graph):
    block = torch.nn.Linear(3, 3)
    kept = []

    def forward(x):
        kept.append(x + 1)
        return x * 2

    block.forward = forward
    with graph:
        x = torch.ones(2, 3)
        graph.begin(block, (x,), {})
        out = block(x)
        graph.end(block, (x,), out)
        with pytest.raises(Aborted, match="outlives"):
            graph.check()
        kept.clear()
        graph.check()


@pytest.mark.parametrize("seen", ["no block", "not every block"])
def test_calls_that_a_compiled_graph_runs_unseen_are_told(seen, caplog):
    tiny = TINY["Flux.1"]
    plain = tiny.sample(tiny.model(), steps=3)
    model, calls = tiny.recorded(), []

    def replay(executor, x, t, *args, **kwargs):
        """From the second call on blocks run without Python, as a replayed graph does."""
        calls.append(1)
        given = [x for x in (*args, *kwargs.values()) if isinstance(x, dict)]
        (options,) = [x for x in given if "patches_replace" in x]
        if len(calls) > 1:
            patches = options["patches_replace"] = dict(options["patches_replace"])
            kept = {} if seen == "no block" else {k: v for k, v in patches["dit"].items() if k[1]}
            patches["dit"] = kept
        return executor(x, t, *args, **kwargs)

    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "replay", replay)
    STORE.clear()
    latent = tiny.sample(model, steps=3)
    assert torch.equal(latent, plain)
    assert STORE.find(latent).steps == ((0, 0),)
    assert "Flux.1 was recorded in 1 of its 3 calls" in caplog.text
