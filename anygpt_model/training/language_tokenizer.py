"""Trains the pocket's SentencePiece model and writes the tokenizer files in the published layout.

The model and flags are LLaMA's: byte-pair merges with byte fallback, single digits, no normalisation, a dummy prefix.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from ..modalities import REGISTRY
from ..values import Modality
from ..vocabulary import (
    ANYGPT,
    END_OF_HUMAN,
    END_OF_MESSAGE,
    END_OF_REPLY,
    HUMAN,
    INSTRUCTION,
    MMGPT,
    RESPONSE,
)

PIECES = 4000
SPECIALS = ("<unk>", "<s>", "</s>")

FILES = ("tokenizer.model", "added_tokens.json", "special_tokens_map.json", "tokenizer_config.json")
"""What `write_tokenizer` writes."""


def train_pieces(lines: Iterable[str], pieces: int = PIECES) -> bytes:
    """A serialised SentencePiece model of at most `pieces` pieces, bytes included."""
    from sentencepiece import SentencePieceTrainer

    written = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=written,
        model_type="bpe",
        vocab_size=pieces,
        hard_vocab_limit=False,
        byte_fallback=True,
        character_coverage=0.9999,
        split_digits=True,
        normalization_rule_name="identity",
        add_dummy_prefix=True,
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    return written.getvalue()


def added_tokens(text_size: int, codes: Mapping[Modality, int]) -> dict[str, int]:
    """Token string -> id after `text_size` pieces, in the order of the published chat checkpoint.

    codes: how many code tokens each modality has (music: cardinality times codebooks).
    """
    names = [HUMAN, MMGPT, END_OF_HUMAN, END_OF_REPLY]
    for spec in REGISTRY:
        names += [spec.code_token(number) for number in range(codes[spec.modality])]
        names += [spec.opening, spec.closing]
    names += [END_OF_MESSAGE, ANYGPT, RESPONSE, INSTRUCTION]
    return {name: text_size + place for place, name in enumerate(names)}


def write_tokenizer(folder: Path, model: bytes, codes: Mapping[Modality, int]) -> None:
    """Write tokenizer.model, added_tokens.json, special_tokens_map.json and tokenizer_config.json into `folder`."""
    from sentencepiece import SentencePieceProcessor

    folder.mkdir(parents=True, exist_ok=True)
    added = added_tokens(len(SentencePieceProcessor(model_proto=model)), codes)
    (folder / "tokenizer.model").write_bytes(model)
    _write(folder / "added_tokens.json", added)
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<unk>"}
    _write(folder / "special_tokens_map.json", special)
    described = {str(number): _described(name, special=True) for number, name in enumerate(SPECIALS)}
    described |= {str(number): _described(name, special=False) for name, number in added.items()}
    settings = {
        "add_bos_token": True,
        "add_eos_token": False,
        "added_tokens_decoder": described,
        "clean_up_tokenization_spaces": False,
        "legacy": True,
        "padding_side": "left",
        "tokenizer_class": "LlamaTokenizer",
        "use_fast": False,
    }
    _write(folder / "tokenizer_config.json", settings | special)


def _described(name: str, *, special: bool) -> dict[str, str | bool]:
    flags = {"lstrip": False, "normalized": not special, "rstrip": False, "single_word": False, "special": special}
    return {"content": name, **flags}


def _write(path: Path, document: Mapping[str, object]) -> None:
    path.write_text(json.dumps(document, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
