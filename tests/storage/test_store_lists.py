"""Pages, search and forks, the same on both databases."""

from __future__ import annotations

import pytest
from store_samples import make_turn, medium

from anyloom.anygpt_model.errors import UnknownName
from anyloom.anygpt_model.values import Modality, Part
from anyloom.storage.search import words
from anyloom.storage.store import Store


def test_pages_of_turns_go_back_to_the_first(store: Store) -> None:
    turns = [store.record(make_turn(f"turn {n}")) for n in range(7)]
    pages, before = [], None
    while page := store.turns(limit=3, before=before):
        pages.append([summary.id for summary in page])
        before = page[-1].number
    assert [len(page) for page in pages] == [3, 3, 1]
    assert [id for page in pages for id in page] == [turn.id for turn in reversed(turns)]


def test_a_summary_says_what_the_turn_was(store: Store) -> None:
    asked, made = store.put(b"asked", medium(b"asked")), store.put(b"made", medium(b"made"))
    turn = store.record(make_turn("draw " + "very " * 50 + "small", asked=asked, made=made, tokens=17))
    (summary,) = store.turns()
    assert summary.asked == turn.request[0].text[:120]
    assert summary.answered == "here you are"
    assert summary.modalities_in == (Modality.TEXT, Modality.SPEECH)
    assert summary.modalities_out == (Modality.TEXT, Modality.IMAGE)
    assert (summary.tokens, summary.prompt_tokens, summary.finish) == (17, 11, "end")
    assert summary.seed == turn.generation.seed


def test_conversations_by_last_use(store: Store) -> None:
    for day, name in enumerate(("old", "middle", "new", "old")):
        store.record(make_turn(f"{name} {day}", conversation=name, created=f"2026-11-2{day}T10:00:00+00:00"))
    first = store.conversations(limit=2)
    assert [(one.id, one.turns, one.opening) for one in first] == [("old", 2, "old 0"), ("new", 1, "new 2")]
    assert [one.id for one in store.conversations(limit=2, before="new")] == ["middle"]
    tip = store.tip("old")
    assert tip is not None
    assert first[0].tip == tip.id
    assert [one.asked for one in store.turns("old")] == ["old 3", "old 0"]
    with pytest.raises(UnknownName, match="no conversation"):
        store.conversations(before="never")


def test_children_show_the_fork(store: Store) -> None:
    first = store.record(make_turn("one"))
    second = store.record(make_turn("two", parent=first))
    fork = store.record(make_turn("fork", parent=first, conversation="thread-2"))
    assert [one.id for one in store.children(first.id)] == [second.id, fork.id]
    assert store.children(fork.id) == []


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("apple", ["Two red APPLES on a café table"]),
        ("red table", ["Two red APPLES on a café table"]),
        ("CAFÉ", ["Two red APPLES on a café table"]),
        ("pear red", []),
        ("snake_case", ["a snake_case name"]),
        ("\u8d64\u3044", ["\u8d64\u3044\u308a\u3093\u3054\u3092\u63cf\u3044\u3066"]),
        ("1e5 drop", ["'); DROP TABLE turns; -- 1e5"]),
        ("here", 4),
        ("  -- ", []),
        ("", []),
    ],
)
def test_search_finds_all_words_by_their_beginning(store: Store, query: str, found: list[str] | int) -> None:
    passages = [
        "Two red APPLES on a café table",
        "a snake_case name",
        "\u8d64\u3044\u308a\u3093\u3054\u3092\u63cf\u3044\u3066",
        "'); DROP TABLE turns; -- 1e5",
    ]
    for passage in passages:
        store.record(make_turn(passage))
    answers = store.search(query)
    assert (len(answers) if isinstance(found, int) else [one.asked for one in answers]) == found


def test_search_within_a_conversation_and_by_pages(store: Store) -> None:
    turns = [store.record(make_turn(f"apple {n}", conversation=f"c{n % 2}")) for n in range(6)]
    assert [one.id for one in store.search("apple", "c1")] == [turns[n].id for n in (5, 3, 1)]
    first = store.search("apple", limit=4)
    assert [one.id for one in store.search("apple", limit=4, before=first[-1].number)] == [turns[1].id, turns[0].id]


def test_a_very_long_text_is_kept_whole_and_searchable_at_its_beginning(store: Store) -> None:
    passage = "needle " + " ".join(str(n) for n in range(300_000))
    turn = store.record(make_turn(request=(Part(Modality.TEXT, text=passage),)))
    assert store.turn(turn.id).request[0].text == passage
    assert [one.id for one in store.search("needle")] == [turn.id]


def test_words_are_folded() -> None:
    assert words("Straße — ﬁne, x_1!") == ["strasse", "fine", "x", "1"]
