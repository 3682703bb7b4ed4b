"""The protocol LanguageModel.generate(requests) -> generations, and what stands behind it.

Live computes; Recorded plays stored ids back; Verifying scores stored ids in one forward pass and redoes every
decision. A replay is the same graph with another of these, not a second code path. Knows no part, no codec, no storage.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .errors import ReplayError
from .generation import Batch, Decider
from .legal_ids import Legal
from .legality import Grammar
from .llama import PREFILL_CHUNK, Llama
from .sampling import border_distance
from .scheduler import Cancelled, OnToken, Scheduler
from .values import Finish, Generation, Modality, Request

_ROWS = 64
"""Positions whose logits over the whole vocabulary are held at once."""
Trace = tuple[Request, Generation]
"""A stored request and what was made of it."""


class LanguageModel(Protocol):
    """Prompt ids in, legal reply ids out."""

    def generate(
        self, requests: Sequence[Request], on_token: OnToken | None = None, cancelled: Cancelled | None = None
    ) -> list[Generation]:
        """One generation a request, in their order.

        on_token(number, id) is called for each id as it is made, in the caller's thread; number counts the requests of
        this call. cancelled() is asked now and then: once it is true, what was made so far comes back as "cancelled".
        A generation's ids end with the stop id that was drawn.
        """
        ...


class Live:
    """The real thing. Safe for threads: concurrent calls are decoded together."""

    def __init__(
        self,
        llama: Llama,
        grammar: Grammar,
        context_length: int,
        *,
        slots: int = 16,
        queue: int = 256,
        prefix_bytes: int = 256 << 20,
    ) -> None:
        """slots: replies decoded together. queue: requests that may wait. prefix_bytes: of earlier turns' caches."""
        self.llama = llama
        self.grammar = grammar
        self.context_length = context_length
        llama.reserve(context_length)

        def open_batch() -> Batch:
            return Batch(llama, slots, context_length, prefix_bytes)

        self._scheduler = Scheduler(open_batch, queue)

    def generate(
        self, requests: Sequence[Request], on_token: OnToken | None = None, cancelled: Cancelled | None = None
    ) -> list[Generation]:
        """As the protocol says. Raises ContextFull, UnknownName or InputError for a request that can't be served (none
        of the call's is then), Busy when too many wait."""
        deciders = [Decider(request, self.grammar, self.context_length) for request in requests]
        return self._scheduler.generate(deciders, on_token, cancelled)

    @property
    def load(self) -> tuple[int, int]:
        """Requests being decoded, requests waiting."""
        return self._scheduler.load

    def close(self) -> None:
        """End the decoding thread and free the caches; calls under way come back as cancelled."""
        self._scheduler.close()


class Recorded:
    """Plays stored generations back, in the order in which they were stored."""

    def __init__(self, traces: Iterable[Trace]) -> None:
        self._left = deque(traces)
        self._lock = threading.Lock()

    def generate(
        self, requests: Sequence[Request], on_token: OnToken | None = None, cancelled: Cancelled | None = None
    ) -> list[Generation]:
        """The stored generations. Raises ReplayError, with the position, where a prompt differs, or none is left."""
        played = []
        for number, request in enumerate(requests):
            stored, generation = self._next()
            same_prompt(stored.prompt, request.prompt)
            if on_token is not None:
                for token in generation.ids:
                    on_token(number, token)
            played.append(generation)
        return played

    def _next(self) -> Trace:
        with self._lock:
            if not self._left:
                raise ReplayError("More replies were asked for than the trace holds; replay it with its own request.")
            return self._left.popleft()


def same_prompt(stored: Sequence[int], given: Sequence[int]) -> None:
    """Raises ReplayError, naming the first position, where two prompts differ."""
    for position, (one, other) in enumerate(zip(stored, given, strict=False)):
        if one != other:
            raise ReplayError(
                f"The prompt differs from the stored one at position {position}: id {other} came, {one} is stored; "
                "the tokenizer, a codec or the history has changed since."
            )
    if len(stored) != len(given):
        raise ReplayError(
            f"The prompt has {len(given)} ids where {len(stored)} are stored (alike up to the shorter one's end); "
            "the history or the template has changed since."
        )


@dataclass(frozen=True, slots=True)
class Verification:
    """What redoing a generation's decisions from one forward pass found.

    divergence: position of the first id that would be drawn differently, None where all agree; expected, drawn: the ids
    there. illegal: position of the first id that the grammar refuses. margins: of each redone decision, its distance to
    the candidates' border included. drift: the largest change of a log-probability before the divergence. removed: for
    each position the probability mass that the grammar took away.
    """

    divergence: int | None
    expected: int | None
    drawn: int | None
    illegal: int | None
    margins: tuple[float, ...]
    drift: float
    removed: tuple[float, ...]
    finish: Finish

    @property
    def identical(self) -> bool:
        """Whether every decision came out as stored."""
        return self.divergence is None and self.illegal is None

    @property
    def near_tie(self) -> bool:
        """Whether the first divergence lay within the drift: another rounding, not another model."""
        return self.divergence is not None and self.margins[self.divergence] <= max(8 * self.drift, 1e-4)


class Verifying:
    """Scores stored ids in one forward pass and redoes each decision; `reports` keeps what was found."""

    def __init__(self, llama: Llama, grammar: Grammar, context_length: int, traces: Iterable[Trace]) -> None:
        self._llama = llama
        self._grammar = grammar
        self._context_length = context_length
        self._recorded = Recorded(traces)
        self.reports: list[Verification] = []

    def generate(
        self, requests: Sequence[Request], on_token: OnToken | None = None, cancelled: Cancelled | None = None
    ) -> list[Generation]:
        """The stored generations, each verified under the given request's bounds, sampling and seed."""
        generations = self._recorded.generate(requests, on_token, cancelled)
        for request, generation in zip(requests, generations, strict=True):
            self.reports.append(verify(self._llama, self._grammar, self._context_length, request, generation))
        return generations


def verify(llama: Llama, grammar: Grammar, context_length: int, request: Request, stored: Generation) -> Verification:
    """Redo every decision of `stored` from one pass over its prompt and ids."""
    decider = Decider(request, grammar, context_length)
    found = _Findings()
    rows = _score(llama, [*request.prompt, *stored.ids[:-1]], len(request.prompt) - 1)
    for position, (token, full) in enumerate(zip(stored.ids, _whole_logits(llama, rows), strict=True)):
        if decider.automaton.ended or token not in decider.settings()[0]:
            found.illegal = position
            break
        found.redo(decider, full, stored, position)
        decider.push(token)
    return Verification(
        found.divergence,
        None if found.divergence is None else stored.ids[found.divergence],
        found.drawn,
        found.illegal,
        tuple(found.margins),
        found.drift,
        tuple(found.removed),
        stored.finish,
    )


class _Findings:
    """Gathers what a verification finds, decision by decision."""

    def __init__(self) -> None:
        self.divergence: int | None = None
        self.drawn: int | None = None
        self.illegal: int | None = None
        self.margins: list[float] = []
        self.removed: list[float] = []
        self.drift = 0.0

    def redo(self, decider: Decider, full: NDArray[np.float32], stored: Generation, position: int) -> None:
        """One decision from the whole vocabulary's logits [vocabulary]."""
        legal, sampling = decider.settings()
        ids = legal.ids()
        logits = full[ids]
        decision = decider.draw(logits)
        edge = border_distance(logits, ids, sampling, decider.request.seed, decider.step, decider.repeated())
        self.margins.append(min(decision.margin, edge))
        self.removed.append(_removed(full, logits))
        token = stored.ids[position]
        if decision.token != token and self.divergence is None:
            self.divergence, self.drawn = position, decision.token
        if self.divergence is None:
            self.drift = max(self.drift, abs(decision.logprob - stored.logprobs[position]))


def _removed(full: NDArray[np.float32], legal: NDArray[np.float32]) -> float:
    """The share of the whole softmax that isn't legal."""
    top = float(full.max())
    whole = float(np.exp(full.astype(np.float64) - top).sum())
    kept = float(np.exp(legal.astype(np.float64) - top).sum())
    return max(1.0 - kept / whole, 0.0)


def _whole_logits(llama: Llama, rows: Tensor) -> Iterator[NDArray[np.float32]]:
    """Of each of `rows` [n, hidden] the logits of the whole vocabulary, some rows at a time."""
    everything = Legal(Modality.TEXT, ((0, llama.shape.vocabulary),), ())
    for part in torch.split(rows, _ROWS):
        yield from llama.logits(part, everything)


def _score(llama: Llama, ids: Sequence[int], start: int) -> Tensor:
    """Hidden states of positions start.. of `ids`, [len(ids) - start, hidden]: one pass, a chunk at a time."""
    array = np.asarray(ids, dtype=np.int64)
    prefix = llama.new_prefix(len(array))
    pieces = [llama.prefill(array[at : at + PREFILL_CHUNK], prefix) for at in range(0, len(array), PREFILL_CHUNK)]
    return torch.cat(pieces)[start:]
