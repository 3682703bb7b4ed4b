"""Beam search: of several wordings carried along together, the likeliest one per id. For transcription; text only.

Nothing is drawn, so there is no decision that could be redone alone: such a reply can be made again, not verified. One
search takes one place in the batch and steps with it. Knows no thread and no queue.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from .caches import Prefix, Slots
from .errors import InputError
from .legality import Automaton
from .sampling import Decision, log_softmax
from .values import Modality, Request

if TYPE_CHECKING:
    from .generation import Stream
    from .llama import Llama

MOST = 16
"""Wordings that may be carried along."""


@dataclass(frozen=True, slots=True)
class Wording:
    """One hypothesis: its ids with their log-probabilities, the sum of these, and where the grammar stands after it.

    row: of the caches.
    """

    automaton: Automaton
    row: int = 0
    score: float = 0.0
    decisions: tuple[Decision, ...] = ()

    @property
    def mean(self) -> float:
        """Log-probability an id: what wordings of unequal length are compared by."""
        return self.score / max(len(self.decisions), 1)


def count_of(request: Request) -> int:
    """How many wordings the request asks for. Raises InputError for a number out of range, or where media may come."""
    chosen = request.sampling.get(Modality.TEXT)
    count = 1 if chosen is None else chosen.beams
    if not 1 <= count <= MOST:
        raise InputError(f"A beam search of {count} came; it takes 1 (none) to {MOST} wordings.")
    only_text = request.bounds.to == Modality.TEXT or request.bounds.modalities == {Modality.TEXT}
    if count > 1 and not only_text:
        raise InputError("A beam search came for a reply that may hold media; it serves text alone: ask for text.")
    return count


class Search:
    """The wordings of one stream, on caches of their own."""

    def __init__(self, model: Llama, stream: Stream, prefix: Prefix, hidden: Tensor) -> None:
        """prefix, hidden: the prompt's cache and its last state [1, hidden]."""
        self.stream = stream
        self._model = model
        self._count = count_of(stream.request)
        automaton = stream.decider.automaton
        self._prompt = len(stream.request.prompt)
        self._slots = Slots(model, self._count, self._prompt + automaton.room)
        for row in range(self._count):
            self._slots.install(row, prefix)
        self._running = [Wording(automaton)]
        self._ended: list[Wording] = []
        self._choose(hidden)

    def step(self) -> None:
        """One more id for every wording."""
        newest = [wording.decisions[-1].token for wording in self._running]
        length = self._prompt + len(self._running[0].decisions) - 1
        self._slots.arrange([wording.row for wording in self._running], length)
        self._choose(self._model.step(newest, [length] * len(newest), self._slots))

    def _choose(self, hidden: Tensor) -> None:
        """The best continuations by the wordings' last states [wordings, hidden]."""
        found = [pair for row, wording in enumerate(self._running) for pair in self._continued(wording, row, hidden)]
        found.sort(key=lambda pair: (-pair[0].score, pair[0].row, pair[1]))
        running: list[Wording] = []
        for rank, (wording, token) in enumerate(found):
            automaton = copy.copy(wording.automaton)
            automaton.push(token)
            further = Wording(automaton, wording.row, wording.score, wording.decisions)
            if not automaton.ended:
                running.append(further)
            elif rank < self._count:
                self._ended.append(further)
            if len(running) == self._count:
                break
        self._running = running
        best = max((wording.mean for wording in self._ended), default=-np.inf)
        enough = len(self._ended) >= self._count and all(best >= wording.mean for wording in running)
        if enough or not running:
            self.stream.settle(max(self._ended, key=lambda wording: wording.mean))

    def _continued(self, wording: Wording, row: int, hidden: Tensor) -> list[tuple[Wording, int]]:
        """The likeliest continuations of one wording; twice as many as are kept, since some may end."""
        legal = wording.automaton.legal()
        likely = log_softmax(self._model.logits(hidden[row : row + 1], legal)[0])
        ids = legal.ids()
        made = []
        for place in np.argsort(-likely, kind="stable")[: 2 * self._count]:
            decision = Decision(wording.automaton.meant(int(ids[place])), float(likely[place]), 0.0)
            score = wording.score + decision.logprob
            made.append((Wording(wording.automaton, row, score, (*wording.decisions, decision)), decision.token))
        return made
