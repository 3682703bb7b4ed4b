"""The pocket's SEED tokenizer behind its stem, written down instead of trained.

Recognising is linear: Fisher's discriminants tell things apart whoever drew them, and the nearest mean among them is a
prototype, which recalls the thing's codes and how it looks. The Q-Former then only hands each query its share: the
prototype's vectors, and what the picture's looks differ from those recalled. Its steps are made linear. Normalisation
divides by a constant where two coordinates are +LARGE and -LARGE and a third keeps the sum at zero; GELU passes what a
query's own gate lifts, and nothing else. From codes to the embedding the way is straight.

Knows no picture file and no training.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from ..codecs.seed import MEAN, STD, Float32LayerNorm, SeedTokenizer
from ..codecs.stem import Stem
from .image_data import STYLES
from .image_teacher import APART, CODE_DIM, CODED_LOOKS, FEATURES, KINDS, MEANING, SIDE, Teaching
from .seed_shape import SPARE, TELLING, TOLD, TOLD_APART, config

LARGE = 16384.0
GATE = 64.0
"""Half of what lifts a query's own numbers over the others'."""
STRAIGHT = 0.002
"""Where tanh is its argument, to 1e-4 for arguments within 8."""
COMPONENTS, RIDGE = 1000, 0.1
"""Principal components among which discriminants are sought, and how much their noise is evened."""
SURE = 8.0
"""How sharply prototypes choose: likeness falls with exp(-SURE / 2) for a squared deviation of distance."""
LOOKING = 0.2
"""How much a deviation of looks counts beside one of discriminants: it tells styles of the same thing apart."""


def discriminants(points: Tensor, names: Tensor, count: int, ridge: float = RIDGE) -> Tensor:
    """Fisher's axes [D, count] of points [N, D]: where groups differ most against how one group varies, which is by 1
    along each."""
    groups = int(names.max()) + 1
    middles = means(points, names, groups)
    within = points - middles[names]
    spread = within.T @ within / len(within)
    spread += ridge * spread.diagonal().mean() * torch.eye(len(spread))
    whiten: Tensor = torch.linalg.cholesky(torch.linalg.inv(spread))
    among = (middles - middles.mean(0)) @ whiten
    axes: Tensor = torch.linalg.eigh(among.T @ among)[1].flip(1)
    return whiten @ axes[:, :count]


def means(points: Tensor, names: Tensor, groups: int) -> Tensor:
    """The mean [groups, D] of points [N, D] for each name."""
    sizes = torch.bincount(names, minlength=groups).clamp(min=1)[:, None]
    return torch.zeros(groups, points.shape[1]).index_add_(0, names, points) / sizes


@torch.no_grad()
def stem_of(stem: Stem, pixels: Tensor) -> Tensor:
    """What the stem gives of normalised pixels [N, 3, S, S], flat: [N, D]."""
    return torch.cat([stem(part).flatten(1) for part in torch.split(pixels, 256)])


def normalised(pictures: Tensor) -> Tensor:
    """[B, 3, H, W] in 0..1 -> what the tokenizer takes."""
    mean, std = (torch.tensor(x)[:, None, None] for x in (MEAN, STD))
    return (pictures - mean) / std


def telling(found: Tensor, thing: Tensor, style: Tensor) -> tuple[Tensor, Tensor]:
    """Rows [TOLD_APART, D] and offsets that tell things and styles by what the stem found [N, D]; style -1: none of
    ours. Each number counts alike before the principal components are taken."""
    middle, deviation = found.mean(0), found.std(0).clamp(min=1e-3)
    centred = (found - middle) / deviation
    _, axes = torch.linalg.eigh(centred.T @ centred)
    basis = axes[:, -COMPONENTS:]
    seen = centred @ basis
    ours = style >= 0
    kinds = discriminants(seen, thing, TELLING), discriminants(seen[ours], style[ours], TOLD_APART - TELLING)
    rows = (basis @ torch.cat(kinds, 1)).T / deviation
    return rows, -rows @ middle


def looking(teaching: Teaching, stem: Stem) -> tuple[Tensor, Tensor]:
    """Rows [CODED_LOOKS, D] and offsets [CODED_LOOKS] that tell looks by what the stem gives."""
    side = SIDE >> (len(stem.widths) - 1)
    square = teaching.axes.T.reshape(CODED_LOOKS, 3, SIDE, SIDE)
    mean, std = (torch.tensor(x)[:, None, None] for x in (MEAN, STD))
    offsets = (square * mean).sum((1, 2, 3)) - teaching.middle @ teaching.axes
    shuffled = nn.functional.pixel_unshuffle(square * std, SIDE // side)
    blank = torch.zeros(CODED_LOOKS, stem.widths[-1], *shuffled.shape[2:])
    return torch.cat([blank, shuffled], 1).flatten(1), offsets


def balanced(rows: Tensor) -> Tensor:
    """`rows` [n, ...] and one more that keeps their sum at zero."""
    return torch.cat([rows, -rows.sum(0, keepdim=True)])


def linear(norm: nn.LayerNorm | Float32LayerNorm) -> None:
    """Let `norm` give back what comes, of whose coordinates two are +LARGE and -LARGE and all sum to zero."""
    norm.weight.fill_(LARGE * (2 / len(norm.weight)) ** 0.5)
    norm.bias.zero_()


def write_eye(model: SeedTokenizer, teaching: Teaching, found: Tensor, thing: Tensor, style: Tensor) -> None:
    """Set everything between the stem and the codebook, from what the stem found [N, D] in pictures of things [N] and
    styles [N] (-1: none of ours). Coordinates of a token: three that keep normalisation linear, discriminants, looks,
    and room for the vectors of a thing's codes and of its style."""
    layer = model.visual_encoder.patch_embed
    assert layer.stem is not None
    assert layer.proj.bias is not None
    kinds = zip(telling(found, thing, style), looking(teaching, layer.stem), strict=True)
    rows, offsets = (torch.cat(kind) for kind in kinds)
    constants = torch.tensor([LARGE, -LARGE])
    weight = torch.cat([-rows.sum(0, keepdim=True), torch.zeros(2, rows.shape[1]), rows])
    layer.proj.weight.zero_()[: len(weight)] = weight.reshape(-1, *layer.proj.weight.shape[1:])
    layer.proj.bias.zero_()[: len(weight)] = torch.cat([-offsets.sum()[None], constants, offsets])
    linear(model.ln_vision)
    write_prototypes(model, teaching, found @ rows[:TOLD_APART].T + offsets[:TOLD_APART], thing, style)
    write_queries(model)


def write_prototypes(model: SeedTokenizer, teaching: Teaching, seen: Tensor, thing: Tensor, style: Tensor) -> None:
    """Set a prototype for each known thing in each style from discriminants [N, TOLD_APART]: the middle of the thing's
    and of the style's, and the looks that are known by heart, which it tells to be taken off, with its codes."""
    assert model.prototypes is not None
    ours = style >= 0
    things = means(seen[:, :TELLING], thing, len(teaching.things)).repeat_interleave(len(STYLES), 0)
    styles = means(seen[ours, TELLING:], style[ours], len(STYLES)).repeat(len(teaching.things), 1)
    known = teaching.recalled.flatten(0, 1)
    precise = torch.cat([torch.full((TOLD_APART,), SURE), torch.full((CODED_LOOKS,), SURE * LOOKING)])
    weight, values = model.prototypes.keys.weight, model.prototypes.values.weight
    weight.zero_()[:, SPARE:] = (torch.cat([things, styles, known], 1) * precise).half()
    model.prototypes.keys.bias.copy_(-0.5 * (weight[:, SPARE:].square() / precise).sum(1))
    vectors = teaching.codebook[teaching.codes][:, :, :MEANING].flatten(1).repeat_interleave(len(STYLES), 0)
    manners = torch.eye(len(STYLES)).repeat(len(teaching.things), 1)
    told = torch.cat([-known, vectors, manners], 1)
    # Nothing of a scene: one thing alone on white is all that a prototype knows.
    values.copy_(nn.functional.pad(told, (0, TOLD - told.shape[1])).T)


def shares() -> list[tuple[int, int, int]]:
    """For each query: where its numbers begin among what is told, how many, and its kind's mark."""
    found, start = [], 0
    for kind in KINDS:
        for _ in range(kind.groups):
            found.append((start, kind.width, kind.mark))
            start += kind.width
    return found


def write_queries(model: SeedTokenizer) -> None:
    """Set the Q-Former: the queries, told apart by one coordinate each, all see the sum of the tokens and pick theirs.

    Coordinates of a query: what is told, its vector, which query it is, and three that keep normalisation linear."""
    count = model.config.num_query_token
    vector, query, spare = TOLD, TOLD + CODE_DIM, TOLD + CODE_DIM + count
    for name, tensor in model.named_parameters():
        if name.startswith(("Qformer", "visual_encoder.cls", "visual_encoder.pos", "encode_task", "query_tokens")):
            tensor.zero_()
    tokens = model.query_tokens[0]
    tokens[range(count), range(query, spare)] = 1.0
    tokens[:, spare], tokens[:, spare + 1], tokens[:, spare + 2] = -1.0, LARGE, -LARGE
    bert = model.Qformer.bert
    layer: Any = bert.encoder.layer[0]
    looking = layer.crossattention
    for output in (layer.attention.output, looking.output, layer.output_query):
        linear(output.LayerNorm)
    linear(bert.embeddings.LayerNorm)
    # Three tokens, seen evenly: the class token (which is nothing), the patch and the prototype. Looks stand first in
    # these and last in what is told.
    seen = torch.eye(TOLD, model.config.vit_embed_dim).roll(model.config.vit_embed_dim - TOLD, 1)
    looking.self.value.weight[:TOLD] = 3.0 * seen.roll(TOLD - CODED_LOOKS, 0)
    passed = torch.zeros(spare, model.config.hidden_size)
    passed[range(TOLD), range(TOLD)] = 1.0
    looking.output.dense.weight[: spare + 1] = balanced(passed)
    told = gated(layer.intermediate_query.dense, query)
    layer.output_query.dense.weight[vector:query], layer.output_query.dense.weight[spare] = told, -told.sum(0)
    first, last = cast(Any, model.encode_task_layer[0]), cast(Any, model.encode_task_layer[2])
    first.weight[range(CODE_DIM), range(vector, query)] = STRAIGHT
    last.weight[range(CODE_DIM), range(CODE_DIM)] = 1 / STRAIGHT


def gated(inner: nn.Linear, query: int) -> Tensor:
    """Set `inner` to let each query's own numbers through, by the coordinates from `query` on that tell which it is;
    what makes its vector of them: [CODE_DIM, numbers]."""
    told = torch.zeros(CODE_DIM, inner.out_features)
    for number, (start, width, mark) in enumerate(shares()):
        inner.weight[range(start, start + width), range(start, start + width)] = 1.0
        own = FEATURES + number
        for unit in (*range(start, start + width), own):
            inner.weight[unit, query + number] = 2 * GATE
            inner.bias[unit] = -GATE
        told[range(width), range(start, start + width)] = 1.0
        told[:width, own] -= 1.0
        told[mark, own] += APART / GATE
    return told


def write_hand(model: SeedTokenizer) -> None:
    """Set everything behind the codebook: the embedding is what the codes' vectors hold, one after another."""
    for part in (model.decode_task_layer, model.image_down, model.distill_image_proj):
        for tensor in part.parameters():
            tensor.zero_()
    model.pos_embed_image.zero_()
    both = torch.cat([torch.eye(CODE_DIM), -torch.eye(CODE_DIM)])
    first, second = cast(Any, model.decode_task_layer[0]), cast(Any, model.decode_task_layer[2])
    first.weight.copy_(STRAIGHT * torch.eye(CODE_DIM))
    second.weight[:CODE_DIM] = torch.eye(CODE_DIM) / STRAIGHT
    wide, middle, narrow = (cast(Any, model.image_down[place]) for place in (0, 2, 4))
    wide.weight[:, :CODE_DIM] = both
    middle.weight.copy_(torch.eye(2 * CODE_DIM))
    narrow.weight.copy_(both.T)
    for number, (start, width, _) in enumerate(shares()):
        model.distill_image_proj.weight[
            range(start, start + width), range(number * CODE_DIM, number * CODE_DIM + width)
        ] = 1.0


@torch.no_grad()
def written(teaching: Teaching, stem: Stem, pictures: Tensor, thing: Tensor, style: Tensor) -> SeedTokenizer:
    """The tokenizer around a trained stem, from what it learns to recognise: pictures [N, 3, S, S] in 0..1 of things
    [N] in styles [N] (-1: another hand's)."""
    model = SeedTokenizer(config(len(teaching.things) * len(STYLES)))
    layer = model.visual_encoder.patch_embed
    layer.stem = stem
    model.quantize.embedding.weight.copy_(teaching.codebook)
    write_eye(model, teaching, stem_of(stem, normalised(pictures)), thing, style)
    write_hand(model)
    return model.eval().requires_grad_(False)
