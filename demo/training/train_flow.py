"""Train the flow model and its text encoders by plain flow matching. No mask ever enters."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from diffusers import FluxTransformer2DModel
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.functional import mse_loss
from tqdm import tqdm
from transformers import CLIPTextModel, T5EncoderModel

from ..scenes import ALIASES, WORDS
from .checkpoints import Clock, learning_rate, load_checkpoint, log_row, save_checkpoint
from .latents import LatentSet
from .recipe import (
    PIXELS_PER_PATCH,
    TEXT_LENGTH,
    FlowSchedule,
    Recipe,
    build_clip,
    build_t5,
    build_transformer,
)
from .team import Team
from .vocabulary import (
    BOS,
    EOS,
    PAD,
    UNKNOWN,
    build_clip_tokenizer,
    build_t5_tokenizer,
    encode,
    list_words,
)

BARE_CAPTIONS = 0.35  # one word alone, as concepts are encoded later
EMPTY_CAPTIONS = 0.10  # for classifier-free guidance
ZEROED_POOLED = 0.85  # otherwise the whole caption comes by this way, and its words are not read
UNKNOWN_WORDS = 0.01
SAVE_EVERY, EXPORT_EVERY = 200, 2000  # steps
MUON_RATE = 5.0  # times the rate of Adam


class FlowModel(nn.Module):
    """The Flux transformer with its two text encoders, trained as one."""

    def __init__(self, recipe: Recipe):
        super().__init__()
        words = list_words()
        self.transformer: FluxTransformer2DModel = build_transformer(recipe)
        share_streams(self.transformer)
        self.t5: T5EncoderModel = build_t5(recipe, len(words))
        self.clip: CLIPTextModel = build_clip(
            recipe, len(words), words.index(BOS), words.index(EOS)
        )

    def encode_text(self, t5_ids: Tensor, clip_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Token ids (b l) to the T5 sequence (b l d) and the CLIP vector (b e)."""
        return self.t5(t5_ids).last_hidden_state, self.clip(clip_ids).pooler_output

    def forward(self, noisy: Tensor, t: Tensor, sequence: Tensor, pooled: Tensor) -> Tensor:
        """Velocity (b p c) at noise level t (b, in 0..1) of square pictures (b p c)."""
        return self.transformer(
            hidden_states=noisy,
            timestep=t,
            encoder_hidden_states=sequence,
            pooled_projections=pooled,
            img_ids=number_patches(noisy.shape[1]).to(noisy.device),
            txt_ids=torch.zeros(sequence.shape[1], 3, device=noisy.device),
            return_dict=False,
        )[0]


def share_streams(transformer: FluxTransformer2DModel) -> None:
    """Let the text stream of each joint block use the very weights of the image stream.

    These say which patches a patch attends to, and what it gives them. Shared, they say the same
    of words: a word to which the patches of a thing attend attends to these patches. Apart, it
    would take far longer to learn, for the picture hardly depends on where words look.
    """
    for block in transformer.transformer_blocks:
        attention = block.attn
        attention.add_q_proj, attention.norm_added_q = attention.to_q, attention.norm_q
        attention.add_k_proj, attention.norm_added_k = attention.to_k, attention.norm_k
        attention.add_v_proj, attention.to_add_out = attention.to_v, attention.to_out[0]
        block.norm1_context, block.norm2_context = block.norm1, block.norm2
        block.ff_context = block.ff


def number_patches(count: int) -> Tensor:
    """Position ids (p 3: zero, row, column) of a square picture of `count` patches."""
    side = round(count**0.5)
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    return rearrange([torch.zeros_like(rows), rows, columns], "i h w -> (h w) i").float()


@dataclass(frozen=True)
class Captions:
    """Token ids of every caption, for both encoders.

    full: n k l (k captions of each scene); bare: w a l (every word by a few names); empty: l
    """

    full: Tensor
    bare: Tensor
    empty: Tensor


def encode_captions(latents: LatentSet) -> tuple[Captions, Captions]:
    """The captions for T5 and for CLIP."""
    count = len(latents.captions[0])
    flat = [caption for captions in latents.captions for caption in captions]
    # Four names each, so that a word's usual name comes up three times in four.
    names = [([word] * 3 + list(ALIASES.get(word, (word,)))[-1:]) for word in WORDS]
    bare = [name for four in names for name in four]

    def gather(tokenizer, pad: str) -> Captions:
        ids = torch.tensor(encode(tokenizer, [*flat, *bare, ""], pad))
        full, short, empty = ids.split([len(flat), len(bare), 1])
        return Captions(
            rearrange(full, "(n k) l -> n k l", k=count),
            rearrange(short, "(w a) l -> w a l", a=4),
            empty[0],
        )

    return gather(build_t5_tokenizer(), PAD), gather(build_clip_tokenizer(), EOS)


class Batches:
    """Random training batches of patches and token ids, with the captions' dropouts."""

    def __init__(self, latents: LatentSet, device: torch.device):
        self.latents, self.device = latents, device
        self.captions = encode_captions(latents)
        words = list_words()
        self.unknown, self.special = words.index(UNKNOWN), 4

    def draw(self, batch: int) -> tuple[Tensor, Tensor, Tensor]:
        """Patches (b p c) and the token ids (b l) of their captions for T5 and CLIP."""
        views, count = self.latents.patches.shape[:2]
        scene, view = torch.randint(count, (batch,)), torch.randint(views, (batch,))
        clean = self.latents.patches[view, scene].float()

        fate = torch.rand(batch)
        empty, bare = fate < EMPTY_CAPTIONS, fate > 1 - BARE_CAPTIONS
        version = torch.randint(self.captions[0].full.shape[1], (batch,))
        word = torch.multinomial(self.latents.shown[scene].float(), 1)[:, 0]
        name = torch.randint(self.captions[0].bare.shape[1], (batch,))
        smudged = torch.rand(batch, TEXT_LENGTH) < UNKNOWN_WORDS

        ids = []
        for captions, offset in zip(self.captions, (0, 1)):  # CLIP's <s> shifts its words by one
            chosen = captions.full[scene, version]
            chosen = torch.where(bare[:, None], captions.bare[word, name], chosen)
            lost = smudged.roll(offset, dims=1) & (chosen >= self.special)
            chosen = chosen.masked_fill(lost, self.unknown)
            ids.append(torch.where(empty[:, None], captions.empty, chosen))
        return tuple(tensor.to(self.device) for tensor in (clean, *ids))


def draw_noise_levels(batch: int, shift: float, scale: float = 1.2) -> Tensor:
    """t in 0..1: mostly logit-normal around `shift`, some uniform so that both ends are learnt."""
    t = torch.sigmoid(shift + scale * torch.randn(batch))
    return torch.where(torch.rand(batch) < 0.15, torch.rand(batch), t)


def flow_loss(
    model: FlowModel, clean: Tensor, t5_ids: Tensor, clip_ids: Tensor, shift: float
) -> Tensor:
    """Mean squared error of the velocity eps - x0 on the straight path x_t = (1-t) x0 + t eps."""
    batch = len(clean)
    t, noise = draw_noise_levels(batch, shift).to(clean), torch.randn_like(clean)
    share = rearrange(t, "b -> b 1 1")
    noisy = (1 - share) * clean + share * noise
    kept = (torch.rand(batch, 1) >= ZEROED_POOLED).to(clean)
    with torch.autocast(clean.device.type, torch.bfloat16):
        sequence, pooled = model.encode_text(t5_ids, clip_ids)
        velocity = model(noisy, t, sequence, pooled * kept)
    return mse_loss(velocity.float(), noise - clean)


class Average:
    """An exponential moving average of all weights."""

    def __init__(self, model: nn.Module, decay: float):
        self.decay, self.updates = decay, 0
        self.weights = {name: value.detach().clone() for name, value in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        self.updates += 1
        decay = min(self.decay, self.updates / (self.updates + 10))  # follow fast at first
        current = dict(model.named_parameters())
        torch._foreach_lerp_(
            list(self.weights.values()), [current[name] for name in self.weights], 1 - decay
        )


def build_optimisers(model: FlowModel, rate: float, team: Team) -> list[torch.optim.Optimizer]:
    """Muon (https://kellerjordan.github.io/posts/muon) for the blocks' matrices, Adam for the rest.

    Muon was further after 500 steps than Adam after 800; in a team each takes a share of its work.
    """
    blocks = (model.transformer.transformer_blocks, model.transformer.single_transformer_blocks)
    matrices = [p for part in blocks for p in part.parameters() if p.ndim == 2]
    known = set(map(id, matrices))
    others = [p for p in model.parameters() if id(p) not in known]
    muon = {"lr": MUON_RATE * rate, "weight_decay": 0.01, "adjust_lr_fn": "match_rms_adamw"}
    first = (
        torch.optim.Muon(matrices, **muon)
        if team.size == 1
        else ZeroRedundancyOptimizer(matrices, optimizer_class=torch.optim.Muon, **muon)
    )
    second = torch.optim.AdamW(others, rate, (0.9, 0.99), weight_decay=0.01, fused=True)
    for optimiser in (first, second):
        for group in optimiser.param_groups:
            group["peak"] = group["lr"]
    return [first, second]


def train_flow(
    recipe: Recipe,
    schedule: FlowSchedule,
    latents: LatentSet,
    path: Path,
    start: Path | None,
    device: torch.device,
    export: Callable[[FlowModel], None],
    again: bool = False,
) -> None:
    """Train to the end of the schedule; resumes from `path`, else starts from `start`'s weights.

    `again` begins a new schedule on top of what is there. `export` receives the averaged model
    now and then and at the end.
    """
    saved = load_checkpoint(path)
    if saved and saved["done"] and not again:
        return
    torch.manual_seed(recipe.seed)  # all of a team begin with the same weights
    model = FlowModel(recipe).to(device)
    begin = saved or (load_checkpoint(start) if start else None)
    if begin:
        model.load_state_dict(begin["model"])
    team = Team()
    optimisers = build_optimisers(model, schedule.learning_rate, team)
    average = Average(model, schedule.ema_decay)
    clock = Clock(schedule.minutes, schedule.steps)
    total = 0
    if saved:
        for optimiser, state in zip(optimisers, saved["optimisers"]):
            optimiser.load_state_dict(state)
        average.weights = {name: value.to(device) for name, value in saved["average"].items()}
        average.updates, total = saved["updates"], saved["total"]
        if not again:
            clock = Clock(**saved["clock"])
    torch.manual_seed(recipe.seed + 1 + total + 1_000_003 * team.rank)
    if device.type == "cpu":
        # The fused attention's backward pass takes a third of a step there. Not compiled: with
        # torch 2.13 some gradients came out as NaN on a CPU, for a step a sixth faster.
        model.transformer.set_attention_backend("_native_math")
    else:
        model.transformer.compile(dynamic=False)
    batches = Batches(latents, device)

    def save(done: bool) -> None:
        for optimiser in optimisers:
            if isinstance(optimiser, ZeroRedundancyOptimizer):
                optimiser.consolidate_state_dict()
        if not team.leads:
            return
        save_checkpoint(
            path,
            {
                "model": model.state_dict(),
                "average": average.weights,
                "updates": average.updates,
                "optimisers": [optimiser.state_dict() for optimiser in optimisers],
                "clock": clock.state(),
                "total": total,
                "done": done,
            },
        )

    def share_average() -> None:
        if not team.leads:
            return
        averaged = FlowModel(recipe)
        averaged.load_state_dict(average.weights, strict=False)
        export(averaged.eval())

    bar = tqdm(
        desc=f"flow {schedule.pixels} px", unit="step", initial=total, disable=not team.leads
    )
    running, progress, own_batch = None, clock.progress, team.share(schedule.batch)
    while progress < 1:
        loss = flow_loss(model, *batches.draw(own_batch), schedule.noise_shift)
        model.zero_grad(set_to_none=True)
        loss.backward()
        clock.step += 1
        total += 1
        # The progress, too: all of a team slow down and end together.
        loss, after = team.average(model, loss.item(), clock.progress)
        if not math.isfinite(loss):
            raise FloatingPointError(f"the loss of step {total} is {loss}; the weights are lost")
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser in optimisers:
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(
                    group["peak"], progress, clock.step - 1, schedule.warm_up
                )
            optimiser.step()
        average.update(model)
        progress = after
        running = loss if running is None else 0.98 * running + 0.02 * loss
        bar.update()
        bar.set_postfix(loss=f"{running:.4f}", done=f"{progress:.0%}")
        if clock.step % 25 == 0 and team.leads:
            row = {"step": total, "seconds": round(clock.seconds, 1), "loss": round(running, 5)}
            log_row(path.with_suffix(".csv"), row)
        if clock.step % SAVE_EVERY == 0:
            save(done=False)
        if clock.step % EXPORT_EVERY == 0:
            share_average()
    save(done=True)
    share_average()


@torch.no_grad()
def sample(
    model: FlowModel,
    captions: list[str],
    pixels: int,
    steps: int = 20,
    guidance: float = 3.0,
    seed: int = 0,
) -> Tensor:
    """Draw patches (b p c) by Euler steps with true classifier-free guidance."""
    device = next(model.parameters()).device
    asked = [*captions, *[""] * len(captions)]
    t5_ids = torch.tensor(encode(build_t5_tokenizer(), asked, PAD), device=device)
    clip_ids = torch.tensor(encode(build_clip_tokenizer(), asked, EOS), device=device)
    sequence, pooled = model.encode_text(t5_ids, clip_ids)
    count = (pixels // PIXELS_PER_PATCH) ** 2
    generator = torch.Generator().manual_seed(seed)
    channels = model.transformer.config.in_channels
    patches = torch.randn(len(captions), count, channels, generator=generator).to(device)
    levels = torch.linspace(1, 0, steps + 1)
    for now, then in pairwise(levels):
        t = torch.full((len(asked),), now.item(), device=device)
        velocity = model(repeat(patches, "b p c -> (two b) p c", two=2), t, sequence, pooled)
        told, untold = velocity.chunk(2)
        patches = patches + (then - now).item() * (untold + guidance * (told - untold))
    return patches
