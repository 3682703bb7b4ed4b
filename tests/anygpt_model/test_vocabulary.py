"""Ids come from the checkpoint's strings, text ids equal the slow legacy tokenizer's, typed text makes no marker."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from sentencepiece import SentencePieceProcessor

from anyloom.anygpt_model.dialogue import Piece, encode
from anyloom.anygpt_model.errors import CheckpointError, InputError
from anyloom.anygpt_model.grammar import render
from anyloom.anygpt_model.modalities import REGISTRY
from anyloom.anygpt_model.values import Modality, Part, Span
from anyloom.anygpt_model.vocabulary import Vocabulary

GOLDENS = Path(__file__).parents[1] / "goldens"
TINY = GOLDENS / "tiny_llama_tokenizer"
CASES = json.loads((GOLDENS / "tokenizer_cases.json").read_text())
VOCABULARY = Vocabulary.from_folder(TINY)
MODEL = SentencePieceProcessor(model_file=str(TINY / "tokenizer.model"))


def trusted_pieces(text: str) -> list[Piece]:
    """A golden's string as pieces: here, and only here, the strings of added tokens become ids."""
    names = sorted(json.loads((TINY / "added_tokens.json").read_text()), key=len, reverse=True)
    chunks = re.split("(" + "|".join(map(re.escape, names)) + ")", text)
    return [Piece((VOCABULARY.id(chunk),) if VOCABULARY.has(chunk) else chunk) for chunk in chunks if chunk]


def published_table() -> dict[str, int]:
    """The added tokens of the published chat checkpoint, by the order in which its ids were given out."""
    table = {"[Human]": 32000, "[MMGPT]": 32001, "<eoh>": 32002, "<eos>": 32003}
    for prefix, count, opening, closing in (
        ("\U0001f440", 8192, "<soim>", "<eoim>"),
        ("\U0001f5e3\ufe0f", 1024, "<sosp>", "<eosp>"),
        ("\U0001f3b6", 8192, "<somu>", "<eomu>"),
        ("\U0001f442", 4096, "<soau>", "<eoau>"),
    ):
        for name in [*(f"<{prefix}{number}>" for number in range(count)), opening, closing]:
            table[name] = 32000 + len(table)
    for name in ("<eom>", "[AnyGPT]", "<-Res->", "<-Ins->"):
        table[name] = 32000 + len(table)
    return table


class Pieces32k:
    """Stands in for LLaMA-2's SentencePiece model, of which only the size matters here."""

    def __len__(self) -> int:
        return 32000

    def __getattr__(self, name: str) -> object:
        fixed = {"unk_id": 0, "bos_id": 1, "eos_id": 2}
        if name in fixed:
            return lambda: fixed[name]
        if name == "id_to_piece":
            return lambda token: f"piece{token}"
        return lambda token: False


@pytest.mark.parametrize("case", CASES["cases"], ids=lambda case: repr(case["text"][:20]))
def test_ids_equal_the_slow_legacy_tokenizer(case: dict[str, object]) -> None:
    ids, _ = encode(trusted_pieces(str(case["text"])), VOCABULARY)
    assert ids == case["ids"]
    assert [VOCABULARY.string(token) for token in ids] == case["tokens"]


def test_ids_of_a_padded_batch_are_those_of_each_text() -> None:
    batch = CASES["batch"]
    for text, ids, mask in zip(batch["texts"], batch["input_ids"], batch["attention_mask"], strict=True):
        kept = [token for token, counts in zip(ids, mask, strict=True) if counts]
        assert encode(trusted_pieces(text), VOCABULARY)[0] == kept


def test_the_published_layout_gives_the_published_ids() -> None:
    vocabulary = Vocabulary(Pieces32k(), published_table())
    assert vocabulary.size == 53520
    found = {name: (r.start, r.cardinality, r.codebooks, r.opening, r.closing) for name, r in vocabulary.ranges.items()}
    assert found == {
        Modality.IMAGE: (32004, 8192, 1, 40196, 40197),
        Modality.SPEECH: (40198, 1024, 1, 41222, 41223),
        Modality.MUSIC: (41224, 2048, 4, 49416, 49417),
    }
    assert vocabulary.stop_ids == {2, 32003, 53516}
    assert (vocabulary.id("<-Res->"), vocabulary.id("<-Ins->")) == (53518, 53519)
    assert vocabulary.modality(49418) is None, "the abandoned audio tokens are reserved"


def test_the_base_checkpoint_lacks_the_chat_tokens() -> None:
    table = {name: number for name, number in published_table().items() if number < 53516}
    vocabulary = Vocabulary(Pieces32k(), table)
    assert vocabulary.stop_ids == {2, 32003}
    assert not vocabulary.has("<-Ins->")
    with pytest.raises(CheckpointError, match="no token <-Ins->"):
        vocabulary.id("<-Ins->")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda table: table.pop("<\U0001f4407>"),
        lambda table: table.update({"<\U0001f4407>": 32012, "<\U0001f4408>": 32011}),
        lambda table: table.pop("<eosp>"),
        lambda table: table.update({"<extra>": 60000}),
    ],
    ids=["a code missing", "two codes swapped", "a marker missing", "a gap at the end"],
)
def test_a_broken_table_is_refused_in_one_sentence(spoil: object) -> None:
    table = published_table()
    spoil(table)  # type: ignore[operator]
    with pytest.raises(CheckpointError) as caught:
        Vocabulary(Pieces32k(), table)
    assert str(caught.value).count(". ") == 0


def test_a_gap_inside_a_code_range_is_named_by_its_modality() -> None:
    table = {name: number for name, number in published_table().items() if name != "<\U0001f3b65>"}
    renumbered = {name: 32000 + place for place, name in enumerate(sorted(table, key=table.__getitem__))}
    with pytest.raises(CheckpointError, match="8191 music codes"):
        Vocabulary(Pieces32k(), renumbered)


@pytest.mark.parametrize("name", ["tokenizer.model", "added_tokens.json"])
def test_a_missing_or_broken_file_is_named(tmp_path: Path, name: str) -> None:
    for file in TINY.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / name).write_bytes(b"\x00 not a tokenizer")
    with pytest.raises(CheckpointError, match=name):
        Vocabulary.from_folder(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name} is missing"):
        Vocabulary.from_folder(tmp_path)


@pytest.mark.parametrize("spec", REGISTRY, ids=lambda spec: spec.modality.value)
def test_codes_survive_the_way_to_ids_and_back(spec: object) -> None:
    table = VOCABULARY.range(spec.modality)  # type: ignore[attr-defined]
    codes = np.random.default_rng(0).integers(0, table.cardinality, (table.codebooks, 7))
    span = VOCABULARY.to_span(table.modality, codes)
    assert np.array_equal(VOCABULARY.to_codes(span), codes)
    assert all(token in table.codebook(position) for position, token in enumerate(span.ids))


def test_music_is_frame_major_with_an_offset_a_codebook() -> None:
    codes = np.array([[0, 1], [0, 0], [1, 1], [0, 1]])
    span = VOCABULARY.to_span(Modality.MUSIC, codes)
    assert [VOCABULARY.string(token) for token in span.ids] == [f"<\U0001f3b6{n}>" for n in (0, 2, 5, 6, 1, 2, 5, 7)]


def test_music_is_written_as_the_original_writes_it() -> None:
    told = json.loads((GOLDENS / "encodec32_tiny.json").read_text())["text_of_codes"]
    codes = load_file(GOLDENS / "encodec32_tiny.safetensors")["out/codes"][0, 0].numpy()
    vocabulary = Vocabulary(Pieces32k(), published_table())
    span = vocabulary.to_span(Modality.MUSIC, codes)
    assert "".join(map(vocabulary.string, render([Part(Modality.MUSIC, span=span)], vocabulary))) == told


def test_wrong_codes_and_spans_are_refused() -> None:
    with pytest.raises(InputError, match=r"\[4, frames\]"):
        VOCABULARY.to_span(Modality.MUSIC, np.zeros((3, 5), dtype=np.int64))
    with pytest.raises(InputError, match="0 to 15"):
        VOCABULARY.to_span(Modality.IMAGE, np.array([[16]]))
    music = VOCABULARY.to_span(Modality.MUSIC, np.zeros((4, 2), dtype=np.int64))
    with pytest.raises(InputError, match="whole frames of 4"):
        VOCABULARY.to_codes(Span(Modality.MUSIC, music.ids[:-1]))
    with pytest.raises(InputError, match="in their order"):
        VOCABULARY.to_codes(Span(Modality.MUSIC, music.ids[1:] + music.ids[:1]))


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_typed_text_never_makes_an_added_token(text: str) -> None:
    typed = text + "<eoh>[Human]<soim><\U0001f4400></s><s>"
    assert set(VOCABULARY.encode(typed)) <= set(VOCABULARY.text_ids)


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(exclude_characters="\u2581\u0000", exclude_categories=["Cs"])))
def test_decode_reads_like_sentencepiece_and_streams_alike(text: str) -> None:
    ids = VOCABULARY.encode(text)
    stream = VOCABULARY.stream()
    assert VOCABULARY.decode(ids) == MODEL.decode(ids)
    assert "".join([*map(stream.feed, ids), stream.finish()]) == VOCABULARY.decode(ids)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(list(VOCABULARY.text_ids)), max_size=12))
def test_any_ids_stream_as_they_decode(ids: list[int]) -> None:
    stream = VOCABULARY.stream()
    assert "".join([*map(stream.feed, ids), stream.finish()]) == VOCABULARY.decode(ids)


def test_the_ids_of_a_text_are_the_callers_own() -> None:
    VOCABULARY.encode("a cat").clear()
    assert VOCABULARY.encode("a cat")


def test_a_stream_holds_back_half_a_character() -> None:
    stream = VOCABULARY.stream()
    pieces = [stream.feed(token) for token in VOCABULARY.encode("é!")]
    assert "".join(pieces) == "é!"
    assert "\ufffd" not in "".join(pieces)
    assert pieces.count("") >= 2, "the blank of the dummy prefix and the first byte of é show nothing"


def test_half_a_character_is_one_sentence() -> None:
    with pytest.raises(InputError, match=r"at character 2, which is no character; give it in UTF-8"):
        VOCABULARY.encode("a\ud800b")


def test_decode_refuses_markers() -> None:
    with pytest.raises(InputError, match="not a text id"):
        VOCABULARY.decode([VOCABULARY.id("<eos>")])
