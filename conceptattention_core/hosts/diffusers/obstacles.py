"""What keeps concepts from being read off a pipeline, in words."""

import inspect
from collections.abc import Iterable
from typing import Any

from torch import nn

from ... import ConceptAttentionError

COMPILED = (
    "This pipeline's transformer is compiled, and compiled blocks cannot be recorded. "
    "Record before torch.compile, or with a pipeline that was loaded without it."
)


def refuse_compiled(transformer: Any, blocks: Iterable[Any]) -> None:
    """Raise where the transformer or one of its joint blocks runs as compiled code."""
    if not isinstance(transformer, nn.Module):
        return
    inside = (part for block in blocks for part in block.modules())
    if any(is_compiled(module) for module in (transformer, *inside)):
        raise ConceptAttentionError(COMPILED)


def is_compiled(module: nn.Module) -> bool:
    """By `torch.compile(module)`, `module.compile()` or `torch.compile(module.forward)`."""
    return (
        hasattr(module, "_orig_mod")
        or module._compiled_call_impl is not None
        or hasattr(vars(module).get("forward"), "_torchdynamo_orig_callable")
    )


def refuse_wrapped(transformer: Any) -> None:
    """Raise for a model that PEFT was wrapped around: its calls go past the transformer's."""
    if hasattr(transformer, "peft_config") and hasattr(transformer, "base_model"):
        raise ConceptAttentionError(
            f"This pipeline's transformer is wrapped by PEFT ({type(transformer).__name__}). "
            "Load the adapter with pipe.load_lora_weights, or put "
            "transformer.merge_and_unload() into the pipeline."
        )


def refuse_required_inputs(pipe: Any, family: str) -> None:
    """Raise where a pipeline's texts are not encoded without more than a text."""
    encode = getattr(pipe, "encode_prompt", None)
    if encode is None:
        return
    required = [
        name
        for name, one in inspect.signature(encode).parameters.items()
        if one.default is one.empty
        and one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)
        and not name.startswith("prompt")
    ]
    if required:
        raise ConceptAttentionError(
            f"{type(pipe).__name__} encodes no text without {', '.join(required)}; {family} reads "
            "concepts from words alone. Record a pipeline of it that takes a prompt alone."
        )


def required_arguments(kind: type) -> list[str]:
    """What pipelines of a kind are not called without, besides a prompt."""
    parameters = list(inspect.signature(kind.__call__).parameters.values())[1:]  # without self
    return [
        one.name
        for one in parameters
        if one.default is one.empty and one.kind is one.POSITIONAL_OR_KEYWORD
    ]


def describe_failure(error: Exception, family: str, pipe: Any) -> str:
    """One sentence for what went wrong while a run was recorded."""
    if isinstance(error, ConceptAttentionError):
        return str(error)
    first, *_ = str(error).strip().splitlines() or [""]
    cause = describe_state(getattr(pipe, "transformer", None))
    return (
        f"{family} could not be recorded with {type(pipe).__name__}; the image is as without "
        f"recording: {type(error).__name__}: {first}{cause and f' ({cause})'}"
    )


def describe_state(transformer: Any) -> str:
    """What is unusual about a transformer, empty where nothing is."""
    found = []
    if getattr(transformer, "is_cache_enabled", False) or hasattr(transformer, "_is_cached"):
        found.append("its blocks are cached")
    if (method := quantization_of(transformer)) is not None:
        found.append(f"its weights are quantised by {method}")
    if getattr(transformer, "peft_config", None):
        found.append("PEFT adapters are loaded")
    return ", ".join(found)


def quantization_of(transformer: Any) -> str | None:
    config = getattr(getattr(transformer, "config", None), "quantization_config", None)
    if config is None:
        return None
    method = config.get("quant_method") if isinstance(config, dict) else None
    return str(method or getattr(config, "quant_method", type(config).__name__))
