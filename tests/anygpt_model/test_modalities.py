"""The registry agrees with the published layout of AnyGPT."""

import pytest

from anyloom.anygpt_model.errors import UnknownName
from anyloom.anygpt_model.modalities import REGISTRY, TEXT, spec
from anyloom.anygpt_model.values import Modality


def test_order_is_that_of_the_published_vocabulary() -> None:
    assert [entry.modality for entry in REGISTRY] == [Modality.IMAGE, Modality.SPEECH, Modality.MUSIC]


def test_every_modality_has_an_entry() -> None:
    assert {spec(modality).modality for modality in Modality} == set(Modality)
    assert spec(Modality.TEXT) is TEXT


@pytest.mark.parametrize(
    ("modality", "opening", "closing", "code"),
    [
        ("image", "<soim>", "<eoim>", "<\N{EYES}7>"),
        ("speech", "<sosp>", "<eosp>", "<\N{SPEAKING HEAD IN SILHOUETTE}\N{VARIATION SELECTOR-16}7>"),
        ("music", "<somu>", "<eomu>", "<\N{MULTIPLE MUSICAL NOTES}7>"),
    ],
)
def test_token_strings(modality: str, opening: str, closing: str, code: str) -> None:
    entry = spec(modality)
    assert (entry.opening, entry.closing, entry.code_token(7)) == (opening, closing, code)


def test_published_sampling() -> None:
    assert spec("music").sampling.top_k == 200
    assert spec("music").sampling.repetition_penalty == 1.15
    assert spec("speech").sampling.repetition_penalty == 1.05
    assert spec("image").fixed_codes == 32


def test_unknown_modality_names_the_known_ones() -> None:
    with pytest.raises(UnknownName, match=r"'video'.*text, image, speech, music"):
        spec("video")
