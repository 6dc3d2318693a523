"""A pack of its own that uses ConceptAttention: copy this folder to custom_nodes and change it."""


class RecordWords:
    INPUT_TYPES = classmethod(
        lambda cls: {"required": {"model": ("MODEL",), "clip": ("CLIP",), "words": ("STRING", {})}}
    )
    RETURN_TYPES, FUNCTION, CATEGORY = ("MODEL",), "run", "examples"

    def run(self, model, clip, words):
        import conceptattention as ca  # here and not at the top: packs load in any order

        return (ca.record(model, clip, words),)


class DarkenTheRest:
    INPUT_TYPES = classmethod(
        lambda cls: {
            "required": {"latent": ("LATENT",), "image": ("IMAGE",), "word": ("STRING", {})}
        }
    )
    RETURN_TYPES, FUNCTION, CATEGORY = ("IMAGE",), "run", "examples"

    def run(self, latent, image, word):
        import conceptattention as ca

        (masks,) = ca.draw_masks(ca.maps_of(latent), [word], image=image)  # b h w, 0 or 1
        return (image * (0.3 + 0.7 * masks[..., None]),)


NODE_CLASS_MAPPINGS = {"ExampleRecordWords": RecordWords, "ExampleDarkenTheRest": DarkenTheRest}
