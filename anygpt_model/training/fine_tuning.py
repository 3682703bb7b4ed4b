"""Fine-tuning on a user's own chats: the language model of any folder in the published layout, whole or by LoRA.

The codecs stay as they are and turn media into codes once. The network is transformers' Llama, so what runs for the
pocket on a CPU runs for the published weights on a GPU. What comes out is a whole model folder beside the old one.
Knows no file format of chats.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..checkpoints import LANGUAGE, model_folder
from ..dialogue import Message, format_example
from ..errors import InputError, SettingsError
from ..media import read_audio, read_image, resample
from ..modalities import spec
from ..values import Modality, Part
from .dials import Dials
from .fine_tuned import write_folder
from .language_data import Example
from .language_trainer import batched
from .pairs import Chat, Entry, naming, split

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ..engine import Engine

log = logging.getLogger(__name__)

MATRICES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
IGNORED = -100
STATE = "fine-tuning.pt"
SAVE_S = 300.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it: held-out loss in nats an id before and after (None where nothing was held out), steps, chats."""

    before: float | None
    after: float | None
    steps: int
    chats: int
    folder: Path


def examples(chats: Sequence[Chat], engine: Engine, longest: int) -> list[Example]:
    """Chats as ids and masks, media by the engine's codecs; each file is read once."""
    spans: dict[tuple[Modality, Path], Part] = {}

    def part(entry: Entry) -> Part:
        if entry.file is None:
            return Part(Modality.TEXT, entry.text)
        key = (entry.modality, entry.file)
        if key not in spans:
            spans[key] = _medium(entry.modality, entry.file, engine)
        return spans[key]

    made = []
    for chat in chats:
        messages = [Message(said.role, tuple(part(entry) for entry in said.entries)) for said in chat]
        ids, counted = format_example(messages, engine.vocabulary)
        cut = np.array(ids[:longest], np.int32), np.array(counted[:longest], np.bool_)
        if cut[1].any():
            made.append(Example(*cut, "own"))
    if len(made) < len(chats):
        left = len(chats) - len(made)
        log.warning("%d of %d chats are left out: no reply begins within %d ids", left, len(chats), longest)
    return made


def _medium(modality: Modality, file: Path, engine: Engine) -> Part:
    """A file as one span; of a longer sound, what one span holds."""
    codec = engine.codec(modality)
    with naming(file):
        if modality == Modality.IMAGE:
            codes = codec.encode(read_image(file.read_bytes()))
        else:
            samples, rate = read_audio(file.read_bytes())
            codes = codec.encode(resample(samples, rate, codec.sample_rate))
    seconds = spec(modality).span_seconds
    if seconds and codec.frame_rate:
        codes = codes[:, : int(seconds * codec.frame_rate)]
    return Part(modality, span=engine.vocabulary.to_span(modality, codes))


def fine_tune(
    chats: Sequence[Chat], model: str | Path, target: Path, dials: Dials, device: str | None = None
) -> Outcome:
    """Learn `chats` and write the model folder `target`; a run that was broken off goes on where it was saved.

    Raises InputError for a target that holds something else, SettingsError where LoRA's package is missing.
    """
    from ..engine import load_engine

    source, target = model_folder(model).resolve(), target.expanduser().resolve()
    _writable(target, source)
    parts = split(chats, dials.held_out, dials.seed)
    with load_engine(model, device=device) as engine:
        longest = min(dials.longest, engine.context_length)
        learnt, held = (examples(part, engine, longest) for part in parts)
        where = engine.device
    if not learnt:
        raise InputError(f"No chat has a reply within {longest} ids, and replies are what is learnt; shorten them.")
    return Run(source, target, dials, where, learnt, held).whole()


class Run:
    """One fine-tuning: network, optimiser, and their state in `target`."""

    def __init__(
        self,
        source: Path,
        target: Path,
        dials: Dials,
        device: torch.device,
        learnt: list[Example],
        held: list[Example],
    ) -> None:
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM

        torch.manual_seed(dials.seed)
        self.source, self.target, self.dials, self.device = source, target, dials, device
        self.learnt, self.held = learnt, held
        # What learns is float32, for small steps are lost in 16 bits; what LoRA leaves as it is may be held in 16.
        halved = dials.rank and device.type != "cpu"
        self.kept = LlamaConfig.from_pretrained(source / LANGUAGE).dtype or torch.float16
        dtype = torch.bfloat16 if halved else torch.float32
        network: Any = LlamaForCausalLM.from_pretrained(source / LANGUAGE, dtype=dtype).to(device)
        if device.type != "cpu":
            network.gradient_checkpointing_enable()
            network.enable_input_require_grads()
        self.network = _adapted(network, dials.rank) if dials.rank else network
        self.weights = [(name, weight) for name, weight in self.network.named_parameters() if weight.requires_grad]
        self.optimiser = torch.optim.AdamW([weight for _, weight in self.weights], dials.peak(), betas=(0.9, 0.95))
        self.steps = max(1, round(dials.epochs * len(list(batched(learnt, dials.batch_ids)))))
        self.step = 0
        self.before: float | None = None
        self._resume()

    def whole(self) -> Outcome:
        """Train to the end and write the folder; the state goes with the folder that it lay in."""
        if self.step == 0:
            self.before = self.judge()
        saved = time.monotonic()
        for batch in self._batches():
            if self.step >= self.steps:
                break
            loss = self._learn(batch)
            self.step += 1
            if self.step % 10 == 0 or self.step == self.steps:
                log.info("step %d of %d: loss %.3f", self.step, self.steps, loss)
            if time.monotonic() - saved > SAVE_S:
                self.save()
                saved = time.monotonic()
        found = Outcome(self.before, self.judge(), self.step, len(self.learnt), self.target)
        network: Any = self.network.merge_and_unload() if self.dials.rank else self.network
        note = {"settings": asdict(self.dials), **asdict(found), "folder": self.target.name}
        write_folder(self.source, self.target, network.to(self.kept), note)
        return found

    def judge(self) -> float | None:
        """Loss of what is held out, in nats a counted id."""
        import torch

        if not self.held:
            return None
        self.network.eval()
        with torch.no_grad():
            sums = [self._loss(batch) for batch in batched(self.held, self.dials.batch_ids)]
        self.network.train()
        return float(sum(loss.item() for loss, _ in sums) / sum(count for _, count in sums))

    def save(self) -> None:
        """Write the state, whole or not at all."""
        import torch

        self.target.mkdir(parents=True, exist_ok=True)
        state = {
            "weights": {name: weight.detach() for name, weight in self.weights},
            "optimiser": self.optimiser.state_dict(),
            "counts": (self.step, self.before),
        }
        fresh = self.target / (STATE + ".part")
        torch.save(state, fresh)
        fresh.replace(self.target / STATE)

    def _resume(self) -> None:
        import torch

        if not (self.target / STATE).exists():
            return
        state = torch.load(self.target / STATE, map_location=self.device, weights_only=True)
        if state["weights"].keys() != {name for name, _ in self.weights}:
            raise InputError(f"{self.target} holds a run with another rank or model; name a new folder.")
        with torch.no_grad():
            for name, weight in self.weights:
                weight.copy_(state["weights"][name])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.before = state["counts"]
        log.info("goes on at step %d of %d", self.step, self.steps)

    def _batches(self) -> Iterator[list[Example]]:
        """Batches for ever, in an order that the seed and the round decide."""
        number = 0
        while True:
            batches = list(batched(self.learnt, self.dials.batch_ids))
            random.Random(f"{self.dials.seed} {number}").shuffle(batches)
            skipped = max(0, min(self.step - number * len(batches), len(batches)))
            yield from batches[skipped:]
            number += 1

    def _learn(self, batch: Sequence[Example]) -> float:
        import torch

        for group in self.optimiser.param_groups:
            group["lr"] = self.dials.peak() * _rate(self.step, self.steps)
        total, count = self._loss(batch)
        (total / count).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_([weight for _, weight in self.weights], 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad()
        return float(total.detach()) / count

    def _loss(self, batch: Sequence[Example]) -> tuple[Tensor, int]:
        """The sum of the losses of a batch's counted ids, and how many there are."""
        import torch
        from torch.nn import functional

        longest = max(len(example.ids) for example in batch)
        ids = np.zeros((len(batch), longest), np.int64)
        aims = np.full((len(batch), longest), IGNORED, np.int64)
        for row, example in enumerate(batch):
            ids[row, : len(example.ids)] = example.ids
            aims[row, : len(example.ids)] = np.where(example.counted, example.ids, IGNORED)
        wanted = torch.from_numpy(aims[:, 1:].copy()).to(self.device)
        # Padding stands behind what a causal model reads, so it needs no mask.
        read = torch.from_numpy(ids).to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type != "cpu"):
            logits = self.network(input_ids=read).logits[:, :-1]
        chosen = wanted != IGNORED
        total = functional.cross_entropy(logits[chosen].float(), wanted[chosen], reduction="sum")
        return total, int(chosen.sum())


def _writable(target: Path, source: Path) -> None:
    """Raise InputError for a place where nothing can be written or something else lies."""
    if target.is_relative_to(source):
        raise InputError(f"{target} lies in the model that is learnt from; name a folder elsewhere.")
    if target.is_file() or (target.is_dir() and any(target.iterdir()) and not (target / STATE).is_file()):
        raise InputError(f"{target} is there already; name a folder that is new, or one of a run that was broken off.")
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{target} can't be written ({error.strerror}); name another folder.") from None


def _adapted(network: Any, rank: int) -> Any:
    try:
        from peft import LoraConfig, get_peft_model
    except ModuleNotFoundError:
        raise SettingsError("LoRA needs peft, which is not installed; run: pip install 'anyloom[finetune]'.") from None
    return get_peft_model(network, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=MATRICES))


def _rate(step: int, steps: int) -> float:
    """The learning rate's share of its peak: a short rise, then a straight line to a tenth."""
    return min((step + 1) / max(1, 0.05 * steps), 1 - 0.9 * step / steps, 1.0)
