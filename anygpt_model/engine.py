"""The engine: vocabulary, language model and codecs of one checkpoint, opened together, closed together.

Safe for threads. Codecs open when first asked for. Knows no graph, no store and no prompt.
"""

from __future__ import annotations

import asyncio
import json
import math
import platform
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from .checkpoints import LANGUAGE, fingerprints, load_tensors, model_folder
from .devices import chosen_device, chosen_dtype
from .errors import AnyloomError, CheckpointError, SettingsError, UnknownName
from .modalities import spec
from .values import Generation, Modality, Request, Sampling
from .vocabulary import END_OF_MESSAGE, RESPONSE, Vocabulary

if TYPE_CHECKING:
    import torch

    from .codecs.lent import Movable
    from .codecs.protocol import Codec
    from .language_model import Live, Trace
    from .llama import Llama
    from .llama_shape import LlamaShape
    from .scheduler import Cancelled, OnToken
    from .verification import Verifying

_RELEVANT = ("anyloom", "torch", "transformers", "diffusers", "numpy", "sentencepiece", "encodec")
_SOUND_FOLDERS = {Modality.SPEECH: "speechtokenizer", Modality.MUSIC: "encodec"}


class Engine:
    """One open model. `language_model` makes ids, `codec(modality)` turns codes into media and back."""

    def __init__(
        self,
        name: str,
        folder: Path,
        device: torch.device,
        dtype: torch.dtype,
        modalities: Collection[Modality],
        low_memory: bool,
        quantize: str | None = None,
        **decoding: int,
    ) -> None:
        """decoding: slots, queue and prefix_bytes, as Live takes them."""
        from .integrity import checksums
        from .language_model import Live
        from .legality import Grammar
        from .llama_shape import LlamaShape

        self.name = name
        self.folder = folder
        self.device = device
        self.dtype = dtype
        self.low_memory = low_memory
        self.quantize = quantize
        self.vocabulary = Vocabulary.from_folder(folder / LANGUAGE)
        self.modalities = frozenset(modalities) & {Modality.TEXT, *self.vocabulary.ranges}
        shape = LlamaShape.from_folder(folder / LANGUAGE)
        if shape.vocabulary < self.vocabulary.size:
            raise CheckpointError(
                f"config.json counts {shape.vocabulary} ids and the tokenizer {self.vocabulary.size}; "
                "the language model and its tokenizer are of different checkpoints."
            )
        llama = opened_llama(folder / LANGUAGE, shape, device, dtype, quantize)
        self.context_length = context_length(folder / LANGUAGE, shape.positions)
        self.grammar = Grammar(self.vocabulary, frame_rates(folder))
        self._compiled = llama.compiled is not None
        self.language_model: Live = Live(llama, self.grammar, self.context_length, **decoding)
        self._loaded = {"llm": checksums(llama.weights)}
        self._codecs: dict[Modality, Codec] = {}
        self._lock = threading.RLock()
        self._device_turn = threading.Lock()
        self._closed = False

    @property
    def template(self) -> str:
        """How a conversation is written for this checkpoint: a chat template's name, or "base".

        Only chat models were taught the marks of a spoken reply and of a message's end; a base model that has rows for
        them is known by its name.
        """
        chat = self.vocabulary.has(RESPONSE) and self.vocabulary.has(END_OF_MESSAGE)
        return "MMGPT" if chat and self.name != "anygpt-base" else "base"

    @cached_property
    def sampling(self) -> Mapping[Modality, Sampling]:
        """How each modality is drawn where a call says nothing: the published defaults, or the folder's own."""
        return own_sampling(self.folder / LANGUAGE)

    @cached_property
    def fingerprints(self) -> Mapping[str, str]:
        """Part ("llm", "tokenizer", "image", "speech", "music") -> "sha256:…" of its files."""
        return fingerprints(self.folder)

    @cached_property
    def versions(self) -> Mapping[str, str]:
        """What computes: Python, the machine, and the libraries that decide results."""
        kind = f"{self.dtype} {self.quantize}" if self.quantize else str(self.dtype)
        found = {"python": platform.python_version(), "machine": f"{platform.machine()} {self.device} {kind}"}
        if self._compiled:
            found["step"] = "compiled"
        for package in (*_RELEVANT, *(["torchao", "bitsandbytes"] if self.quantize else [])):
            try:
                found[package] = version(package)
            except PackageNotFoundError:
                continue
        return found

    def codec(self, modality: Modality | str) -> Codec:
        """The codec of `modality`, opened when first asked for.

        Raises UnknownName for text, or a modality that this engine was opened without; CheckpointError for its weights.
        """
        kind = next((known for known in Modality if known == modality), None)
        if kind is None or kind not in self.modalities or kind == Modality.TEXT:
            known = ", ".join(sorted(self.modalities - {Modality.TEXT})) or "none"
            raise UnknownName(f"This engine has no codec for {str(modality)!r}; it was opened with: {known}.")
        with self._lock:
            if self._closed:
                raise AnyloomError("The engine is closed; open another one with load_engine.")
            if kind not in self._codecs:
                from .integrity import checksums, weights_of

                codec = self._open(kind)
                self._loaded[kind.value] = checksums(weights_of(codec))
                self._codecs[kind] = codec
            return self._codecs[kind]

    def changed_weights(self, part: str) -> tuple[str, ...]:
        """Which weights of an open part ("llm", or a modality) are not in memory what was loaded; none if not open."""
        from .integrity import changed, checksums, weights_of

        with self._lock:
            before, codec = self._loaded.get(part), self._codecs.get(Modality(part)) if part != "llm" else None
        if before is None:
            return ()
        weights = self.language_model.llama.weights if codec is None else weights_of(codec)
        return changed(before, checksums(weights))

    def generate(
        self, requests: Sequence[Request], on_token: OnToken | None = None, cancelled: Cancelled | None = None
    ) -> list[Generation]:
        """`language_model.generate`."""
        return self.language_model.generate(requests, on_token, cancelled)

    async def agenerate(self, requests: Sequence[Request], on_token: OnToken | None = None) -> list[Generation]:
        """As `generate`, for asynchronous callers; on_token runs in another thread. A cancelled task ends its call."""
        gone = threading.Event()
        try:
            return await asyncio.to_thread(self.generate, requests, on_token, gone.is_set)
        except asyncio.CancelledError:
            gone.set()
            raise

    def verifying(self, traces: Sequence[Trace]) -> Verifying:
        """A language model that plays `traces` back and redoes their decisions with this engine's weights."""
        from .verification import Verifying

        return Verifying(self.language_model.llama, self.grammar, self.context_length, traces)

    def close(self) -> None:
        """Free the model, its caches and the codecs; calls under way come back as cancelled."""
        self.language_model.close()
        with self._lock:
            self._closed = True
            self._codecs.clear()

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self, modality: Modality) -> Codec:
        """The codec, on the device, or resting on the CPU and lent the device for each call."""
        if not self.low_memory or self.device.type == "cpu":
            return self._opened(modality, str(self.device))
        from .codecs.lent import RESTING_PLACE, Lent

        return Lent(self._opened(modality, RESTING_PLACE), str(self.device), self._device_turn)

    def _opened(self, modality: Modality, device: str) -> Movable:
        if modality == Modality.IMAGE:
            from .codecs.image import ImageCodec

            return ImageCodec.from_folder(self.folder, device=device, dtype=self.dtype)
        if modality == Modality.SPEECH:
            from .codecs.speech import SpeechCodec

            return SpeechCodec.from_folder(self.folder, device=device)
        from .codecs.music import MusicCodec

        return MusicCodec.from_folder(self.folder / "encodec", device=device)


def load_engine(
    name: str | Path = "pocket",
    *,
    device: str | None = None,
    dtype: str | None = None,
    modalities: Collection[Modality | str] | str | None = None,
    low_memory: bool = False,
    quantize: str | None = None,
    slots: int = 16,
    queue: int = 256,
    prefix_bytes: int = 256 << 20,
) -> Engine:
    """Open a model by its name ("pocket", "anygpt-chat", "anygpt-base") or folder.

    device: "cpu", "cuda", …; None: a GPU if there is one. dtype: "float32", "bfloat16", "float16"; None: float32 on a
    CPU (exact replay), bfloat16 on a GPU that has it, else float16. modalities: only these codecs may be opened (or
    one, by its name); None: all. low_memory: codecs rest on the CPU and are on the device for a call at a time.
    quantize: "int8" or "int4", the bits of the language model's weights (the extra "quantized"); None: as dtype says.
    slots: replies decoded together. queue: requests that may wait for one. prefix_bytes: memory for caches of earlier
    turns; 0 keeps none, so that a reply never depends, by a rounding, on what came before.
    Raises UnknownName, CheckpointError, SettingsError.
    """
    for what, number, least in (("slots", slots, 1), ("queue", queue, 1), ("prefix_bytes", prefix_bytes, 0)):
        if not isinstance(number, int) or number < least:
            raise SettingsError(f"{what} {number!r} came; a whole number of {least} or more is taken.")
    folder = model_folder(name)
    where = chosen_device(device)
    named = [modalities] if isinstance(modalities, str) else modalities
    wanted = list(Modality) if named is None else [_modality(entry) for entry in named]
    called = str(name) if folder != Path(name) else folder.resolve().name
    decoding = {"slots": slots, "queue": queue, "prefix_bytes": prefix_bytes}
    return Engine(called, folder, where, chosen_dtype(dtype, where), wanted, low_memory, quantize, **decoding)


def opened_llama(
    folder: Path, shape: LlamaShape, device: torch.device, dtype: torch.dtype, quantize: str | None
) -> Llama:
    """The language model's network, whole or quantized. Raises CheckpointError, SettingsError."""
    if quantize is not None:
        from .quantization import open_quantized

        return open_quantized(quantize, folder, device, dtype)
    from .llama import Llama

    return Llama(shape, load_tensors(folder), device, dtype)


def own_sampling(folder: Path) -> dict[Modality, Sampling]:
    """The sampling of each modality: the registry's published defaults, over them "sampling" of generation_config.json.

    That key is ours: {"image": {"temperature": 0.5}}. Raises CheckpointError for what it can't mean.
    """
    path = folder / "generation_config.json"
    stated = json.loads(path.read_text(encoding="utf-8")).get("sampling", {}) if path.is_file() else {}
    try:
        own = {Modality(name): settings for name, settings in stated.items()}
        return {kind: replace(spec(kind).sampling, **own.get(kind, {})) for kind in Modality}
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path.name} has a sampling that can't be used ({error}); correct or remove it."
        ) from None


def context_length(folder: Path, positions: int) -> int:
    """Ids that prompt and reply may have together.

    AnyGPT's config.json says 2,048, but its weights were trained on more and its tokenizer says how many.
    """
    path = folder / "tokenizer_config.json"
    stated = json.loads(path.read_text(encoding="utf-8")).get("model_max_length") if path.is_file() else None
    return max(positions, int(stated)) if stated and stated < 1_000_000 else positions


def frame_rates(folder: Path) -> dict[Modality, float]:
    """Frames a second of the folder's sound codecs, read from their configurations without opening them."""
    rates = {}
    for modality, name in _SOUND_FOLDERS.items():
        path = folder / name / "config.json"
        if path.is_file():
            rates[modality] = _frame_rate(json.loads(path.read_text(encoding="utf-8")))
    return rates


def _frame_rate(config: dict[str, Any]) -> float:
    if "hop" in config:
        return float(config["sample_rate"] / (config["hop"] * config["stack"]))
    rate = config.get("sample_rate") or config.get("sampling_rate") or 32_000
    strides = config.get("strides") or config.get("upsampling_ratios") or [8, 5, 4, 4]
    return float(rate / math.prod(strides))


def _modality(name: Modality | str) -> Modality:
    from .modalities import spec

    return spec(name).modality
