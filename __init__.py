"""ConceptAttention for ComfyUI: words in, one mask each, from the run that makes the picture."""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    # Imported here so that the package can be imported where there is no ComfyUI.
    from .nodes import ConceptAttentionExtension

    return ConceptAttentionExtension()
