"""The protocol LanguageModel.generate(requests) -> generations, and what stands behind it.

Live computes; Recorded plays stored ids back; Verifying (verification.py) scores stored ids in one pass and redoes
every draw. A replay is the same graph with another of these, not a second code path. Knows no part, no codec, no
storage.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Protocol

from .drawing import Drawing
from .errors import ReplayError
from .generation import Batch, Decider
from .legality import Grammar
from .llama import Llama
from .scheduler import Cancelled, OnToken, Scheduler
from .values import Generation, Request

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
        drawing = Drawing()

        def open_batch() -> Batch:
            return Batch(llama, slots, context_length, prefix_bytes, drawing)

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
