"""The tiny trained Flux, so that every workflow runs on any machine."""

from pathlib import Path

from comfy_api.latest import io

from ..conceptattention_core.hosts.comfyui.demo import load_demo_model
from .door import accepting
from .wires import schema

FOLDER = Path(__file__).parent.parent / "demo" / "model"


class DemoModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "ConceptAttentionDemoModel",
            "Load Demo Model (Tiny Flux)",
            description="A tiny model of Flux's layout that draws storybook landscapes at 256 x "
            "256: sky, sun, moon, clouds, mountains, balloon, house, tree, boat, flowers, grass, "
            "water, sand, snow. Comes with this pack, runs on any machine in seconds. Use cfg 3.",
            search_aliases=["concept attention", "tiny flux"],
            inputs=[],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The diffusion model."),
                io.Clip.Output(display_name="clip", tooltip="Its own small CLIP and T5."),
                io.Vae.Output(display_name="vae", tooltip="Its own small VAE."),
            ],
        )

    @classmethod
    @accepting
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(*load_demo_model(FOLDER))
