"""Which ids may come next in a reply, so that output is legal by construction.

Legality is expressed as id ranges, so that only that slice of the output layer need be computed. What is legal is what
the grammar allows and from where the shortest legal ending still fits. Knows no tensor, no probability and no codec;
seconds become frames by the rates that it is given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from .errors import ContextFull, InputError, UnknownName
from .legal_ids import Legal, Ranges, interned, merged
from .modalities import spec
from .values import Bounds, Finish, Modality
from .vocabulary import INSTRUCTION, RESPONSE, Vocabulary

Transcript = Literal["none", "open", "done"]
_REMEMBERED_RULES, _REMEMBERED_STATES = 64, 4096
_PREAMBLE = 128
"""Text ids in a run while the demanded medium is still to come: a model that would rather stop must not ramble on."""


class State(NamedTuple):
    """Where a reply stands. open: the modality of the span that is open; length: its ids so far, or a text run's.

    segments: of each modality, those begun. said: a text id was made outside the transcript. made: any id was made.
    """

    open: Modality | None = None
    length: int = 0
    segments: tuple[tuple[Modality, int], ...] = ()
    said: bool = False
    made: bool = False
    transcript: Transcript = "none"
    ended: bool = False

    def begun(self, modality: Modality) -> int:
        """How many segments of `modality` were begun."""
        return dict(self.segments).get(modality, 0)


Step = tuple[Ranges, State]
"""A kind of id that may follow, and the state that it leads to."""


class Grammar:
    """The rules of one checkpoint's replies. Immutable, safe for threads."""

    def __init__(self, vocabulary: Vocabulary, frame_rates: Mapping[Modality, float] | None = None) -> None:
        """frame_rates: frames a second of each sound's codec; a sound without one is bounded by tokens alone."""
        self.vocabulary = vocabulary
        self.frame_rates = dict(frame_rates or {})
        ids = sorted(vocabulary.text_ids)
        self.text = merged((token, token + 1) for token in ids)
        self.stops = tuple((token, token + 1) for token in sorted(vocabulary.stop_ids))
        both = vocabulary.has(INSTRUCTION) and vocabulary.has(RESPONSE)
        self.instruction = vocabulary.id(INSTRUCTION) if both else None
        self.response = vocabulary.id(RESPONSE) if both else None
        self._known: dict[tuple[Bounds, bool], Rules] = {}
        self.openings = {table.opening: modality for modality, table in vocabulary.ranges.items()}

    def begin(self, prompt: Sequence[int], bounds: Bounds, context_length: int) -> Automaton:
        """The automaton of a reply to `prompt`; a span that the prompt leaves open is continued.

        Raises ContextFull where the smallest reply that the bounds ask for doesn't fit, UnknownName for a demanded
        modality that the checkpoint lacks, InputError where no modality is left that the reply may have.
        """
        if bounds.to not in (None, Modality.TEXT, *self.vocabulary.ranges):
            known = ", ".join([Modality.TEXT, *self.vocabulary.ranges])
            raise UnknownName(f"This checkpoint can't make {bounds.to}; ask for one of {known}.")
        room = min(bounds.max_tokens, context_length - len(prompt))
        rules = self._rules(bounds, self._heard(prompt))
        if not rules.beginnings:
            said = ", ".join(sorted(bounds.modalities)) or "none"
            raise InputError(f"The modalities {said} came for the reply, and this checkpoint makes none of them.")
        state = self._after(prompt)
        least = rules.least(state)
        if least > room:
            raise ContextFull(
                f"The prompt has {len(prompt)} ids and the smallest reply needs {least} more, but the model takes "
                f"{context_length} in all and max_tokens is {bounds.max_tokens}; shorten the one or raise the other."
            )
        return Automaton(rules, state, room)

    def _rules(self, bounds: Bounds, heard: bool) -> Rules:
        """Equal bounds share their rules, and so what was worked out under them."""
        known = self._known.get((bounds, heard))
        if known is None:
            if len(self._known) >= _REMEMBERED_RULES:
                self._known.clear()
            known = self._known[bounds, heard] = Rules(self, bounds, heard)
        return known

    def _heard(self, prompt: Sequence[int]) -> bool:
        table = self.vocabulary.ranges.get(Modality.SPEECH)
        return self.instruction is not None and table is not None and table.closing in prompt

    def _after(self, prompt: Sequence[int]) -> State:
        for back, token in enumerate(reversed(prompt)):
            if token in self.openings:
                modality = self.openings[token]
                return State(open=modality, length=back, segments=((modality, 1),), made=True)
            if self.vocabulary.modality(token) in (None, Modality.TEXT):
                break
        return State()


class Options(NamedTuple):
    """What may follow a state. steps: ranges, the state after, the fewest ids that still follow it. legal: all ranges
    together. most: the largest of those fewest; with more room than that, every step fits."""

    steps: tuple[tuple[Ranges, State, int], ...]
    legal: Legal
    most: int


class Rules:
    """A grammar under one request's bounds: what may follow a state, and how many ids its shortest ending takes."""

    def __init__(self, grammar: Grammar, bounds: Bounds, may_transcribe: bool) -> None:
        self.grammar = grammar
        self.bounds = bounds
        self.may_transcribe = may_transcribe
        wanted = frozenset([Modality.TEXT]) if bounds.to == Modality.TEXT else bounds.modalities
        self.allowed = wanted if bounds.to is None else wanted | {bounds.to}
        self.longest = {modality: self._longest(modality) for modality in grammar.vocabulary.ranges}
        self.beginnings = [self.whole(kind) for kind in self.allowed if kind in (Modality.TEXT, *self.longest)]
        self._options: dict[State, Options] = {}

    def options(self, state: State) -> Options:
        """What may follow `state` where nothing is short of room; remembered."""
        known = self._options.get(state)
        if known is None:
            if len(self._options) >= _REMEMBERED_STATES:
                self._options.clear()
            steps = tuple((ranges, after, self.least(after)) for ranges, after in self.steps(state))
            legal = interned(state.open or Modality.TEXT, merged(pair for ranges, _, _ in steps for pair in ranges))
            known = self._options[state] = Options(steps, legal, max(least for _, _, least in steps) if steps else 0)
        return known

    def _longest(self, modality: Modality) -> int | None:
        """The most ids that a span of `modality` may have; at least one frame."""
        entry = spec(modality)
        if entry.fixed_codes is not None:
            return entry.fixed_codes
        rate = self.grammar.frame_rates.get(modality)
        if not rate:
            return None
        seconds = min(self.bounds.max_seconds, entry.span_seconds or self.bounds.max_seconds)
        return max(int(seconds * rate), 1) * self.grammar.vocabulary.ranges[modality].codebooks

    def shortest(self, modality: Modality) -> int:
        """The fewest ids that a span of `modality` may have."""
        return spec(modality).fixed_codes or self.grammar.vocabulary.ranges[modality].codebooks

    def whole(self, modality: Modality) -> int:
        """The fewest ids that a segment of `modality` may have, its markers included."""
        return 1 if modality == Modality.TEXT else self.shortest(modality) + 2

    def met(self, state: State) -> bool:
        """Whether the demanded modality has been made or is being made."""
        to = self.bounds.to
        return to is None or (state.said if to == Modality.TEXT else state.begun(to) > 0)

    def least(self, state: State) -> int:
        """Ids of the shortest legal ending from `state`, its stop id included; 0 once it has ended."""
        if state.ended:
            return 0
        close = 0
        if state.open is not None:
            whole = max(self.shortest(state.open), state.length)
            frame = self.grammar.vocabulary.ranges[state.open].codebooks
            close = whole + (-whole) % frame - state.length + 1
        demand = 0
        if self.bounds.to is not None and not self.met(state):
            demand = self.whole(self.bounds.to)
        elif not state.made:  # a reply holds something, whatever it is
            demand = min(self.beginnings)
        return close + (state.transcript == "open") + demand + 1

    def steps(self, state: State) -> list[Step]:
        """The kinds of id that may follow `state`, each with the state that it leads to."""
        if state.open is not None:
            return self._within(state, state.open)
        steps: list[Step] = []
        if Modality.TEXT in self.allowed:
            if self.met(state) or self.bounds.to == Modality.TEXT or state.length < _PREAMBLE:
                said = state.said or state.transcript != "open"
                steps.append((self.grammar.text, state._replace(length=state.length + 1, said=said, made=True)))
            steps += self._transcript(state)
        if state.transcript == "open":
            return steps
        for modality, table in self.grammar.vocabulary.ranges.items():
            if modality in self.allowed and state.begun(modality) < self.bounds.max_segments:
                # Where the demanded medium is still to come, the wish to end the reply begins it: see Automaton.meant.
                instead = self.grammar.stops if modality == self.bounds.to and not self.met(state) else ()
                ranges = merged([(table.opening, table.opening + 1), *instead])
                steps.append((ranges, opened(state, modality)))
        if state.made and self.met(state):
            steps.append((self.grammar.stops, state._replace(ended=True)))
        return steps

    def _within(self, state: State, modality: Modality) -> list[Step]:
        table = self.grammar.vocabulary.ranges[modality]
        steps: list[Step] = []
        longest = self.longest[modality]
        # A span that the prompt began may already be longer than the bounds: it closes at the next whole frame.
        if longest is None or state.length < longest or state.length % table.codebooks:
            codes = table.codebook(state.length)
            steps.append((((codes.start, codes.stop),), state._replace(length=state.length + 1)))
        if state.length >= self.shortest(modality) and state.length % table.codebooks == 0:
            closing = ((table.closing, table.closing + 1),)
            steps.append((closing, state._replace(open=None, length=0)))
        return steps

    def _transcript(self, state: State) -> list[Step]:
        ins, res = self.grammar.instruction, self.grammar.response
        if ins is None or res is None or not self.may_transcribe:
            return []
        if state.transcript == "none" and not state.segments:
            return [(((ins, ins + 1),), state._replace(length=0, transcript="open", said=False, made=True))]
        if state.transcript == "open":
            return [(((res, res + 1),), state._replace(length=0, transcript="done"))]
        return []


def opened(state: State, modality: Modality) -> State:
    """The state after the opening marker of `modality`."""
    counts = {**dict(state.segments), modality: state.begun(modality) + 1}
    return state._replace(open=modality, length=0, segments=tuple(sorted(counts.items())), made=True)


class Automaton:
    """One reply under way: `legal()` says what may come next, `push` takes what came. Not shared between threads."""

    def __init__(self, rules: Rules, state: State, room: int) -> None:
        self._rules = rules
        self.state = state
        self.room = room
        self._fitting: tuple[tuple[Ranges, State, int], ...] = ()
        self._legal: Legal | None = None
        self._cut = False
        self._prepare()

    @property
    def ended(self) -> bool:
        """Whether the stop id was pushed."""
        return self.state.ended

    @property
    def finish(self) -> Finish:
        """Why the reply ended: "length" where nothing but its stop id still fitted, else "end"."""
        return "length" if self._cut else "end"

    def legal(self) -> Legal:
        """The ids that may come next: never empty before the end."""
        if self._legal is None:
            raise InputError("The reply has ended; begin another one.")
        return self._legal

    def meant(self, token: int) -> int:
        """The id that a drawn one stands for: a stop id drawn before the demanded medium came opens that medium."""
        if token in self._rules.grammar.vocabulary.stop_ids and not self._rules.met(self.state):
            to = self._rules.bounds.to
            if to is not None and to != Modality.TEXT:
                return self._rules.grammar.vocabulary.ranges[Modality(to)].opening
        return token

    def push(self, token: int) -> None:
        """Take the next id. Raises InputError for one that is not legal here."""
        if self.meant(token) != token:
            raise InputError(f"Id {token} can't end a reply that still owes its {self._rules.bounds.to}.")
        for ranges, state, _ in self._fitting:
            for start, stop in ranges:
                if start <= token < stop:
                    self.state = state
                    self.room -= 1
                    self._prepare()
                    return
        raise InputError(f"Id {token} can't come here; the grammar takes {self._legal}.")

    def _prepare(self) -> None:
        if self.state.ended:
            self._cut = self._cut and len(self._fitting) == 1
            self._fitting, self._legal = (), None
            return
        options = self._rules.options(self.state)
        self._cut = options.most >= self.room
        if not self._cut:
            self._fitting, self._legal = options.steps, options.legal
            return
        self._fitting = tuple(step for step in options.steps if step[2] < self.room)
        ranges = merged(pair for ranges, _, _ in self._fitting for pair in ranges)
        self._legal = interned(self.state.open or Modality.TEXT, ranges)
