"""Stage "image synthesis": trains the pocket's denoiser on the frozen tokenizer's embeddings, and writes `unclip/`.

The folder is a stock Stable unCLIP pipeline: the text encoder is there and untrained, since the prompt is always empty
and the denoiser has no cross-attention. Minutes don't teach a denoiser to compose a picture, so composing is done in
closed form: a linear guess of the latents from the embedding is the start, and the published schedule is cut to its
first 60 times, from which the denoiser sharpens. Knows no picture file.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDPMScheduler, PNDMScheduler, UNet2DConditionModel
from diffusers.models.embeddings import get_timestep_embedding
from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import StableUnCLIPImageNormalizer
from safetensors.torch import save_file
from torch import Tensor

from ..codecs.seed import SeedTokenizer, load_seed
from ..codecs.unclip import OPTIONS, START, EmbeddingPipeline, ImageSynthesis, SynthesisOptions
from .image_data import load
from .image_latents import SIZE, autoencoder, latents_of, scaled
from .image_loop import Average, Budget, Run, batch_of, command, prepare, sheet
from .seed_hand_trainer import mistaken, sibling_of
from .seed_shape import CONFIG

log = logging.getLogger(__name__)

BATCH = 24
PEAK = 2e-3
TIMES = 300
STARTING_TIME = 60
"""Times that are learnt, and from which of them pictures set out: at more noise less of the linear guess survives."""
UNCONDITIONAL = 0.1
OPTIONS_OF_POCKET = SynthesisOptions(steps=6, guidance=1.0)
TEXT = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}


def fresh() -> UNet2DConditionModel:
    """The untrained denoiser: 32 x 32 latents, class projection as published, self-attention at 8 x 8."""
    return UNet2DConditionModel(
        sample_size=SIZE // 2,
        in_channels=3,
        out_channels=3,
        block_out_channels=(32, 48, 64),
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        mid_block_type="UNetMidBlock2D",
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        attention_head_dim=32,
        norm_num_groups=16,
        time_embedding_dim=128,
        cross_attention_dim=TEXT["hidden_size"],
        class_embed_type="projection",
        projection_class_embeddings_input_dim=2 * CONFIG.image_features_dim,
        resnet_time_scale_shift="scale_shift",
    )


def schedule(times: int) -> PNDMScheduler:
    """The published schedule of pictures, cut to its first `times` times."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    return PNDMScheduler(
        num_train_timesteps=times,
        trained_betas=betas[:times].tolist(),
        prediction_type="v_prediction",
        skip_prk_steps=True,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def linear_start(embeddings: Tensor, latents: Tensor) -> dict[str, Tensor]:
    """Ridge regression of latents [N, C, h, w] on embeddings [N, F]: weight [C * h * w, F] and bias [C * h * w]."""
    inputs = torch.cat([embeddings, torch.ones(len(embeddings), 1)], dim=1)
    square = inputs.T @ inputs + 0.003 * len(inputs) * torch.eye(inputs.shape[1])
    solved = torch.linalg.solve(square, inputs.T @ latents.flatten(1))
    return {"weight": solved[:-1].T.contiguous(), "bias": solved[-1].contiguous()}


def noising() -> DDPMScheduler:
    """The published schedule of embeddings."""
    return DDPMScheduler(beta_schedule="squaredcos_cap_v2")


def codes_of(work: Path) -> Tensor:
    """The teacher's codes int64 [N, 32] of all pictures."""
    with np.load(work / "image" / "tokens.npz") as kept:
        return torch.from_numpy(kept["codes"].astype(np.int64))


@torch.no_grad()
def embeddings_of(seed: SeedTokenizer, codes: Tensor) -> Tensor:
    """Image embeddings [N, F] of codes [N, 32]."""
    return torch.cat([seed.decode(part.to(seed.query_tokens.device)) for part in torch.split(codes, 256)])


def labelled(embeddings: Tensor) -> Tensor:
    """Class labels [B, 2 F] of embeddings at noise level 0, some emptied, as the pipeline's unconditional half is."""
    dim = embeddings.shape[-1]
    level = get_timestep_embedding(torch.zeros(len(embeddings)), dim, flip_sin_to_cos=True, downscale_freq_shift=0)
    keep = (torch.rand(len(embeddings), 1) >= UNCONDITIONAL).to(embeddings)
    noised = embeddings + 0.03 * torch.randn_like(embeddings)
    return torch.cat([noised, level.to(embeddings)], dim=1) * keep


def loss_of(unet: UNet2DConditionModel, latents: Tensor, labels: Tensor, alphas: Tensor) -> Tensor:
    """Mean square of the velocity's error for latents [B, 4, h, w] at random times."""
    # The start is a guess, which only the noisiest times meet, so they come more often.
    times = (torch.rand(len(latents)) ** 0.7 * len(alphas)).long()
    kept = alphas[times].to(latents)[:, None, None, None]
    noise = torch.randn_like(latents)
    noisy = kept.sqrt() * latents + (1 - kept).sqrt() * noise
    velocity = kept.sqrt() * noise - (1 - kept).sqrt() * latents
    text = latents.new_zeros(len(latents), 1, TEXT["hidden_size"])
    with torch.autocast(latents.device.type, torch.bfloat16):
        made = unet(noisy, times.to(latents.device), text, class_labels=labels).sample
    miss: Tensor = made.float() - velocity
    return miss.square().mean()


def text_parts(folder: Path) -> tuple[Any, Any]:
    """A CLIP tokenizer of single bytes and a tiny untrained text encoder: what encodes the empty prompt."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = list(bytes_to_unicode().values())
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}, ensure_ascii=False))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer.from_pretrained(folder, model_max_length=8)
    config = CLIPTextConfig(
        vocab_size=len(words), max_position_embeddings=8, bos_token_id=0, eos_token_id=1, pad_token_id=1, **TEXT
    )
    return tokenizer, CLIPTextModel(config).eval()


def export(unet: UNet2DConditionModel, vae: AutoencoderKL, start: dict[str, Tensor], folder: Path) -> None:
    """Write the pipeline in 16 bit, and beside it how pictures are drawn and what they start from."""
    tokenizer, text_encoder = text_parts(folder / "tokenizer")
    pipeline = EmbeddingPipeline(
        feature_extractor=None,
        image_encoder=None,
        image_normalizer=StableUnCLIPImageNormalizer(CONFIG.image_features_dim),
        image_noising_scheduler=noising(),
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        unet=unet,
        scheduler=schedule(STARTING_TIME),
        vae=vae,
    )
    pipeline.to(torch.float16).save_pretrained(folder)
    save_file({name: tensor.half() for name, tensor in start.items()}, folder / START)
    index = folder / "model_index.json"
    told = json.loads(index.read_text()) | {"_class_name": "StableUnCLIPImg2ImgPipeline"}
    index.write_text(json.dumps(told, indent=2) + "\n")
    options = {"steps": OPTIONS_OF_POCKET.steps, "guidance": OPTIONS_OF_POCKET.guidance, "noise_level": 0}
    (folder / OPTIONS).write_text(json.dumps(options, indent=2) + "\n")


def look(folder: Path, embeddings: Tensor, pictures: Tensor, path: Path) -> None:
    """Save pictures [N, 3, H, W] above what the exported pipeline draws from their embeddings."""
    synthesis = ImageSynthesis.from_folder(folder)
    drawn = [torch.from_numpy(synthesis.draw(embedding, 0)).permute(2, 0, 1) / 255 for embedding in embeddings]
    rows = zip(torch.split(pictures, 12), torch.split(torch.stack(drawn), 12), strict=True)
    sheet([row for pair in rows for row in pair], path)


def run(work: Path, minutes: float, device: str, seed: int) -> None:
    """Train the denoiser for `minutes` in all and write the pipeline to `work/image/unclip`."""
    generator = prepare(device, seed)
    pictures, _, rows = load(work)
    split = {name: torch.tensor([row["row"] for row in rows if row["split"] == name]) for name in ("train", "pair")}
    tokenizer = load_seed(work / "image" / "seed", device)
    vae = autoencoder().to(device)
    # Whoever writes codes errs: the denoiser sees what the hand tells of right ones and of mistaken ones.
    codes, concepts = codes_of(work), [row["concept"] for row in rows]
    siblings = codes[sibling_of(concepts, split["train"], generator)][split["train"]]
    right = codes[split["train"]]
    others = right[torch.randperm(len(right), generator=generator)]
    known = torch.stack([embeddings_of(tokenizer, each) for each in (right, mistaken(right, siblings, others))])
    pictures = scaled(pictures)
    latents = latents_of(vae, batch_of(pictures, split["train"]).to(device))
    start = linear_start(known.flatten(0, 1).cpu(), latents.cpu().repeat(len(known), 1, 1, 1))
    unet = fresh().to(device)
    average = Average(fresh().to(device), decay=0.99)
    log.info("denoiser of %.1f million parameters", sum(p.numel() for p in unet.parameters()) / 1e6)
    optimizer = torch.optim.AdamW(unet.parameters(), PEAK, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    parts = {"unet": unet, "average": average}
    job = Run(work / "image" / "unet.pt", parts, [optimizer], Budget(60 * minutes))
    job.resume()
    alphas = schedule(TIMES).alphas_cumprod
    shown = torch.arange(0, len(split["train"]), len(split["train"]) // 24)[:24]
    held = split["pair"][:: len(split["pair"]) // 24][:24]
    asked = torch.cat([known[0, shown], embeddings_of(tokenizer, codes[held])])
    wanted = batch_of(pictures, torch.cat([split["train"][shown], held]))
    recent = 0.0
    for step in job.steps():
        chosen = torch.randint(latents.shape[0], (BATCH,), generator=generator)
        view = torch.randint(len(known), (BATCH,), generator=generator)
        loss = loss_of(unet, latents[chosen], labelled(known[view, chosen]), alphas)
        job.learn(loss)
        average.update(unet, step)
        recent = loss.item() if step == 0 else 0.98 * recent + 0.02 * loss.item()
        if step % 50 == 0:
            log.info("%5d %3.0f%% loss %.4f", step, 100 * job.budget.progress, recent)
        if step % 150 == 149:
            export(fresh_copy(average.net), fresh_copy(vae), start, work / "image" / "unclip")
            look(work / "image" / "unclip", asked, wanted, work / "image" / "unclip.png")
    export(fresh_copy(average.net), fresh_copy(vae), start, work / "image" / "unclip")
    look(work / "image" / "unclip", asked, wanted, work / "image" / "unclip.png")


def fresh_copy(network: Any) -> Any:
    """The same network again, since export changes the precision of what it writes."""
    copy = type(network).from_config(network.config)
    copy.load_state_dict(network.state_dict())
    return copy


if __name__ == "__main__":
    command(run, minutes=20)
