"""Finding concepts in an image that exists already."""

from comfy_api.latest import io

from ..conceptattention_core.attention import Method
from ..conceptattention_core.concepts import parse
from ..conceptattention_core.hosts.comfyui.locate import locate
from ..conceptattention_core.locating import MEGAPIXELS, LocateSpec, parse_noise
from ..conceptattention_core.maps import ReadSpec, read_maps
from ..conceptattention_core.ranges import ACCEPTED, DEEP
from ..conceptattention_core.recording import RecordSpec
from .before import check_concepts, check_range, refusal
from .door import accepting
from .inputs import bounces_input, concept_inputs, scale_input, space_input, tokens_input
from .notices import show_notices
from .wires import ConceptMapsWire, advanced, schema


class Locate(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "ConceptAttentionLocate",
            "Locate Concepts in Image",
            description="Finds words in any picture: the model looks at it once, slightly noised, "
            "with the words riding along. Costs a part of one sampling step.",
            search_aliases=["concept attention", "segment", "photo to mask", "heat map"],
            inputs=[
                *concept_inputs(),
                io.Vae.Input("vae", tooltip="The VAE of the model."),
                io.Image.Input("image", tooltip="Pictures of any size and shape."),
                io.String.Input(
                    "caption",
                    default="",
                    tooltip="What the picture shows, if you like: 'a cat on a sofa'.",
                ),
                advanced(
                    io.String.Input(
                        "noise",
                        default="0.5",
                        tooltip="How much noise is mixed in before the model looks, 0 to 1. "
                        "Several levels, comma-separated, are averaged.",
                    )
                ),
                advanced(
                    io.Int.Input(
                        "samples",
                        default=1,
                        min=1,
                        max=64,
                        tooltip="Looks at each noise level, each with other noise, averaged. "
                        "More are steadier and take longer.",
                    )
                ),
                advanced(
                    io.Int.Input(
                        "seed",
                        default=0,
                        min=0,
                        max=2**63 - 1,
                        control_after_generate=False,
                        tooltip="Of the first noise.",
                    )
                ),
                advanced(
                    io.Float.Input(
                        "megapixels",
                        default=MEGAPIXELS,
                        min=0.05,
                        max=16.0,
                        step=0.05,
                        tooltip="Larger pictures are looked at in this size. "
                        "Masks still get every pixel of the picture.",
                    )
                ),
                tokens_input(),
                space_input(),
                advanced(
                    io.String.Input(
                        "blocks",
                        default=DEEP,
                        tooltip="Blocks to listen to, from 0; Flux has 19. Nothing after the last "
                        f"one runs. Write {ACCEPTED}.",
                    )
                ),
                scale_input(),
                bounces_input(),
            ],
            outputs=[
                ConceptMapsWire.Output(
                    display_name="concept maps",
                    tooltip="One heat map per concept and picture, on the model's patch grid.",
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, concepts=None, noise=None, blocks=None) -> bool | str:
        return refusal(
            lambda: check_concepts(concepts),
            lambda: noise is None or LocateSpec(noise=parse_noise(noise)),
            lambda: check_range(blocks, "blocks"),
        )

    @classmethod
    @accepting
    def execute(
        cls,
        model,
        clip,
        concepts,
        background,
        vae,
        image,
        caption,
        noise,
        samples,
        seed,
        megapixels,
        tokens,
        space,
        blocks,
        scale="as they are",
        bounces=0,
    ) -> io.NodeOutput:
        wanted = parse(concepts, background)
        spec = RecordSpec(wanted, tokens, Method(space=space, bounces=bounces), blocks)
        how = LocateSpec(caption, parse_noise(noise), samples, seed, megapixels)
        recording = locate(model, clip, vae, image, spec, how)
        maps = read_maps(recording, ReadSpec(blocks="all", scale=scale))
        return io.NodeOutput(maps, ui=show_notices(cls, wanted.notices))
