"""Train the autoencoder on drawn scenes; give its latents zero mean and unit variance."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, l1_loss
from tqdm import tqdm

from .checkpoints import Clock, learning_rate, load_checkpoint, log_row, save_checkpoint
from .pictures import draw_pictures
from .recipe import LATENT_CHANNELS, LATENT_STD, SCALING_FACTOR, SHIFT_FACTOR, Recipe, build_vae

SAVE_EVERY_SECONDS = 120
STREAM_SCALE = 1e-4


def to_pixels(pictures: np.ndarray) -> Tensor:
    """uint8, b h w c -> float, b c h w in -1..1."""
    return rearrange(torch.from_numpy(pictures), "b h w c -> b c h w").float() / 127.5 - 1


def normalise(latents: Tensor) -> Tensor:
    """The latents as the flow model sees them (b c h w, about zero mean and unit variance)."""
    return (latents - SHIFT_FACTOR) * SCALING_FACTOR


def is_stream_writer(name: str) -> bool:
    """Whether a parameter writes what a group norm reads next (in the autoencoder's names)."""
    writers = ("conv_in.", ".conv1.", ".conv2.", ".to_out.0.")
    return any(part in name for part in writers) or name.endswith(("samplers.0.conv.bias",))


@torch.no_grad()
def shrink_stream(vae: AutoencoderKL) -> None:
    """Start with activations so small that group norms hardly normalise.

    At 64 channels each of the 32 groups has two, and normalising two channels erases how bright
    or colourful a flat picture is. Where the variance is far below the norm's epsilon (1e-6) the
    division turns into a constant factor and the colour survives. No layer changes for it.
    """
    for module in vae.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.GroupNorm):
            nn.init.constant_(module.weight, 4.0)  # epsilon's factor of 1000 is not quite enough
    for name, value in vae.named_parameters():
        if is_stream_writer(name):
            value *= STREAM_SCALE


def group_parameters(vae: AutoencoderKL) -> list[dict]:
    """Parameter groups whose rate is in proportion to the size of their weights."""
    named = list(vae.named_parameters())
    return [
        {"params": [v for n, v in named if is_stream_writer(n) == small], "scale": scale}
        for small, scale in ((False, 1.0), (True, STREAM_SCALE))
    ]


def reconstruction_loss(drawn: Tensor, wanted: Tensor) -> Tensor:
    """L1 over pixels and over edges at two scales (b c h w); edges keep small things crisp."""
    loss = l1_loss(drawn, wanted)
    for _ in range(2):
        for axis in (2, 3):
            loss = loss + 0.25 * l1_loss(drawn.diff(dim=axis), wanted.diff(dim=axis))
        drawn, wanted = avg_pool2d(drawn, 2), avg_pool2d(wanted, 2)
    return loss


@torch.no_grad()
def rescale_latents(vae: AutoencoderKL, pixels: Tensor) -> None:
    """Fold an affine map per channel into the weights: over `pixels` latents vary by LATENT_STD.

    Only the border of the decoder's first convolution, which pads with zeros, is not exactly
    undone; the decoder learns that in the last part of its training.
    """
    means = torch.cat([vae.encode(some).latent_dist.mean for some in pixels.split(8)])
    mean, spread = means.mean((0, 2, 3)), means.std((0, 2, 3)) * SCALING_FACTOR / LATENT_STD
    out, back = vae.encoder.conv_out, vae.decoder.conv_in
    back.bias += torch.einsum("o c h w, c -> o", back.weight, mean - SHIFT_FACTOR * spread)
    back.weight *= rearrange(spread, "c -> 1 c 1 1")
    out.weight[:LATENT_CHANNELS] /= rearrange(spread, "c -> c 1 1 1")
    out.bias[:LATENT_CHANNELS] = (out.bias[:LATENT_CHANNELS] - mean) / spread + SHIFT_FACTOR
    out.bias[LATENT_CHANNELS:] -= 2 * spread.log()


class Crops:
    """Random training crops (float, b 3 s s) out of pictures of two sizes."""

    def __init__(self, recipe: Recipe, work: Path, workers: int):
        self.size = recipe.vae.sample_pixels
        self.sources = []
        for pixels in (self.size, 2 * self.size):
            path = work / f"vae-{pixels}.npy"
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                np.save(path, draw_pictures(range(recipe.vae.pictures), pixels, workers))
            self.sources.append(np.load(path))

    def draw(self, batch: int, rng: np.random.Generator) -> Tensor:
        source = self.sources[rng.integers(2)]
        room = source.shape[1] - self.size
        crops = []
        for index in rng.integers(len(source), size=batch):
            top, left = rng.integers(room + 1, size=2)
            crop = source[index, top : top + self.size, left : left + self.size]
            crops.append(crop[:, ::-1] if rng.random() < 0.5 else crop)
        return to_pixels(np.stack(crops))


def train_vae(
    recipe: Recipe, work: Path, device: torch.device, workers: int = 2, again: bool = False
) -> None:
    """Train to the end of the schedule; resumes from `work`/vae.pt.

    `again` goes on training a finished autoencoder's decoder. Its encoder stays, so a flow model
    trained on its latents still fits.
    """
    schedule, path = recipe.vae, work / "vae.pt"
    saved = load_checkpoint(path)
    if saved and saved["done"] and not again:
        return
    torch.manual_seed(recipe.seed)
    vae = build_vae(recipe)
    shrink_stream(vae)
    vae.to(device)
    optimiser = torch.optim.Adam(group_parameters(vae), schedule.learning_rate, (0.9, 0.99))
    clock, unit, peak = Clock(schedule.minutes, schedule.steps), False, schedule.learning_rate
    if saved:
        vae.load_state_dict(saved["vae"])
        if saved["optimiser"]:
            optimiser.load_state_dict(saved["optimiser"])
        unit = saved["unit"]
        if not again:
            clock = Clock(**saved["clock"])
        elif unit:
            peak *= 0.4  # polish
    crops = Crops(recipe, work, workers)
    rng = np.random.default_rng([recipe.seed, clock.step, int(unit)])

    def save(done: bool) -> None:
        save_checkpoint(
            path,
            {
                "vae": vae.state_dict(),
                "optimiser": optimiser.state_dict(),
                "clock": clock.state(),
                "unit": unit,
                "done": done,
            },
        )

    bar, last_save, running = tqdm(desc="vae", unit="step", initial=clock.step), clock.seconds, None
    while clock.progress < 1:
        if not unit and clock.progress >= 1 - schedule.decoder_share:
            rescale_latents(vae, crops.draw(128, rng).to(device))
            unit = True
        vae.encoder.requires_grad_(not unit)
        wanted = crops.draw(schedule.batch, rng).to(device)
        with torch.autocast(device.type, torch.bfloat16):
            code = vae.encode(wanted).latent_dist
            latents = code.mean if unit else code.sample()
            if unit:
                noise = torch.randn_like(latents) * LATENT_STD / SCALING_FACTOR
                latents = latents + schedule.latent_noise * noise
            drawn = vae.decode(latents).sample
        loss = reconstruction_loss(drawn.float(), wanted)
        if not unit:
            loss = loss + schedule.kl_weight * code.kl().mean() / code.mean[0].numel()
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(
                peak * group["scale"], clock.progress, clock.step, warm_up=50
            )
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        clock.step += 1
        running = loss.item() if running is None else 0.98 * running + 0.02 * loss.item()
        bar.update()
        bar.set_postfix(loss=f"{running:.4f}", done=f"{clock.progress:.0%}")
        if clock.step % 25 == 0:
            row = {"step": clock.step, "seconds": round(clock.seconds, 1), "loss": running}
            log_row(work / "vae.csv", row)
        if clock.seconds - last_save > SAVE_EVERY_SECONDS:
            save(done=False)
            last_save = clock.seconds
    save(done=True)


def load_vae(recipe: Recipe, work: Path) -> AutoencoderKL:
    """The autoencoder of `work`, trained as far as it is."""
    vae = build_vae(recipe).eval().requires_grad_(False)
    saved = load_checkpoint(work / "vae.pt")
    if saved is None:
        raise FileNotFoundError(f"no autoencoder in {work}; run the stage 'vae' first")
    vae.load_state_dict(saved["vae"])
    return vae
