"""One table of the models that have a workflow: their files, settings and loaders.

Files and settings are those of ComfyUI's own templates.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

COMFY, T5 = "Comfy-Org/", "comfyanonymous/flux_text_encoders/resolve/main/"
SPLIT = "/resolve/main/split_files/"
QWEN_VL = "qwen_2.5_vl_7b_fp8_scaled.safetensors"
HUNYUAN_15 = f"{COMFY}HunyuanVideo_1.5_repackaged{SPLIT}"
JOY = f"{COMFY}JoyAI-Image-Edit/resolve/main/"
HIDREAM = f"{COMFY}HiDream-I1_ComfyUI{SPLIT}"
BOOGU = f"{COMFY}Boogu-Image/resolve/main/"
ERNIE = f"{COMFY}ERNIE-Image/resolve/main/"
OMNIGEN2 = f"{COMFY}Omnigen2_ComfyUI_repackaged{SPLIT}"
AE = ("ae.safetensors", f"{COMFY}Lumina_Image_2.0_Repackaged{SPLIT}vae/")
PIXELS = ("pixel_space", "")  # no file: what is noised is the picture itself

File = tuple[str, str]  # name, folder on Hugging Face


@dataclass(frozen=True)
class Model:
    name: str
    file: str
    """Of the workflow."""
    unet: File
    clips: tuple[File, ...] = ()
    vae: File | None = None
    """A model without text encoders and VAE of its own comes as a checkpoint with all of them."""
    unconditional: File | None = None
    """A model of its own for the pass without a text."""
    kind: str = ""
    """What its text encoders are called in the loader."""
    shift: tuple[str, float] | None = None
    guidance: float | None = None
    cfg: float = 1.0
    steps: int = 20
    sampler: str = "euler"
    scheduler: str = "simple"
    empty: str = "EmptySD3LatentImage"
    size: dict[str, Any] = field(default_factory=lambda: {"width": 1024, "height": 1024})


HD = {"width": 848, "height": 480, "length": 33}

MODELS = [
    Model(
        "Chroma", "chroma",
        (
            "Chroma1-HD-fp8mixed.safetensors",
            f"{COMFY}Chroma1-HD_repackaged{SPLIT}diffusion_models/",
        ),
        (("t5xxl_fp8_e4m3fn_scaled.safetensors", T5),), AE,
        kind="chroma", shift=("ModelSamplingAuraFlow", 1.0), cfg=3.5, steps=26, scheduler="beta",
    ),
    Model(
        "Chroma Radiance", "chroma_radiance",
        (
            "chroma-radiance-x0.safetensors",
            f"{COMFY}Chroma1-Radiance_Repackaged{SPLIT}diffusion_models/",
        ),
        (("t5xxl_fp8_e4m3fn_scaled.safetensors", T5),), PIXELS,
        kind="chroma", shift=("ModelSamplingAuraFlow", 1.0), cfg=3.5, steps=30, scheduler="beta",
        empty="EmptyChromaRadianceLatentImage",
    ),
    Model(
        "Stable Diffusion 3.5", "sd3.5",
        (
            "sd3.5_large_fp8_scaled.safetensors",
            f"{COMFY}stable-diffusion-3.5-fp8/resolve/main/",
        ),
        cfg=4.0, scheduler="sgm_uniform",
    ),
    Model(
        "Flux.2 dev", "flux2_dev",
        ("flux2_dev_fp8mixed.safetensors", f"{COMFY}flux2-dev{SPLIT}diffusion_models/"),
        (("mistral_3_small_flux2_bf16.safetensors", f"{COMFY}flux2-dev{SPLIT}text_encoders/"),),
        ("flux2-vae.safetensors", f"{COMFY}flux2-dev{SPLIT}vae/"),
        kind="flux2", guidance=4.0, empty="EmptyFlux2LatentImage",
    ),
    Model(
        "Flux.2 Klein", "flux2_klein",
        ("flux-2-klein-4b.safetensors", f"{COMFY}flux2-klein{SPLIT}diffusion_models/"),
        (("qwen_3_4b.safetensors", f"{COMFY}flux2-klein{SPLIT}text_encoders/"),),
        ("flux2-vae.safetensors", f"{COMFY}flux2-dev{SPLIT}vae/"),
        kind="flux2", steps=4, empty="EmptyFlux2LatentImage",
    ),
    Model(
        "Qwen-Image", "qwen_image",
        ("qwen_image_fp8_e4m3fn.safetensors", f"{COMFY}Qwen-Image_ComfyUI{SPLIT}diffusion_models/"),
        ((QWEN_VL, f"{COMFY}Qwen-Image_ComfyUI{SPLIT}text_encoders/"),),
        ("qwen_image_vae.safetensors", f"{COMFY}Qwen-Image_ComfyUI{SPLIT}vae/"),
        kind="qwen_image", shift=("ModelSamplingAuraFlow", 3.1), cfg=2.5,
        size={"width": 1328, "height": 1328},
    ),
    Model(
        "LongCat-Image", "longcat_image",
        ("longcat_image_bf16.safetensors", f"{COMFY}LongCat-Image{SPLIT}diffusion_models/"),
        ((QWEN_VL, f"{HUNYUAN_15}text_encoders/"),), AE,
        kind="longcat_image", guidance=4.0, cfg=4.0,
    ),
    Model(
        "Ovis-Image", "ovis_image",
        ("ovis_image_bf16.safetensors", f"{COMFY}Ovis-Image{SPLIT}diffusion_models/"),
        (("ovis_2.5.safetensors", f"{COMFY}Ovis-Image{SPLIT}text_encoders/"),), AE,
        kind="ovis", shift=("ModelSamplingAuraFlow", 3.0), cfg=5.0,
    ),
    Model(
        "AuraFlow", "auraflow",
        ("aura_flow_0.3.safetensors", "fal/AuraFlow-v0.3/resolve/main/"),
        shift=("ModelSamplingAuraFlow", 1.73), cfg=3.5, steps=25,
    ),
    Model(
        "HunyuanVideo", "hunyuan_video",
        (
            "hunyuan_video_t2v_720p_bf16.safetensors",
            f"{COMFY}HunyuanVideo_repackaged{SPLIT}diffusion_models/",
        ),
        (
            ("clip_l.safetensors", T5),
            (
                "llava_llama3_fp8_scaled.safetensors",
                f"{COMFY}HunyuanVideo_repackaged{SPLIT}text_encoders/",
            ),
        ),
        ("hunyuan_video_vae_bf16.safetensors", f"{COMFY}HunyuanVideo_repackaged{SPLIT}vae/"),
        kind="hunyuan_video", shift=("ModelSamplingSD3", 7.0), guidance=6.0,
        empty="EmptyHunyuanLatentVideo", size=HD,
    ),
    Model(
        "HunyuanVideo 1.5", "hunyuan_video_1.5",
        ("hunyuanvideo1.5_720p_t2v_fp16.safetensors", f"{HUNYUAN_15}diffusion_models/"),
        (
            (QWEN_VL, f"{HUNYUAN_15}text_encoders/"),
            ("byt5_small_glyphxl_fp16.safetensors", f"{HUNYUAN_15}text_encoders/"),
        ),
        ("hunyuanvideo15_vae_fp16.safetensors", f"{HUNYUAN_15}vae/"),
        kind="hunyuan_video_15", shift=("ModelSamplingSD3", 7.0), cfg=6.0,
        empty="EmptyHunyuanVideo15Latent", size=HD,
    ),
    Model(
        "HunyuanImage 2.1", "hunyuan_image",
        (
            "hunyuanimage2.1_bf16.safetensors",
            f"{COMFY}HunyuanImage_2.1_ComfyUI{SPLIT}diffusion_models/",
        ),
        (
            (QWEN_VL, f"{COMFY}HunyuanImage_2.1_ComfyUI{SPLIT}text_encoders/"),
            (
                "byt5_small_glyphxl_fp16.safetensors",
                f"{COMFY}HunyuanImage_2.1_ComfyUI{SPLIT}text_encoders/",
            ),
        ),
        (
            "hunyuan_image_2.1_vae_fp16.safetensors",
            f"{COMFY}HunyuanImage_2.1_ComfyUI{SPLIT}vae/",
        ),
        kind="hunyuan_image", shift=("ModelSamplingSD3", 5.0), cfg=3.5,
        empty="EmptyHunyuanImageLatent", size={"width": 2048, "height": 2048},
    ),
    Model(
        "CogVideoX", "cogvideox",
        ("cogvideox_5b.safetensors", ""),  # no single file of it is published for ComfyUI
        (("t5xxl_fp16.safetensors", T5),),
        ("cogvideox_vae.safetensors", f"{COMFY}void-model/resolve/main/vae/"),
        kind="cogvideox", cfg=6.0, steps=30, empty="EmptyHunyuanLatentVideo",
        size={"width": 720, "height": 480, "length": 49},
    ),
    Model(
        "Mochi", "mochi",
        (
            "mochi_preview_bf16.safetensors",
            f"{COMFY}mochi_preview_repackaged{SPLIT}diffusion_models/",
        ),
        (("t5xxl_fp16.safetensors", f"{COMFY}mochi_preview_repackaged{SPLIT}text_encoders/"),),
        ("mochi_vae.safetensors", f"{COMFY}mochi_preview_repackaged{SPLIT}vae/"),
        kind="mochi", cfg=4.5, steps=30, empty="EmptyMochiLatentVideo",
        size={"width": 848, "height": 480, "length": 37},
    ),
    Model(
        "HiDream-I1", "hidream_i1",
        ("hidream_i1_full_fp8.safetensors", f"{HIDREAM}diffusion_models/"),
        (
            ("clip_l_hidream.safetensors", f"{HIDREAM}text_encoders/"),
            ("clip_g_hidream.safetensors", f"{HIDREAM}text_encoders/"),
            ("t5xxl_fp8_e4m3fn_scaled.safetensors", f"{HIDREAM}text_encoders/"),
            ("llama_3.1_8b_instruct_fp8_scaled.safetensors", f"{HIDREAM}text_encoders/"),
        ),
        ("ae.safetensors", f"{HIDREAM}vae/"),
        shift=("ModelSamplingSD3", 3.0), cfg=5.0, steps=50, sampler="uni_pc",
    ),
    Model(
        "PixelDiT", "pixeldit",
        (
            "pixeldit_1300m_1024px_bf16.safetensors",
            f"{COMFY}PixelDiT/resolve/main/diffusion_models/",
        ),
        (
            (
                "gemma_2_2b_it_elm_bf16.safetensors",
                f"{COMFY}PixelDiT/resolve/main/text_encoders/",
            ),
        ),
        PIXELS,
        kind="pixeldit", cfg=4.0, steps=30, sampler="er_sde",
        empty="EmptyChromaRadianceLatentImage",
    ),
    Model(
        "Mage-Flow", "mage_flow",
        (
            "mage_flow_int8_convrot.safetensors",
            f"{COMFY}Mage-Flow/resolve/main/diffusion_models/",
        ),
        (("qwen3vl_4b_bf16.safetensors", f"{COMFY}Mage-Flow/resolve/main/text_encoders/"),),
        ("mage_flow_vae_bf16.safetensors", f"{COMFY}Mage-Flow/resolve/main/vae/"),
        kind="mage", cfg=5.0, steps=30, empty="EmptyFlux2LatentImage",
    ),
    Model(
        "JoyImage", "joyimage",
        ("joyai_image_edit_int8_convrot.safetensors", f"{JOY}diffusion_models/"),
        (("qwen3vl_8b_joyimage_edit_int8_convrot.safetensors", f"{JOY}text_encoders/"),),
        ("wan_2.1_vae.safetensors", f"{JOY}vae/"),
        kind="joyimage", cfg=4.0, steps=40, scheduler="normal",
    ),
    Model(
        "Lens", "lens",
        ("lens_bf16.safetensors", f"{COMFY}Lens/resolve/main/diffusion_models/"),
        (("gpt_oss_20b_nvfp4.safetensors", f"{COMFY}Lens/resolve/main/text_encoders/"),),
        ("flux2-vae.safetensors", f"{COMFY}Lens/resolve/main/vae/"),
        kind="lens", cfg=5.0, empty="EmptyLatentImage", size={"width": 1440, "height": 1440},
    ),
    Model(
        "Z-Image", "z_image",
        ("z_image_turbo_bf16.safetensors", f"{COMFY}z_image_turbo{SPLIT}diffusion_models/"),
        (("qwen_3_4b.safetensors", f"{COMFY}z_image_turbo{SPLIT}text_encoders/"),),
        ("ae.safetensors", f"{COMFY}z_image_turbo{SPLIT}vae/"),
        kind="lumina2", shift=("ModelSamplingAuraFlow", 3.0), steps=8, sampler="res_multistep",
    ),
    Model(
        "Lumina Image 2.0", "lumina2",
        ("lumina_2.safetensors", f"{COMFY}Lumina_Image_2.0_Repackaged/resolve/main/all_in_one/"),
        shift=("ModelSamplingAuraFlow", 6.0), cfg=4.0, steps=25, sampler="res_multistep",
    ),
    Model(
        "OmniGen2", "omnigen2",
        ("omnigen2_fp16.safetensors", f"{OMNIGEN2}diffusion_models/"),
        (("qwen_2.5_vl_fp16.safetensors", f"{OMNIGEN2}text_encoders/"),), AE,
        kind="omnigen2", cfg=5.0,
    ),
    Model(
        "Boogu", "boogu",
        ("boogu_image_turbo_fp8_scaled.safetensors", f"{BOOGU}diffusion_models/"),
        (("qwen3vl_8b_fp8_scaled.safetensors", f"{BOOGU}text_encoders/"),),
        ("ae.safetensors", f"{HIDREAM}vae/"),
        kind="boogu", steps=4, sampler="lcm", scheduler="sgm_uniform", empty="EmptyLatentImage",
    ),
    Model(
        "Ideogram 4", "ideogram4",
        ("ideogram4_fp8_scaled.safetensors", f"{COMFY}Ideogram-4/resolve/main/diffusion_models/"),
        (
            (
                "qwen3vl_8b_fp8_scaled.safetensors",
                f"{COMFY}Qwen3-VL/resolve/main/text_encoders/",
            ),
        ),
        ("flux2-vae.safetensors", f"{COMFY}flux2-dev{SPLIT}vae/"),
        kind="ideogram4", cfg=7.0, empty="EmptyFlux2LatentImage",
        unconditional=(
            "ideogram4_unconditional_fp8_scaled.safetensors",
            f"{COMFY}Ideogram-4/resolve/main/diffusion_models/",
        ),
    ),
    Model(
        "ERNIE-Image", "ernie_image",
        ("ernie-image.safetensors", f"{ERNIE}diffusion_models/"),
        (("ministral-3-3b.safetensors", f"{ERNIE}text_encoders/"),),
        ("flux2-vae.safetensors", f"{ERNIE}vae/"),
        kind="flux2", cfg=4.0, empty="EmptyFlux2LatentImage",
    ),
    Model(
        "Krea 2", "krea2",
        ("krea2_turbo_fp8_scaled.safetensors", f"{COMFY}Krea-2/resolve/main/diffusion_models/"),
        (("qwen3vl_4b_fp8_scaled.safetensors", f"{COMFY}Krea-2/resolve/main/text_encoders/"),),
        ("qwen_image_vae.safetensors", f"{COMFY}Krea-2/resolve/main/vae/"),
        kind="krea2", steps=8, empty="EmptyLatentImage",
    ),
]  # fmt: skip
