"""Words of conversations: FTS5 on SQLite, a tsvector with a GIN index on PostgreSQL, with equal answers.

Text is folded here (NFKC, case, CJK signs one by one), so that neither database's own idea of a word matters. A query
finds the turns that hold every one of its words, each as the beginning of a word.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from itertools import groupby

from sqlalchemy import Connection, bindparam, select, text

from .columns import AnyText
from .tables import PartRow

LONGEST = 100_000
"""Characters of a turn that are searchable; PostgreSQL takes at most a megabyte of distinct words."""
SIGN = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
# Made once, as every turn needs them (rows.py says why).
NEW_ROW = text("INSERT INTO search (rowid, words) VALUES (:turn, :words)")
NEW_VECTOR = text("INSERT INTO search (turn, words) VALUES (:turn, array_to_tsvector(:words))")
WORD = re.compile(f"[{SIGN}]|[^\\W_{SIGN}]+")


def words(passage: str) -> list[str]:
    """The folded words of `passage`, in order."""
    return WORD.findall(unicodedata.normalize("NFKC", passage[:LONGEST]).casefold())


def create_index(connection: Connection) -> None:
    """Make the empty index."""
    if connection.dialect.name == "sqlite":
        connection.execute(
            text("CREATE VIRTUAL TABLE search USING fts5(words, tokenize='unicode61 remove_diacritics 0')")
        )
        return
    connection.execute(text("CREATE TABLE search (turn BIGINT PRIMARY KEY, words TSVECTOR NOT NULL)"))
    connection.execute(text("CREATE INDEX ix_search_words ON search USING gin (words)"))


def reindex(connection: Connection) -> None:
    """Fill the index anew from the texts of all parts."""
    connection.execute(text("DELETE FROM search"))
    rows = connection.execute(
        select(PartRow.turn, PartRow.text).where(PartRow.text.is_not(None)).order_by(PartRow.turn)
    )
    turns = groupby(rows.all(), key=lambda row: int(row[0]))
    index(connection, [(turn, [row[1] or "" for row in some]) for turn, some in turns])


def index(connection: Connection, turns: Iterable[tuple[int, Iterable[str]]]) -> None:
    """Add the words of turns: (number, passages)."""
    found = [(turn, folded) for turn, passages in turns if (folded := words("\n".join(passages)))]
    if not found:
        return
    if connection.dialect.name == "sqlite":
        connection.execute(NEW_ROW, [{"turn": turn, "words": " ".join(folded)} for turn, folded in found])
        return
    connection.execute(NEW_VECTOR, [{"turn": turn, "words": sorted(set(folded))} for turn, folded in found])


def forget(connection: Connection, turns: Iterable[int]) -> None:
    """Take turns out of the index."""
    column = "rowid" if connection.dialect.name == "sqlite" else "turn"
    statement = text(f"DELETE FROM search WHERE {column} = :turn")
    for turn in turns:
        connection.execute(statement, {"turn": turn})


def scrub(connection: Connection) -> None:
    """Merge SQLite's index into one piece: only then are the words of forgotten turns gone from the file."""
    if connection.dialect.name == "sqlite":
        connection.execute(text("INSERT INTO search (search) VALUES ('optimize')"))


def matching(connection: Connection, query: str, conversation: str | None, limit: int, before: int) -> list[int]:
    """Numbers of the turns that hold all words of `query`, newest first: at most `limit`, each smaller than `before`.

    conversation: only turns of that one.
    """
    found = words(query)
    if not found:
        return []
    if connection.dialect.name == "sqlite":
        number, test = "rowid", "search MATCH :sought"
        sought = " AND ".join(f'"{word}"*' for word in found)
    else:
        number, test = "turn", "words @@ CAST(:sought AS tsquery)"
        sought = " & ".join(f"'{word}':*" for word in found)
    within = f"AND {number} IN (SELECT number FROM turns WHERE conversation = :conversation)" if conversation else ""
    statement = text(
        f"SELECT {number} FROM search WHERE {test} AND {number} < :before {within} ORDER BY {number} DESC LIMIT :limit"
    ).bindparams(sought=sought, before=before, limit=limit)
    if conversation:
        statement = statement.bindparams(bindparam("conversation", conversation, AnyText))
    return [int(row[0]) for row in connection.execute(statement)]
