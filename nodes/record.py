"""Recording concepts while a model samples, and reading maps from the recording."""

import inspect

from comfy_api.latest import io

from ..conceptattention_core import ConceptAttentionError
from ..conceptattention_core.attention import ATTEND, Method
from ..conceptattention_core.concepts import parse
from ..conceptattention_core.hosts.comfyui.live import Live
from ..conceptattention_core.hosts.comfyui.patch import record, spec_of
from ..conceptattention_core.hosts.comfyui.store import STORE, NeverRecordedError
from ..conceptattention_core.hosts.comfyui.upstream import Node, Upstream
from ..conceptattention_core.maps import ORDERS, ReadSpec, read_maps
from ..conceptattention_core.ranges import ACCEPTED, DEEP
from ..conceptattention_core.recording import BUDGET_MIB, RecordSpec
from ..conceptattention_core.texts import clean_text
from .before import check_concepts, check_range, refusal
from .door import accepting
from .inputs import bounces_input, concept_inputs, scale_input, space_input, tokens_input
from .notices import show_notices
from .wires import ConceptMapsWire, advanced, schema

NOT_RECORDED = (
    "The connected MODEL did not go through Record Concepts and was ignored; the maps are those of "
    "the latent's own recording."
)


class Record(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "ConceptAttentionRecord",
            "Record Concepts",
            description="Lets words ride along while the model samples. The picture does not "
            "change by a single bit; Concept Maps then tells where each word is.",
            search_aliases=["concept attention", "heat map", "segment", "saliency", "daam"],
            inputs=[
                *concept_inputs(),
                tokens_input(),
                advanced(
                    io.Combo.Input(
                        "attend_to",
                        options=list(ATTEND),
                        default="concepts and image",
                        tooltip="What the concepts read in each block. The others are the paper's "
                        "ablation.",
                    )
                ),
                space_input(),
                advanced(
                    io.String.Input(
                        "blocks",
                        default="all",
                        tooltip="Blocks to record, from 0. Fewer cost less memory and time, later "
                        f"ones know more. Write {ACCEPTED}.",
                    )
                ),
                advanced(
                    io.Int.Input(
                        "memory",
                        default=BUDGET_MIB,
                        min=1,
                        max=4096,
                        tooltip="Host memory for a recording, in MiB. Where steps and blocks need "
                        "more, neighbouring steps are averaged.",
                    )
                ),
                bounces_input(),
                advanced(
                    io.String.Input(
                        "live",
                        optional=True,
                        default="",
                        placeholder="off",
                        tooltip="A concept whose growing map is the sampler's preview. Empty: off.",
                    )
                ),
                advanced(
                    io.Int.Input(
                        "live_every",
                        optional=True,
                        default=4,
                        min=1,
                        max=1000,
                        tooltip="Steps between one preview of 'live' and the next.",
                    )
                ),
            ],
            outputs=[
                io.Model.Output(
                    display_name="model",
                    tooltip="The same model, recording. For any sampler, also several.",
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, concepts=None, blocks=None, live=None) -> bool | str:
        return refusal(
            lambda: check_concepts(concepts, live), lambda: check_range(blocks, "blocks")
        )

    @classmethod
    @accepting
    def execute(
        cls,
        model,
        clip,
        concepts,
        background,
        tokens,
        attend_to,
        space,
        blocks,
        memory,
        bounces=0,
        live="",
        live_every=4,
    ) -> io.NodeOutput:
        spec = record_spec(concepts, background, tokens, attend_to, space, blocks, memory, bounces)
        view = Live(live, live_every).check(spec.concepts) if live.strip() else None
        shown = show_notices(cls, spec.concepts.notices)
        return io.NodeOutput(record(model, clip, spec, live=view), ui=shown)


def record_spec(
    concepts: str,
    background: bool,
    tokens: str,
    attend_to: str,
    space: str,
    blocks: str,
    memory: int,
    bounces: int = 0,
) -> RecordSpec:
    """What Record Concepts was set to: from a graph, too, whose texts came through no door."""
    wanted = parse(clean_text(concepts), background)
    method = Method(attend_to, space, bounces)
    return RecordSpec(wanted, tokens, method, clean_text(blocks), memory)


def specs_of(upstream: Upstream) -> list[RecordSpec]:
    """What the Record Concepts nodes of a graph are set to; nothing where one is set by others."""
    named = set(inspect.signature(record_spec).parameters)
    specs = []
    for node in upstream.records:
        if named & set(node.links):
            return []
        specs.append(record_spec(**{n: v for n, v in node.inputs.items() if n in named}))
    return specs


class Maps(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "ConceptAttentionMaps",
            "Concept Maps",
            description="Reads what Record Concepts heard while this latent was made. Changing "
            "anything here never samples again.",
            search_aliases=["concept attention", "heat map"],
            inputs=[
                io.Latent.Input("latent", tooltip="Straight from a sampler with a recorded model."),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="Only needed when two recorded models made the very same picture: "
                    "the one whose recording you mean.",
                ),
                advanced(
                    io.String.Input(
                        "steps",
                        default="all",
                        tooltip="Sampling steps to use, from 0. Middle ones are often cleanest. "
                        f"Write {ACCEPTED}.",
                    )
                ),
                advanced(
                    io.String.Input(
                        "blocks",
                        default=DEEP,
                        tooltip="Blocks to use, from 0; Flux has 19. Later ones know more. "
                        f"Write {ACCEPTED}.",
                    )
                ),
                advanced(
                    io.Combo.Input(
                        "order",
                        options=list(ORDERS),
                        default="softmax, then mean",
                        tooltip="Concepts compete in every block and step and the results are "
                        "averaged (the paper), or the scores are averaged first: harder maps.",
                    )
                ),
                advanced(
                    io.Float.Input(
                        "temperature",
                        default=1.0,
                        min=0.01,
                        max=10000.0,
                        step=0.01,
                        tooltip="Above 1: softer competition between concepts. Below 1: harder.",
                    )
                ),
                scale_input(),
            ],
            # which words were asked, and why nothing was recorded, stands in the graph
            hidden=[io.Hidden.unique_id, io.Hidden.dynprompt],
            outputs=[
                ConceptMapsWire.Output(
                    display_name="concept maps",
                    tooltip="One heat map per concept and picture, on the model's patch grid.",
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, steps=None, blocks=None) -> bool | str:
        return refusal(
            lambda: check_range(steps, "steps"),
            lambda: check_range(blocks, "blocks"),
        )

    @classmethod
    @accepting
    def execute(
        cls, latent, steps, blocks, order, temperature, model=None, scale="as they are"
    ) -> io.NodeOutput:
        upstream = cls._upstream()
        among = specs_of(upstream)
        spec, notices = None, []
        if model is not None:
            try:
                spec = spec_of(model)
            except ConceptAttentionError:  # some packs connect a loader's MODEL by themselves
                notices.append(NOT_RECORDED)
        try:
            # another pack may record in a node of its own, which no graph tells
            foreign = spec is None and bool(upstream.nodes) and not upstream.records
            recording = STORE.find(latent["samples"], spec, among, foreign=foreign)
        except NeverRecordedError as error:
            if not upstream.nodes:
                raise
            raise ConceptAttentionError(upstream.explain(STORE.recorded(among))) from error
        maps = read_maps(recording, ReadSpec(steps, blocks, order, temperature, scale))
        return io.NodeOutput(maps, ui=show_notices(cls, notices))

    @classmethod
    def _upstream(cls) -> Upstream:
        """What lies before the latent in the graph that is executed."""
        prompt = cls.hidden and cls.hidden.dynprompt
        if not prompt:
            return Upstream({})

        def find(node: str) -> Node | None:
            own = prompt.get_node(node) if prompt.has_node(node) else None
            return own and Node(own["class_type"], own["inputs"])

        return Upstream.of(find, cls.hidden.unique_id, "latent")
