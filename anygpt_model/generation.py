"""Prefill, step, sample: how requests become replies, many at a time, each as if it were alone.

A Stream is one reply under way; a Batch decodes all of them together, one id each a step. Prefixes that an earlier
request left behind are reused. Knows no thread, no queue and no text: ids in, ids out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .beams import Search, Wording, count_of
from .caches import Prefix, Prefixes, Slots, copy
from .drawing import Drawing
from .errors import InputError
from .legal_ids import Legal
from .legality import Automaton, Grammar
from .llama import PREFILL_CHUNK, Llama
from .modalities import spec
from .sampling import Decision
from .values import Finish, Generation, Modality, Request, Sampling


def sampling_of(request: Request, modality: Modality) -> Sampling:
    """How `modality` is drawn for this request: its own setting, else the registry's."""
    return request.sampling.get(modality) or spec(modality).sampling


class Repeats:
    """Which ids the open span holds, as the repetition penalty needs it."""

    def __init__(self, size: int) -> None:
        self._held = np.zeros(size, dtype=bool)
        self._ids: list[int] = []

    def push(self, token: int, open_before: bool, open_after: bool) -> None:
        """Take an id: codes of an open span are held, the end of the span lets go of them."""
        if open_before and open_after:
            self._held[token] = True
            self._ids.append(token)
        elif self._ids:
            self._held[self._ids] = False
            self._ids.clear()

    def among(self, legal: Legal) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """For each legal id, in order, whether the span holds it."""
        found: np.ndarray[tuple[int], np.dtype[np.bool_]] = self._held[legal.ids()]
        return found


class Decider:
    """One reply's grammar and draws: from the logits of the legal ids to the next id. Makes replies and checks them."""

    def __init__(self, request: Request, grammar: Grammar, context_length: int) -> None:
        """Raises InputError for a prompt that is empty or holds unknown ids, or beams that can't serve; else as
        Grammar.begin does."""
        size = grammar.vocabulary.size
        if not request.prompt or not 0 <= min(request.prompt) <= max(request.prompt) < size:
            raise InputError(f"A prompt takes one or more ids from 0 to {size - 1}; make it by dialogue.format.")
        self.request = request
        self.beams = count_of(request)
        self.automaton: Automaton = grammar.begin(request.prompt, request.bounds, context_length)
        self._repeats = Repeats(size)
        open_count = self.automaton.state.length if self.automaton.state.open else 0
        for token in request.prompt[len(request.prompt) - open_count :]:
            self._repeats.push(token, True, True)
        self.step = 0

    def settings(self) -> tuple[Legal, Sampling]:
        """What may come next and how it is drawn."""
        legal = self.automaton.legal()
        return legal, sampling_of(self.request, legal.modality)

    def repeated(self) -> np.ndarray[tuple[int], np.dtype[np.bool_]] | None:
        """Which of the legal ids the open span holds; None where no penalty asks for it."""
        legal, sampling = self.settings()
        return None if sampling.repetition_penalty == 1.0 else self._repeats.among(legal)

    def meant(self, drawn: Decision) -> Decision:
        """The decision that a drawn one stands for: see Automaton.meant."""
        token = self.automaton.meant(drawn.token)
        return drawn if token == drawn.token else replace(drawn, token=token)

    def push(self, token: int) -> None:
        """Take the next id. Raises InputError for an illegal one."""
        before = self.automaton.state.open is not None
        self.automaton.push(token)
        self._repeats.push(token, before, self.automaton.state.open is not None)
        self.step += 1


class Stream:
    """One reply under way. `emit` is called with each id; what goes wrong with it (`error`) ends this reply alone."""

    def __init__(self, decider: Decider, emit: Callable[[int], None] | None = None) -> None:
        self.decider = decider
        self.request = decider.request
        self.ids: list[int] = []
        self.cancelled = False
        self.error: Exception | None = None
        self._emit = emit
        self._decisions: list[Decision] = []

    @property
    def done(self) -> bool:
        """Whether nothing more is to be made."""
        return self.cancelled or self.error is not None or self.decider.automaton.ended

    @property
    def length(self) -> int:
        """Ids in the cache: the prompt and all but the newest id, which the next step takes in."""
        return len(self.request.prompt) + len(self.ids) - 1

    def take(self, decision: Decision) -> None:
        """Take the next id."""
        self.decider.push(decision.token)
        self.ids.append(decision.token)
        self._decisions.append(decision)
        if self._emit is not None:
            self._emit(decision.token)

    def settle(self, wording: Wording) -> None:
        """Take what a beam search found."""
        self.decider.automaton = wording.automaton
        for decision in wording.decisions:
            self.ids.append(decision.token)
            self._decisions.append(decision)
            if self._emit is not None:
                self._emit(decision.token)

    def result(self) -> Generation:
        """What was made so far."""
        finish: Finish = "cancelled" if self.cancelled else self.decider.automaton.finish
        return Generation(
            tuple(self.ids),
            tuple(decision.logprob for decision in self._decisions),
            tuple(decision.margin for decision in self._decisions),
            finish,
            self.request.seed,
        )


class Prefill:
    """A prompt on its way into a cache, a chunk at a time, so that others can step in between.

    What continues the whole of a kept cache is written behind that one's end, where it has room, and copied nowhere; so
    one prompt at a time is on its way.
    """

    def __init__(self, stream: Stream, model: Llama, prefixes: Prefixes) -> None:
        self.stream = stream
        self._model = model
        self._ids = np.asarray(stream.request.prompt, dtype=np.int64)
        known, self.reused = prefixes.longest(self._ids)
        if known is not None and known.length == self.reused and known.positions >= len(self._ids):
            self.prefix = Prefix(known.data, self.reused)
        else:
            self.prefix = model.new_prefix(len(self._ids))
            if known is not None:
                copy(self.prefix.data[:, :, :, : self.reused], known.data[:, :, :, : self.reused])
                self.prefix.length = self.reused
        self.hidden: Tensor | None = None

    @property
    def waiting(self) -> int:
        """Ids still to be computed."""
        return len(self._ids) - self.prefix.length

    def advance(self) -> int:
        """Compute the next chunk; how many ids it had."""
        chunk = self._ids[self.prefix.length :][:PREFILL_CHUNK]
        self.hidden = self._model.prefill(chunk, self.prefix)[-1:]
        return len(chunk)


class Batch:
    """The replies being decoded, stream n in row n of the caches. One thread at a time."""

    def __init__(self, model: Llama, size: int, positions: int, prefix_bytes: int, drawing: Drawing) -> None:
        self.model = model
        self._drawing = drawing
        self.slots = Slots(model, size, positions)
        self.prefixes = Prefixes(prefix_bytes)
        self.streams: list[Stream] = []
        self.searches: list[Search] = []

    @property
    def full(self) -> bool:
        """Whether no place is free."""
        return len(self.streams) + len(self.searches) >= self.slots.count

    def begin(self, stream: Stream) -> Prefill:
        """Start a prompt; reuses what an earlier sequence shares with it."""
        return Prefill(stream, self.model, self.prefixes)

    def admit(self, prefill: Prefill) -> None:
        """Take a prefilled stream into the batch and draw its first id."""
        assert prefill.hidden is not None
        if prefill.stream.decider.beams > 1:
            self.searches.append(Search(self.model, prefill.stream, prefill.prefix, prefill.hidden))
            return
        self.streams.append(prefill.stream)
        self.sample([prefill.stream], prefill.hidden)  # first, so that nobody waits for the copy to get a first id
        self.slots.install(len(self.streams) - 1, prefill.prefix)

    def step(self) -> None:
        """One more id for every stream, and for every wording of a search."""
        for search in self.searches:
            try:
                if not search.stream.done:
                    search.step()
            except Exception as error:
                search.stream.error = error
        if not self.streams:
            return
        newest = [stream.ids[-1] for stream in self.streams]
        hidden = self.model.step(newest, [stream.length for stream in self.streams], self.slots)
        self.sample(self.streams, hidden)

    def sample(self, streams: list[Stream], hidden: Tensor) -> None:
        """Draw an id for each stream from its hidden state [streams, hidden]; equal legal sets share one product."""
        order = sorted(range(len(streams)), key=lambda row: id(streams[row].decider.automaton.legal()))
        for _, group in groupby(order, key=lambda row: id(streams[row].decider.automaton.legal())):
            rows = list(group)
            chosen = hidden if len(rows) == len(streams) else hidden[torch.tensor(rows, device=hidden.device)]
            legal = streams[rows[0]].decider.automaton.legal()
            self._draw([streams[row] for row in rows], legal, self.model.logits(chosen, legal))

    def _draw(self, streams: list[Stream], legal: Legal, logits: NDArray[np.float32]) -> None:
        """The next id of each stream by its row of `logits`, those of the `legal` ids; equal settings at once."""
        alike: dict[Sampling, list[int]] = {}
        for row, stream in enumerate(streams):
            alike.setdefault(stream.decider.settings()[1], []).append(row)
        for sampling, rows in alike.items():
            some = [streams[row] for row in rows]
            theirs = logits if len(alike) == 1 else logits[rows]
            for stream, found in zip(some, self._drawn(some, legal, sampling, theirs), strict=True):
                if isinstance(found, Exception):
                    stream.error = found
                    continue
                try:
                    stream.take(stream.decider.meant(found))
                except Exception as error:
                    stream.error = error

    def _drawn(
        self, streams: list[Stream], legal: Legal, sampling: Sampling, logits: NDArray[np.float32]
    ) -> list[Decision | Exception]:
        """What each stream draws by its row of `logits`; where that fails, each draws alone and fails alone."""
        deciders = [stream.decider for stream in streams]
        draws = [(decider.request.seed, decider.step) for decider in deciders]
        try:
            held = [found for decider in deciders if (found := decider.repeated()) is not None]
            return [*self._drawing(logits, legal.ids(), sampling, draws, np.stack(held) if held else None)]
        except Exception as error:
            if len(streams) == 1:
                return [error]
            pieces = (self._drawn([one], legal, sampling, logits[row : row + 1]) for row, one in enumerate(streams))
            return [found for piece in pieces for found in piece]

    def remove(self, finished: Iterable[Stream]) -> None:
        """Take streams out, whatever their state, and keep their caches for whoever continues them."""
        for stream in finished:
            if stream not in self.streams:
                self.searches = [search for search in self.searches if search.stream is not stream]
                continue
            row = self.streams.index(stream)
            self._keep(stream, row)
            last = self.streams.pop()
            if row < len(self.streams):
                self.slots.move(len(self.streams), row, last.length)
                self.streams[row] = last

    def _keep(self, stream: Stream, row: int) -> None:
        if stream.decider.automaton.ended and self.prefixes.limit:
            ids = np.asarray([*stream.request.prompt, *stream.ids[:-1]], dtype=np.int64)
            self.prefixes.keep(ids, self.slots.extract(row, len(ids)))
