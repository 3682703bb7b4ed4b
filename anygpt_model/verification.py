"""Verifying: a language model that plays stored ids back, scores them in one forward pass and redoes every draw.

What costs is the pass; the draws are redone together, position by position only where the grammar walks. Knows no part,
no codec, no storage.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .errors import ReplayError
from .generation import Decider
from .language_model import Recorded, Trace
from .legal_ids import Legal
from .legality import Grammar
from .llama import PREFILL_CHUNK, Llama
from .redrawing import Redrawn, redraw
from .sampling import log_softmax
from .scheduler import Cancelled, OnToken
from .values import Finish, Generation, Request, Sampling

_ROWS = 128
"""Positions whose logits over the whole vocabulary are held at once."""
_ROUND = 8
"""So many times these rows wait for their draws."""
_DRAWERS = 8
"""Threads that draw, at most."""


@dataclass(frozen=True, slots=True)
class Verification:
    """What redoing a generation's decisions from one forward pass found.

    divergence: position of the first id that would be drawn differently, None where all agree; expected, drawn: the ids
    there. illegal: position of the first id that the grammar refuses. margins: of each redone decision, its distance to
    the candidates' border included. drift: the largest change of a log-probability before the divergence. moved: the
    same over all stored ids, which tells of weights only where the record is the one that was made. removed: for each
    position the probability mass that the grammar took away.
    """

    divergence: int | None
    expected: int | None
    drawn: int | None
    illegal: int | None
    margins: tuple[float, ...]
    drift: float
    moved: float
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
        generations = self._recorded.generate(requests)
        for request, generation in zip(requests, generations, strict=True):
            self.reports.append(verify(self._llama, self._grammar, self._context_length, request, generation))
        return generations


@dataclass(slots=True)
class _Draws:
    """Positions that draw from the same ids by the same settings. repeated: of each, what the open span held."""

    legal: Legal
    sampling: Sampling
    positions: list[int] = field(default_factory=list)
    repeated: list[NDArray[np.bool_]] = field(default_factory=list)


def verify(llama: Llama, grammar: Grammar, context_length: int, request: Request, stored: Generation) -> Verification:
    """Redo every decision of `stored` from one pass over its prompt and ids. Raises ReplayError for a beam search."""
    decider = Decider(request, grammar, context_length)
    if decider.beams > 1:
        raise ReplayError(
            "This reply was found by a beam search, which draws nothing that could be redone; make it again by replay "
            "with regenerate and compare."
        )
    walk = _Walk(decider, stored.ids, min(grammar.vocabulary.stop_ids))
    count = walk.length
    hidden = _score(llama, [*request.prompt, *stored.ids[: max(count - 1, 0)]], len(request.prompt) - 1)
    tokens, logprobs = np.zeros(count, np.int64), np.zeros(count)
    margins, removed = np.zeros(count), np.zeros(count)
    for positions, redrawn, share in _redone(llama, hidden, walk.draws, request.seed):
        tokens[positions], logprobs[positions] = redrawn.tokens, redrawn.logprobs
        margins[positions], removed[positions] = redrawn.margins, share
    for position, meant in walk.meant.items():
        if int(tokens[position]) in grammar.vocabulary.stop_ids:
            tokens[position] = meant
    differs = (tokens != np.asarray(stored.ids[:count], np.int64)).nonzero()[0]
    at = int(differs[0]) if len(differs) else None
    _score_stored(llama, hidden, walk, [int(place) for place in differs], stored.ids, logprobs)
    moved = np.abs(logprobs - np.asarray(stored.logprobs[:count]))
    return Verification(
        divergence=at,
        expected=None if at is None else stored.ids[at],
        drawn=None if at is None else int(tokens[at]),
        illegal=count if count < len(stored.ids) else None,
        margins=tuple(margins.tolist()),
        drift=float(moved[:at].max(initial=0.0)),
        moved=float(moved.max(initial=0.0)),
        removed=tuple(removed.tolist()),
        finish=stored.finish,
    )


class _Walk:
    """The grammar's way along stored ids, as far as they are legal. length: how many are.

    meant: for each position where to end was to begin what was demanded, the id that stands for a stop id.
    """

    def __init__(self, decider: Decider, ids: Sequence[int], stop: int) -> None:
        """stop: any of the ids that end a reply."""
        self.meant: dict[int, int] = {}
        self._draws: dict[tuple[int, Sampling], _Draws] = {}
        self._decider = decider
        self._stop = stop
        self.length = next((at for at, token in enumerate(ids) if not self._take(at, token)), len(ids))

    @property
    def draws(self) -> Iterable[_Draws]:
        """The positions by what they draw from."""
        return self._draws.values()

    def _take(self, position: int, token: int) -> bool:
        """Note one position and go on; False where its id is refused."""
        decider = self._decider
        if decider.automaton.ended:
            return False
        legal, sampling = decider.settings()
        if token not in legal or decider.automaton.meant(token) != token:
            return False
        # Equal sets are mostly one object, and comparing identities spares hashing all their ids.
        group = self._draws.get((id(legal), sampling))
        if group is None:
            group = self._draws[id(legal), sampling] = _Draws(legal, sampling)
        group.positions.append(position)
        if sampling.repetition_penalty != 1.0 and (repeated := decider.repeated()) is not None:
            group.repeated.append(repeated)
        if (meant := decider.automaton.meant(self._stop)) != self._stop:
            self.meant[position] = meant
        decider.push(token)
        return True


def _redone(
    llama: Llama, hidden: Tensor, draws: Iterable[_Draws], seed: int
) -> Iterator[tuple[list[int], Redrawn, NDArray[np.float64]]]:
    """Positions, what is drawn there, and the share of the whole softmax that isn't legal; some rows at a time.

    In turn, the logits of many rows by torch's threads and their draws by as many of ours: at once, they would wait for
    one another at every product.
    """

    def drawn(some: _Draws, logits: NDArray[np.float32]) -> Redrawn:
        held = np.stack(some.repeated) if some.repeated else None
        return redraw(logits, some.legal.ids(), some.sampling, seed, some.positions, held)

    room = torch.empty(_ROWS, llama.shape.vocabulary, device=llama.device)
    with ThreadPoolExecutor(min(torch.get_num_threads(), _DRAWERS)) as pool:
        runs = _pieces(draws)
        while rounds := list(islice(runs, _ROUND)):
            weighed = [found for pieces in rounds for found in _weighed(llama, hidden, pieces, room)]
            redrawn = pool.map(drawn, [some for some, _, _ in weighed], [logits for _, logits, _ in weighed])
            for (some, _, removed), found in zip(weighed, redrawn, strict=True):
                yield some.positions, found, removed


def _pieces(draws: Iterable[_Draws]) -> Iterator[list[_Draws]]:
    """The draws in runs of _ROWS positions: pieces of one, or of several with few."""
    run: list[_Draws] = []
    free = _ROWS
    for group in draws:
        start = 0
        while start < len(group.positions):
            rows = slice(start, start + free)
            run.append(_Draws(group.legal, group.sampling, group.positions[rows], group.repeated[rows]))
            start, free = start + free, free - len(run[-1].positions)
            if not free:
                yield run
                run, free = [], _ROWS
    if run:
        yield run


def _score_stored(
    llama: Llama, hidden: Tensor, walk: _Walk, differs: list[int], ids: Sequence[int], logprobs: NDArray[np.float64]
) -> None:
    """Where something else is drawn now, put the stored id's log-probability in the place of the drawn one's.

    Not where a stop id was drawn for what was demanded: that one's was stored.
    """
    wanted = set(differs) - walk.meant.keys()
    for group in walk.draws:
        places = [position for position in group.positions if position in wanted]
        if places:
            columns = {token: column for column, token in enumerate(group.legal.ids().tolist())}
            for place, logits in zip(places, llama.logits(hidden[places], group.legal), strict=True):
                logprobs[place] = log_softmax(logits)[columns[ids[place]]]


@torch.inference_mode()
def _weighed(
    llama: Llama, hidden: Tensor, pieces: list[_Draws], room: Tensor
) -> list[tuple[_Draws, NDArray[np.float32], NDArray[np.float64]]]:
    """Of each piece the legal ids' logits [rows, legal.size], and the share [rows] of the softmax that isn't legal.

    room: [_ROWS, vocabulary], used up: memory that is asked for anew is cleared by the system each time, which takes
    longer than the softmax.
    """
    whole = llama.whole(hidden[[position for some in pieces for position in some.positions]])
    shares = torch.softmax(whole, dim=1, out=room[: len(whole)])
    found, start = [], 0
    for some in pieces:
        rows = slice(start, start + len(some.positions))
        start = rows.stop
        removed = (1.0 - _among(shares[rows], some.legal).sum(dim=1)).clamp_(min=0.0)
        found.append((some, _among(whole[rows], some.legal).cpu().numpy(), removed.double().cpu().numpy()))
    return found


def _among(whole: Tensor, legal: Legal) -> Tensor:
    """The columns of the legal ids, in their order, as a tensor of its own."""
    pieces = [whole[:, start:stop] for start, stop in legal.slices]
    if legal.singles:
        pieces.append(whole[:, list(legal.singles)])
    return pieces[0].clone() if len(pieces) == 1 else torch.cat(pieces, dim=1)


def _score(llama: Llama, ids: Sequence[int], start: int) -> Tensor:
    """Hidden states of positions start.. of `ids`, [len(ids) - start, hidden]: one pass, a chunk at a time."""
    array = np.asarray(ids, dtype=np.int64)
    prefix = llama.new_prefix(len(array))
    pieces = [llama.prefill(array[at : at + PREFILL_CHUNK], prefix) for at in range(0, len(array), PREFILL_CHUNK)]
    return torch.cat(pieces)[start:]
