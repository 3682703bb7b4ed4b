"""Legal by construction: whatever is drawn from the legal ids parses, and the bounds hold."""

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anyloom.anygpt_model.errors import ContextFull, InputError, UnknownName
from anyloom.anygpt_model.grammar import Reader, parse, render, segments
from anyloom.anygpt_model.legality import Automaton, Grammar
from anyloom.anygpt_model.modalities import spec
from anyloom.anygpt_model.values import Bounds, Modality, Part, Span
from anyloom.anygpt_model.vocabulary import Vocabulary

TOKENIZER = Path(__file__).parents[1] / "goldens" / "tiny_llama_tokenizer"
RATES = {Modality.SPEECH: 10.0, Modality.MUSIC: 4.0}
TEXT, IMAGE, SPEECH, MUSIC = Modality.TEXT, Modality.IMAGE, Modality.SPEECH, Modality.MUSIC


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary.from_folder(TOKENIZER)


@pytest.fixture(scope="module")
def grammar(vocabulary: Vocabulary) -> Grammar:
    return Grammar(vocabulary, RATES)


def draw(automaton: Automaton, rng: random.Random) -> list[int]:
    """Uniform among kinds of legal ids rather than among ids, so that rare ones come often."""
    ids = []
    while not automaton.ended:
        legal = automaton.legal()
        ranges = [*legal.slices, *((token, token + 1) for token in legal.singles)]
        start, stop = rng.choice(ranges)
        ids.append(automaton.meant(rng.randrange(start, stop)))
        automaton.push(ids[-1])
    return ids


def spoken(vocabulary: Vocabulary) -> tuple[int, ...]:
    table = vocabulary.range(SPEECH)
    return (1, table.opening, table.start, table.closing, 30)


@pytest.mark.slow
def test_ten_thousand_random_replies_parse_without_repair(grammar: Grammar, vocabulary: Vocabulary) -> None:
    rng = random.Random(5)
    seen = set()
    choices = [random_bounds(rng) for _ in range(40)]
    for _ in range(10_000):
        bounds = rng.choice(choices)
        to, allowed = bounds.to, bounds.modalities
        prompt = rng.choice([(1, 5, 9), spoken(vocabulary)])
        ids = draw(grammar.begin(prompt, bounds, 400), rng)
        parts = parse(ids, vocabulary)
        found = segments(ids, vocabulary)
        check(ids, found, bounds, allowed, vocabulary)
        seen |= {(part.modality, part.kind) for part in parts}
        seen.add(to is None or any(segment.modality == to for segment in found))
    assert seen == {True, (TEXT, "content"), (TEXT, "transcript"), (IMAGE, "content"), (SPEECH, "content"),
                    (MUSIC, "content")}  # fmt: skip


def random_bounds(rng: random.Random) -> Bounds:
    to = rng.choice([None, TEXT, IMAGE, SPEECH, MUSIC])
    allowed = frozenset(rng.sample(list(Modality), rng.randint(1, 4)))
    return Bounds(to, allowed, rng.randint(36, 60), rng.choice([0.1, 0.5, 5.0]), rng.randint(1, 3))


def check(
    ids: list[int], found: list[Any], bounds: Bounds, allowed: frozenset[Modality], vocabulary: Vocabulary
) -> None:
    assert len(ids) <= bounds.max_tokens
    assert ids[-1] in vocabulary.stop_ids
    wanted = {TEXT} if bounds.to == TEXT else allowed | {bounds.to}
    for segment in found:
        assert segment.closed
        assert segment.modality in wanted
        if segment.modality is IMAGE:
            assert len(segment.ids) == 32
        elif segment.modality is not TEXT:
            books = vocabulary.range(segment.modality).codebooks
            longest = max(int(bounds.max_seconds * RATES[segment.modality]), 1) * books
            assert 0 < len(segment.ids) <= longest
            assert len(segment.ids) % books == 0
            vocabulary.to_codes(Span(segment.modality, segment.ids))
    for modality in (IMAGE, SPEECH, MUSIC):
        assert sum(segment.modality == modality for segment in found) <= bounds.max_segments


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([None, *Modality]), st.integers(36, 120), st.integers(0, 60))
def test_the_end_always_fits(seed: int, to: Modality | None, tokens: int, room: int) -> None:
    grammar = Grammar(Vocabulary.from_folder(TOKENIZER), RATES)
    prompt = [5] * 300
    ids = draw(grammar.begin(prompt, Bounds(to, max_tokens=tokens), 336 + room), random.Random(seed))
    assert len(ids) <= min(tokens, 36 + room)


@settings(max_examples=200, deadline=None)
@given(
    st.integers(0, 2**32),
    st.sampled_from([None, *Modality]),
    st.frozensets(st.sampled_from(list(Modality)), min_size=1),
    st.integers(1, 40),
)
def test_bounds_however_tight_are_kept_or_refused(
    grammar: Grammar, seed: int, to: Modality | None, allowed: frozenset[Modality], tokens: int
) -> None:
    bounds = Bounds(to, allowed, max_tokens=tokens, max_seconds=0.1)
    prompt = spoken(grammar.vocabulary)
    try:
        automaton = grammar.begin(prompt, bounds, 400)
    except ContextFull:
        assert tokens < 35  # which a text, a picture or a frame of a sound fit into
        return
    ids = draw(automaton, random.Random(seed))
    assert 2 <= len(ids) <= tokens


def test_a_reply_that_may_hold_nothing_is_refused(grammar: Grammar) -> None:
    with pytest.raises(InputError, match="modalities none came"):
        grammar.begin((1,), Bounds(modalities=frozenset()), 400)


def test_an_image_is_32_codes_then_its_marker(grammar: Grammar, vocabulary: Vocabulary) -> None:
    table = vocabulary.range(IMAGE)
    automaton = grammar.begin((1,), Bounds(to=IMAGE), 400)
    automaton.push(table.opening)
    for _ in range(32):
        legal = automaton.legal()
        assert (legal.slices, legal.singles) == (((table.start, table.stop),), ())
        assert legal.modality is IMAGE
        automaton.push(table.start)
    assert automaton.legal().ids().tolist() == [table.closing]


def test_music_codebooks_follow_their_positions(grammar: Grammar, vocabulary: Vocabulary) -> None:
    table = vocabulary.range(MUSIC)
    automaton = grammar.begin((1, table.opening), Bounds(), 400)
    for position in range(9):
        codes = set(table.codebook(position))
        closes = {table.closing} if position and position % 4 == 0 else set()
        assert set(automaton.legal().ids().tolist()) == codes | closes
        automaton.push(table.codebook(position).start)


def test_speech_ends_by_its_marker_or_its_seconds(grammar: Grammar, vocabulary: Vocabulary) -> None:
    table = vocabulary.range(SPEECH)
    automaton = grammar.begin((1, table.opening), Bounds(max_seconds=0.5), 400)
    assert table.closing not in automaton.legal()
    for _ in range(5):
        automaton.push(table.start)
    assert automaton.legal().ids().tolist() == [table.closing]


def test_a_demand_holds_the_end_back(grammar: Grammar, vocabulary: Vocabulary) -> None:
    automaton = grammar.begin((1,), Bounds(to=SPEECH), 400)
    opening = vocabulary.range(SPEECH).opening
    automaton.push(30)
    for stop in vocabulary.stop_ids:
        assert automaton.meant(stop) == opening
        with pytest.raises(InputError, match="still owes its speech"):
            automaton.push(stop)
    for _ in range(127):
        automaton.push(30)
    assert 30 not in automaton.legal()
    for token in (opening, vocabulary.range(SPEECH).start, vocabulary.range(SPEECH).closing):
        automaton.push(token)
    for stop in vocabulary.stop_ids:
        assert stop in automaton.legal()
        assert automaton.meant(stop) == stop


def test_text_only_means_text_only(grammar: Grammar, vocabulary: Vocabulary) -> None:
    legal = grammar.begin((1,), Bounds(to=TEXT), 400).legal()
    assert set(legal.ids().tolist()) == set(vocabulary.text_ids)


def test_a_segment_that_cannot_fit_is_not_opened(grammar: Grammar, vocabulary: Vocabulary) -> None:
    opening = vocabulary.range(IMAGE).opening
    assert opening in grammar.begin((1,), Bounds(max_tokens=35), 400).legal()
    assert opening not in grammar.begin((1,), Bounds(max_tokens=34), 400).legal()


def test_a_transcript_comes_before_the_reply_and_only_of_speech(grammar: Grammar, vocabulary: Vocabulary) -> None:
    ins, res = vocabulary.id("<-Ins->"), vocabulary.id("<-Res->")
    assert ins not in grammar.begin((1, 5), Bounds(), 400).legal()
    automaton = grammar.begin(spoken(vocabulary), Bounds(), 400)
    automaton.push(ins)
    assert not any(stop in automaton.legal() for stop in vocabulary.stop_ids)
    assert vocabulary.range(IMAGE).opening not in automaton.legal()
    for token in (30, res, 31, vocabulary.id("<eos>")):
        automaton.push(token)
    assert automaton.ended
    assert automaton.finish == "end"


def test_finish_says_length_where_only_the_stop_fitted(grammar: Grammar, vocabulary: Vocabulary) -> None:
    automaton = grammar.begin((1,), Bounds(to=TEXT, max_tokens=4), 400)
    for _ in range(3):
        automaton.push(30)
    assert set(automaton.legal().ids().tolist()) == vocabulary.stop_ids
    automaton.push(vocabulary.eos)
    assert automaton.finish == "length"


def test_what_cannot_be_served_is_said(grammar: Grammar) -> None:
    with pytest.raises(ContextFull, match="smallest reply needs 35"):
        grammar.begin([5] * 380, Bounds(to=IMAGE), 400)
    with pytest.raises(InputError, match="can't come here"):
        grammar.begin((1,), Bounds(), 400).push(0)


def test_a_checkpoint_without_a_modality_refuses_it(vocabulary: Vocabulary) -> None:
    class Silent:
        text_ids, stop_ids, ranges = vocabulary.text_ids, vocabulary.stop_ids, {IMAGE: vocabulary.range(IMAGE)}
        has, id, modality = vocabulary.has, vocabulary.id, vocabulary.modality

    with pytest.raises(UnknownName, match="can't make speech; ask for one of text, image"):
        Grammar(Silent(), {}).begin((1,), Bounds(to=SPEECH), 400)  # type: ignore[arg-type]


def test_parts_and_ids_go_both_ways(vocabulary: Vocabulary) -> None:
    image = Part(IMAGE, span=Span(IMAGE, tuple(range(vocabulary.range(IMAGE).start, vocabulary.range(IMAGE).stop)) * 2))
    speech = Part(SPEECH, span=Span(SPEECH, (vocabulary.range(SPEECH).start,) * 3))
    parts = [Part(TEXT, text="tell me", kind="transcript"), Part(TEXT, text="here"), image, speech]
    ids = [*render(parts, vocabulary), vocabulary.id("<eos>")]
    back = parse(ids, vocabulary)
    assert [(part.modality, part.text, part.kind) for part in back] == [
        (TEXT, "tell me", "transcript"), (TEXT, "here", "content"), (IMAGE, None, "content"),
        (SPEECH, None, "content")]  # fmt: skip
    assert back[2].span == image.span
    assert all(part.generated for part in back)
    assert render(back, vocabulary) == ids[:-1]


@pytest.mark.parametrize("said", [1, 2, 40])
def test_a_reply_of_text_alone_is_one_segment_as_if_read_id_by_id(vocabulary: Vocabulary, said: int) -> None:
    random.seed(said)
    ids = [*random.choices(range(vocabulary.eos + 1, vocabulary.text_size), k=said), min(vocabulary.stop_ids)]
    reader = Reader(vocabulary)
    one_by_one = [segment for token in ids if (segment := reader.push(token)) is not None]
    assert segments(ids, vocabulary) == one_by_one
    assert [segment.ids for segment in one_by_one] == [tuple(ids[:-1])]


def test_segments_come_out_as_soon_as_they_are_whole(vocabulary: Vocabulary) -> None:
    table = vocabulary.range(SPEECH)
    reader = Reader(vocabulary)
    assert reader.push(30) is None
    text = reader.push(table.opening)
    assert text is not None
    assert text.ids == (30,)
    assert reader.push(table.start) is None
    speech = reader.push(table.closing)
    assert speech is not None
    assert (speech.modality, speech.ids) == (SPEECH, (table.start,))


@pytest.mark.parametrize(("ids", "place"), [((440, 424, 441), 2), ((30, 442), 1), ((460, 454), 1), ((465, 423), 1)])
def test_foreign_ids_are_named_with_their_position(vocabulary: Vocabulary, ids: tuple[int, ...], place: int) -> None:
    with pytest.raises(InputError, match=f"at position {place}"):
        parse(ids, vocabulary)


def test_a_cut_off_reply_keeps_what_is_whole(vocabulary: Vocabulary) -> None:
    table = vocabulary.range(MUSIC)
    ids = (30, table.opening, *(table.codebook(n).start for n in range(6)))
    assert [part.modality for part in parse(ids, vocabulary)] == [TEXT]
    assert not segments(ids, vocabulary)[-1].closed


def test_images_have_the_codes_the_registry_says() -> None:
    assert spec(IMAGE).fixed_codes == 32
