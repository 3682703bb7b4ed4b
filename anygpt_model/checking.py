"""`check(folder)`: is a model's folder complete and of the right shapes, file by file, without loading it.

Expected tensors come from the configurations in the folder, by building each network on torch's "meta" device; found
ones from the headers of the files. Knows no hub; the only thing it may write are safetensors beside pickles.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .checkpoints import LANGUAGE, safe_shapes, weight_files
from .conversion import convert_indexes, pickles, refusals, twin
from .errors import AnyloomError, CheckpointError

Shapes = dict[str, tuple[int, ...]]
_UNUSED = ("inv_freq", "position_ids", "num_batches_tracked")
"""Buffers that older files hold and no network needs."""
_BESIDE = {
    LANGUAGE: ("config.json", "tokenizer.model", "added_tokens.json"),
    "unclip": (
        "model_index.json",
        "scheduler/scheduler_config.json",
        "image_noising_scheduler/scheduler_config.json",
        "tokenizer/tokenizer_config.json",
        "text_encoder/config.json",
        "unet/config.json",
        "vae/config.json",
        "image_normalizer/config.json",
    ),
    "speechtokenizer": ("config.json",),
}
"""Files that a part needs beside its weights, as they are published."""
_RENAMED = {
    ".attentions.0.query.": ".attentions.0.to_q.",
    ".attentions.0.key.": ".attentions.0.to_k.",
    ".attentions.0.value.": ".attentions.0.to_v.",
    ".attentions.0.proj_attn.": ".attentions.0.to_out.0.",
}
"""What older files call the projections of the VAE's attention."""


@dataclass(frozen=True, slots=True)
class Row:
    """What was found about one file (or one sharded set). ok says whether it can be used; sentence says why not.

    expected, found: numbers of tensors. unexpected: how many belong to no network. dtype: of the tensors, several with
    commas.
    """

    part: str
    file: str
    expected: int
    found: int
    unexpected: int
    dtype: str
    ok: bool
    sentence: str = ""


def check(folder: Path, *, converting: bool = True) -> list[Row]:
    """Every expected file of a model's folder, a row each.

    converting: pickles that have no safetensors yet are converted first, each in a process of its own; one that is
    refused becomes a row with its reason. Parts that the folder leaves out altogether are rows that are not ok.
    Raises CheckpointError for a folder that has none.
    """
    if not any((folder / part).is_dir() for part in _LOOKS):
        raise CheckpointError(f"{folder} is no model's folder; one has {', '.join(_LOOKS)} in it.")
    rows = _converted(folder) if converting else []
    for part in _LOOKS:
        beside = _beside(part, folder / part) if (folder / part).is_dir() else []
        # Without these nothing can be said of the weights.
        rows += [*beside, *(check_part(part, folder / part) if all(row.ok for row in beside) else [])]
    return rows


def _beside(part: str, folder: Path) -> list[Row]:
    """A row for each file that a part needs beside its weights: is it there, and is it what it should be."""
    rows = []
    for name in _BESIDE.get(part, ()):
        file, sentence = folder / name, ""
        try:
            if file.suffix == ".json":
                json.loads(file.read_text(encoding="utf-8"))
            elif not file.stat().st_size:
                sentence = f"{file} is empty; fetch it again."
        except FileNotFoundError:
            sentence = f"{file} is missing; fetch it again."
        except (OSError, ValueError) as error:
            sentence = f"{file} can't be read ({error}); fetch it again."
        rows.append(Row(part, f"{part}/{name}", 0, 0, 0, "", not sentence, sentence))
    return rows


def check_part(part: str, folder: Path) -> list[Row]:
    """The rows of one part ("llm", "seed", "unclip" …) in its own folder."""
    return _looked(part, folder, _LOOKS[part])


def _converted(folder: Path) -> list[Row]:
    """Rows of the pickles that could not be converted."""
    rows = []
    for file, error in refusals({file: twin(file) for file in pickles(folder)}).items():
        name = file.relative_to(folder)
        rows.append(Row(name.parts[0], str(name), 0, 0, 0, "", False, str(error)))
    convert_indexes(folder)
    return rows


def _looked(part: str, folder: Path, look: Callable[[Path], list[Row]]) -> list[Row]:
    if not folder.is_dir():
        sentence = f"{folder} is missing; fetch the checkpoint again, or open the model without this part."
        return [Row(part, part, 0, 0, 0, "", False, sentence)]
    try:
        return look(folder)
    except (AnyloomError, OSError, ValueError, TypeError, KeyError) as error:
        said = str(error) if isinstance(error, AnyloomError) else f"{folder} can't be read: {error}."
        return [Row(part, part, 0, 0, 0, "", False, said)]


def compare(part: str, name: str, files: list[Path], expected: Shapes, called: Callable[[str], str] = str) -> Row:
    """One row: the tensors of `files` against those that are expected. called: how a found name reads by then."""
    found: Shapes = {}
    dtypes: dict[str, str] = {}
    for file in files:
        shapes, kinds = safe_shapes(file)
        found |= {called(key): shape for key, shape in shapes.items()}
        dtypes |= {called(key): kind for key, kind in kinds.items()}
    missing = sorted(expected.keys() - found.keys())
    wrong = sorted(key for key in expected.keys() & found.keys() if expected[key] != found[key])
    whole = sorted(key for key in expected.keys() & found.keys() if not _is_real(dtypes[key], key))
    unexpected = sum(not key.endswith(_UNUSED) for key in found.keys() - expected.keys())
    sentence = ""
    if missing:
        sentence = f"{name} lacks {missing[0]}{_more(missing)}; fetch it again."
    elif wrong:
        came, taken = list(found[wrong[0]]), list(expected[wrong[0]])
        sentence = f"{name} has {wrong[0]} as {came} where {taken} is expected{_more(wrong)}; fetch it again."
    elif whole:
        kind = dtypes[whole[0]]
        sentence = f"{name} has {whole[0]} as {kind} where F32, F16 or BF16 is expected{_more(whole)}; fetch it again."
    told = ", ".join(sorted(set(dtypes.values())))
    return Row(part, name, len(expected), len(found), unexpected, told, not sentence, sentence)


def _is_real(dtype: str, name: str) -> bool:
    """Whether a weight's dtype has a point: a network would load whole numbers and compute nonsense."""
    return dtype.startswith(("F", "BF")) or name.endswith(_UNUSED)


def _more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""


def _one(part: str, name: str, file: Path, expected: Shapes, called: Callable[[str], str] = str) -> Row:
    """As `compare` for one file; what makes it unreadable becomes the row's sentence."""
    try:
        return compare(part, name, [file], expected, called)
    except CheckpointError as error:
        return Row(part, name, len(expected), 0, 0, "", False, str(error))


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def _shapes(build: Callable[[], Any], device: str = "meta") -> Shapes:
    """The state of a network, built without memory unless `device` says where."""
    import torch

    with torch.device(device):
        state = build().state_dict()
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def _llm(folder: Path) -> list[Row]:
    from .llama_shape import LlamaShape
    from .vocabulary import Vocabulary

    shape = LlamaShape.from_folder(folder)
    vocabulary = Vocabulary.from_folder(folder)
    name = f"{LANGUAGE}/model.safetensors"
    row = compare(LANGUAGE, name, weight_files(folder), shape.tensors())
    if row.ok and shape.vocabulary < vocabulary.size:
        said = (
            f"{name} counts {shape.vocabulary} ids and its tokenizer {vocabulary.size}; take both from one checkpoint."
        )
        row = Row(row.part, row.file, row.expected, row.found, row.unexpected, row.dtype, False, said)
    return [row]


def _seed(folder: Path) -> list[Row]:
    from .codecs.seed import SeedTokenizer
    from .codecs.seed_config import SeedConfig

    path = folder / "config.json"
    config = SeedConfig.from_file(path) if path.is_file() else SeedConfig()
    head = "visual_encoder."
    shapes = _shapes(lambda: SeedTokenizer(config))
    vit = {name.removeprefix(head): size for name, size in shapes.items() if name.startswith(head)}
    rest = {name: size for name, size in shapes.items() if not name.startswith(head)}
    return [
        _one("seed", f"seed/{file}.safetensors", folder / f"{file}.safetensors", expected)
        for file, expected in (("seed_quantizer", rest), ("eva_vit_g", vit))
    ]


def _unclip(folder: Path) -> list[Row]:
    import diffusers
    import transformers
    from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import StableUnCLIPImageNormalizer

    def text() -> Any:
        return transformers.CLIPTextModel(transformers.CLIPTextConfig.from_pretrained(folder / "text_encoder"))

    def part(kind: Any, name: str) -> Callable[[], Any]:
        return lambda: kind.from_config(kind.load_config(folder / name))

    networks: dict[str, Callable[[], Any]] = {
        "unet": part(diffusers.UNet2DConditionModel, "unet"),
        "vae": part(diffusers.AutoencoderKL, "vae"),
        "image_normalizer": part(StableUnCLIPImageNormalizer, "image_normalizer"),
        "text_encoder": text,
    }
    return [unclip_row(folder, name, _shapes(build)) for name, build in networks.items()]


def unclip_row(folder: Path, name: str, expected: Shapes) -> Row:
    """The row of one network of the picture pipeline in `folder`: unet, vae, image_normalizer or text_encoder."""
    file = f"{name}/{'model' if name == 'text_encoder' else 'diffusion_pytorch_model'}.safetensors"
    wanted = {_modern(key): shape for key, shape in expected.items()}
    return _one("unclip", f"unclip/{file}", folder / file, wanted, _modern)


def _modern(name: str) -> str:
    """The published pipeline was written by older libraries, which named a few tensors otherwise."""
    for old, new in _RENAMED.items():
        name = name.replace(old, new)
    return name.removeprefix("text_model.")


def _speech(folder: Path) -> list[Row]:
    from .codecs.frame_codec import FrameCodec, config_from_json, is_frame_codec
    from .codecs.speechtokenizer import SpeechTokenizer, SpeechTokenizerConfig

    config = _config(folder)
    if is_frame_codec(config):
        # A small one; its filters are computed, which takes numbers.
        shapes = _shapes(lambda: FrameCodec(config_from_json(config)), "cpu")
    else:
        shapes = _shapes(lambda: SpeechTokenizer(SpeechTokenizerConfig.from_json(config)))
    file = next((name for name in ("model", "ckpt") if (folder / f"{name}.safetensors").exists()), "ckpt")
    return [_one(folder.name, f"{folder.name}/{file}.safetensors", folder / f"{file}.safetensors", shapes)]


def _soundstorm(folder: Path) -> list[Row]:
    from .codecs.soundstorm import SoundStorm, SoundStormConfig

    shapes = _shapes(lambda: SoundStorm(SoundStormConfig.from_json(_config(folder))))
    file = "speechtokenizer_soundstorm_mls.safetensors"
    return [_one("soundstorm", f"soundstorm/{file}", folder / file, shapes)]


def _music(folder: Path) -> list[Row]:
    from .codecs import encodec
    from .codecs.frame_codec import is_frame_codec

    config = _config(folder)
    if is_frame_codec(config):
        return _speech(folder)
    sizes = encodec.config_from_json(config)
    shapes = _shapes(lambda: encodec.Encodec(sizes, sizes.num_codebooks))
    expected = {encodec.published_name(name): size for name, size in shapes.items()}
    return [_one("encodec", "encodec/model.safetensors", folder / "model.safetensors", expected, encodec.old_style)]


_LOOKS: dict[str, Callable[[Path], list[Row]]] = {
    LANGUAGE: _llm,
    "seed": _seed,
    "unclip": _unclip,
    "speechtokenizer": _speech,
    "soundstorm": _soundstorm,
    "encodec": _music,
}
