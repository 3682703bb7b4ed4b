"""The language model's recipe: its network is transformers' Llama, its chats hold nothing held out, it resumes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from anyloom.anygpt_model.grammar import parse
from anyloom.anygpt_model.training import language_texts as texts
from anyloom.anygpt_model.training.image_teacher import GROUND, LOOKS, TELLING, first_of_kind
from anyloom.anygpt_model.training.language_choices import Choices
from anyloom.anygpt_model.training.language_data import (
    SHARES,
    TO_CHANGE,
    TO_COMPOSE,
    TO_DRAW,
    TO_HEAR,
    TO_NAME,
    TO_TELL,
    Chats,
    Exchange,
)
from anyloom.anygpt_model.training.language_media import noisy
from anyloom.anygpt_model.training.language_network import Shape, TrainingLlama
from anyloom.anygpt_model.training.language_tokenizer import added_tokens, train_pieces, write_tokenizer
from anyloom.anygpt_model.training.language_trainer import LanguageTrainer, Plan, batched, rate, replace_folder
from anyloom.anygpt_model.training.muon import Muon, orthogonal
from anyloom.anygpt_model.training.sentences import utterances
from anyloom.anygpt_model.training.speech_data import MORE
from anyloom.anygpt_model.values import Modality
from anyloom.anygpt_model.vocabulary import Vocabulary

CODES = {Modality.IMAGE: 1024, Modality.SPEECH: 32, Modality.MUSIC: 4 * 16}
SPLITS = ("train", "test")
PICTURED = {TO_DRAW, TO_NAME, TO_CHANGE, TO_COMPOSE, TO_TELL}
BESIDE = "Here are two red cats."


def picture(concept: str, style: str, split: str) -> dict[str, object]:
    phrase = f"a {concept}"
    said = [phrase, f"a {style} picture of {phrase}"]
    kind = {"group": "food-drink", "subgroup": "food-fruit", "tags": ["round", "sweet"], "label": concept}
    return {"concept": concept, "style": style, "phrase": phrase, "captions": said, "split": split, **kind}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work folder as the codecs' trainers leave it. Codes tell the split: even in training, odd if held out."""
    root = tmp_path_factory.mktemp("work")
    things = {"aball": "train", "bball": "train", "red apple": "train", "qball": "pair"}
    pictures = [picture(thing, s, split) for thing, split in things.items() for s in ("flat", "3D")]
    tunes = [
        {"captions": ["a jig", f"a {pace} jig"], "instrument": who, "tempo": pace, "type": "jig", "split": split}
        for who, pace in (("flute", "slow"), ("accordion", "moderate"))
        for split in SPLITS
    ]
    speech = [{"text": u.text, "voice": "slt", "speed": 1.0, "split": u.split, "group": u.group} for u in utterances()]
    speech += [{"text": BESIDE, "voice": "slt", "speed": 1.0, "split": "train", "group": MORE}]
    rng = np.random.default_rng(0)
    for modality, rows, shape in (("image", pictures, (32,)), ("music", tunes, (4, 20)), ("speech", speech, (12,))):
        folder = root / modality
        folder.mkdir()
        odd = np.array([row["split"] != "train" for row in rows], int).reshape(-1, *[1] * len(shape))
        codes = 2 * rng.integers(0, 8, (len(rows), *shape)) + odd
        arrays = {"codes": codes}
        if modality == "speech":
            arrays = {"codes": codes.reshape(1, -1), "lengths": np.full(len(rows), 12)}
        np.savez(folder / "tokens.npz", **arrays)
        (folder / "tokens.json").write_text(json.dumps(rows))
        (folder / ("clips.json" if modality == "music" else "images.json")).write_text(json.dumps(rows))
    lines = list(texts.corpus(pictures, tunes))
    write_tokenizer(root / "language" / "tokenizer", train_pieces(lines, 700), CODES)
    return root


@pytest.fixture
def chats(work: Path) -> Chats:
    return Chats(work, Vocabulary.from_folder(work / "language" / "tokenizer"), seed=1)


@pytest.mark.slow
def test_the_network_computes_what_transformers_computes() -> None:
    from transformers import LlamaForCausalLM

    shape = Shape(200, 64, 96, 3, 4)
    ours = TrainingLlama(shape, dtype=torch.float32)
    for parameter in ours.parameters():
        if parameter.ndim == 1:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    theirs = LlamaForCausalLM(shape.config())
    assert theirs.load_state_dict(ours.state_dict(), strict=False).missing_keys == ["lm_head.weight"]
    ids = torch.randint(0, 200, (2, 17))
    targets = torch.full_like(ids, -1)
    targets[:, 3:-1] = ids[:, 4:]
    logits = theirs(ids).logits[:, 3:-1].flatten(0, 1)
    expected = torch.nn.functional.cross_entropy(logits, ids[:, 4:].flatten(), reduction="none")
    torch.testing.assert_close(ours.losses(ids, targets), expected, atol=2e-5, rtol=1e-5)


def test_added_tokens_stand_in_the_published_order() -> None:
    names = list(added_tokens(32000, {Modality.IMAGE: 8192, Modality.SPEECH: 1024, Modality.MUSIC: 8192}).items())
    assert names[:4] == [("[Human]", 32000), ("[MMGPT]", 32001), ("<eoh>", 32002), ("<eos>", 32003)]
    assert dict(names)["<soim>"] == 40196
    assert dict(names)["<eomu>"] == 49417
    assert [name for name, _ in names[-4:]] == ["<eom>", "[AnyGPT]", "<-Res->", "<-Ins->"]


def test_the_tokenizer_has_llamas_settings(chats: Chats) -> None:
    vocabulary = chats.vocabulary
    assert [vocabulary.string(token) for token in (0, 1, 2, 3)] == ["<unk>", "<s>", "</s>", "<0x00>"]
    assert vocabulary.decode(vocabulary.encode(" two  blanks, 123 ≠ é")) == " two  blanks, 123 ≠ é"
    digits = [sum(map(str.isdigit, vocabulary.decode([token]))) for token in vocabulary.encode("98765")]
    assert max(digits) == 1


def replies(chats: Chats, count: int) -> Iterator[tuple[str, list[int]]]:
    for example in chats.draw(count):
        yield example.direction, [int(t) for t, counted in zip(example.ids, example.counted, strict=True) if counted]


def test_every_direction_is_drawn_and_every_reply_is_legal(chats: Chats) -> None:
    drawn = set()
    stop = chats.vocabulary.id("<eos>")
    for direction, learned in replies(chats, 2500):
        drawn.add(direction)
        while stop in learned:
            cut = learned.index(stop) + 1
            assert parse(learned[:cut], chats.vocabulary)
            learned = learned[cut:]
        assert direction in ("text->music", "text->image", TO_DRAW, TO_CHANGE, TO_COMPOSE) or not learned, (
            "only codes may be cut short"
        )
    assert drawn == set(SHARES)


def test_nothing_held_out_is_learned_or_shown(chats: Chats) -> None:
    vocabulary = chats.vocabulary
    of_scenes = range(first_of_kind(GROUND), first_of_kind(LOOKS[0]))
    for example in chats.draw(400):
        for modality, table in vocabulary.ranges.items():
            codes = [int(token) - table.start for token in example.ids if int(token) in table]
            codes = [code for code in codes if modality != Modality.IMAGE or code not in of_scenes]
            assert all(code % 2 == 0 for code in codes), f"a held-out {modality} code is in {example.direction}"
    for direction, examples in chats.held_out(5).items():
        assert examples, direction


def test_a_spoken_question_is_answered_as_a_chain(chats: Chats) -> None:
    (example,) = chats.held_out(1)["speech->speech"]
    learned = [int(t) for t, counted in zip(example.ids, example.counted, strict=True) if counted]
    parts = parse(learned, chats.vocabulary)
    assert [(part.kind, part.modality.value) for part in parts] == [
        ("transcript", "text"),
        ("content", "text"),
        ("content", "speech"),
    ]


def test_lessons_are_short_and_hold_what_tells(chats: Chats) -> None:
    table = chats.vocabulary.range(Modality.IMAGE)
    lessons = (TO_DRAW, TO_NAME, TO_CHANGE, TO_TELL, TO_HEAR)
    drawn, named, changed, told, heard = (chats._lesson(lesson) for lesson in lessons)
    assert drawn.counted.sum() == 2 + TELLING
    assert changed.counted.sum() == 2 * (2 + TELLING), "the first picture's early end is not learned"
    assert {drawn.ids[-1] in table, changed.ids[-1] in table} == {True}
    for lesson, pictures in ((drawn, 1), (named, 1), (changed, 2), (told, 1), (heard, 0)):
        assert sum(int(token) in table for token in lesson.ids) == pictures * TELLING
        assert lesson.ids[0] == chats.vocabulary.id("[Human]")
    composed = [chats._lesson(TO_COMPOSE) for _ in range(20)]
    assert {sum(int(token) in table for token in lesson.ids) for lesson in composed} == {TELLING, 2 * TELLING}
    assert all(lesson.ids[-1] in table for lesson in composed)
    for lesson in (named, told, heard):
        assert lesson.ids[-1] == chats.vocabulary.id("<eos>")
        assert lesson.counted[-1]


def test_what_is_read_beside_is_spoken_and_never_listened_to(chats: Chats) -> None:
    spoken, heard = (
        [part.text or "" for _ in range(100) for each in chats._exchanges(direction) for part in getattr(each, side)]
        for direction, side in (("text->speech", "request"), ("speech->text", "reply"))
    )
    assert any(BESIDE in text for text in spoken)
    assert not any(BESIDE in text for text in heard)


def test_a_style_is_changed_and_the_thing_stays(chats: Chats) -> None:
    for _ in range(20):
        first, second = (exchange.reply[0].span for exchange in chats._taught(TO_CHANGE))
        drawn = [
            row["concept"]
            for span in (first, second)
            for row, codes in chats.media[Modality.IMAGE].train
            if chats.vocabulary.to_span(Modality.IMAGE, codes) == span
        ]
        assert len(set(drawn)) == 1
        assert first != second


def test_mixed_requests_say_what_they_heard_and_show_what_was_asked_for(chats: Chats) -> None:
    kinds = {}
    for _ in range(200):
        request, reply = chats._mixed.draw()
        asked = tuple(part.modality.value for part in request)
        kinds[asked] = kinds.get(asked, set()) | {tuple(part.modality.value for part in reply)}
        heard = [part.text for part in reply if part.kind == "transcript"]
        assert len(heard) == asked.count("speech")
        if asked == ("image", "speech"):
            assert "apple" in heard[0]
    assert kinds == {
        ("image", "speech"): {("text", "text", "speech")},
        ("image", "text"): {("text", "music")},
        ("speech",): {("text", "image"), ("text", "text", "music")},
    }


def test_new_codes_are_taken_in(work: Path, tmp_path: Path) -> None:
    (tmp_path / "image").mkdir()
    vocabulary = Vocabulary.from_folder(work / "language" / "tokenizer")
    chats = Chats(tmp_path, vocabulary, seed=0)
    assert chats.directions == ["text->text"]
    for name in ("images.json", "tokens.npz", "tokens.json"):
        (tmp_path / "image" / name).write_bytes((work / "image" / name).read_bytes())
    assert chats.refresh()
    assert set(chats.directions) == {"text->image", "image->text", "text->text", *PICTURED}
    assert not chats.refresh()


def test_noise_stays_within_its_codebook(chats: Chats) -> None:
    vocabulary = chats.vocabulary
    (example,) = chats.held_out(1)["music->text"]
    ids = example.ids.astype(np.int64)[None]
    noised = noisy(ids, vocabulary, 1.0, np.random.default_rng(0))
    table = vocabulary.range(Modality.MUSIC)
    media = (ids >= table.start) & (ids < table.stop)
    assert np.array_equal(noised[~media], ids[~media])
    assert (noised[media] != ids[media]).mean() > 0.5
    assert np.array_equal((noised[media] - table.start) // 16, (ids[media] - table.start) // 16)


def test_batches_waste_little_and_keep_all(chats: Chats) -> None:
    examples = list(chats.draw(600))
    batches = list(batched(examples, 2048))
    assert sum(map(len, batches)) == 600
    padded = sum(len(batch) * max(len(example.ids) for example in batch) for batch in batches)
    assert padded < 1.15 * sum(len(example.ids) for example in examples)


def test_the_rate_warms_up_and_decays() -> None:
    plan = Plan(warm_up=10)
    assert rate(0.0, 0, plan) == pytest.approx(0.1)
    assert rate(0.2, 50, plan) == 1.0
    assert rate(1.0, 50, plan) == pytest.approx(plan.last_share)


@pytest.mark.slow
def test_training_learns_resumes_and_writes_a_model_that_opens(work: Path) -> None:
    from transformers import LlamaForCausalLM

    plan = Plan(hidden=64, layers=2, batch_ids=1024, warm_up=3, judged=2)
    first = LanguageTrainer(work, seed=0, plan=plan)
    before = first.judge()
    first.fit(0.08)
    assert first.step > 0
    again = LanguageTrainer(work, seed=0, plan=plan)
    assert again.step == first.step
    assert sum(again.judge().values()) < sum(before.values())
    folder = work / "language" / "llm"
    model = LlamaForCausalLM.from_pretrained(folder)
    assert model.config.vocab_size == Vocabulary.from_folder(folder).size
    kept = first.network.state_dict()["model.embed_tokens.weight"]
    torch.testing.assert_close(model.lm_head.weight.float(), kept, atol=1e-3, rtol=1e-3)


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    for name, content in (("old", "1"), ("new", "2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(content)
    replace_folder(tmp_path / "new", tmp_path / "old")
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert (tmp_path / "old" / "file").read_text() == "2"


def test_phrasings_begin_with_a_fixed_question() -> None:
    """The first phrasing is what evaluation asks: changing it makes published numbers incomparable."""
    firsts = {f"{a.value}->{b.value}": phrasings[0] for (a, b), phrasings in texts.PHRASINGS.items()}
    assert firsts == {
        "text->image": "draw {x}",
        "image->text": "Please provide an accurate and concisedescription of the given image.",
        "text->speech": "say: {x}",
        "speech->text": "transcribe",
        "text->music": "play {x}",
        "music->text": "What do you hear?",
    }


def test_an_exchange_may_be_cut(chats: Chats) -> None:
    whole = chats._play(*chats.media[Modality.MUSIC].train[0], 0, 0)
    cut = Exchange(whole.request, whole.reply, whole.direction, longest=60)
    assert chats.example([cut]).counted.sum() == 60
    assert chats.example([whole]).counted.sum() > 60


def test_losses_compare_the_ids_that_compete(chats: Chats) -> None:
    vocabulary = chats.vocabulary
    choices = Choices(vocabulary)
    assert sorted(np.concatenate(choices.groups).tolist()) == list(range(vocabulary.size))
    torch.manual_seed(0)
    network = TrainingLlama(Shape(vocabulary.size, 64, 176, 1, 1)).eval()
    speech, music = vocabulary.range(Modality.SPEECH), vocabulary.range(Modality.MUSIC)
    ids = torch.tensor([[1, 5, 9, speech.start, speech.start + 3]])
    wanted = torch.tensor([[-1, 7, speech.start + 2, speech.closing, music.start + music.cardinality]])
    with torch.no_grad():
        found = network.losses(ids, wanted, choices)
        head = network.model.norm.into(network.model.embed_tokens.weight)
        logits = network(ids)[0, 1:] @ head.T
    spoken = [*range(speech.start, speech.stop), speech.closing]
    text = [id_ for id_ in range(vocabulary.size) if choices.kind_of[id_] == 0]
    second = list(music.codebook(1))
    expected = []
    for row, (target, group) in enumerate(zip(wanted[0, 1:].tolist(), (text, spoken, spoken, second), strict=True)):
        expected.append(float(-torch.log_softmax(logits[row, group], 0)[group.index(target)]))
    torch.testing.assert_close(found, torch.tensor([expected[0], *expected[1:3], expected[3]]))


def test_muon_steps_have_singular_values_near_one() -> None:
    torch.manual_seed(0)
    wide, tall = torch.nn.Parameter(torch.randn(8, 24)), torch.nn.Parameter(torch.randn(24, 8))
    for matrix in (wide, tall):
        found = torch.linalg.svdvals(orthogonal(matrix.detach()[None], 5)[0])
        assert found.min() > 0.6
        assert found.max() < 1.3
    before = wide.detach().clone()
    (wide.sum() + tall.square().sum()).backward()
    Muon([wide, tall], lr=0.1).step()
    assert (wide.detach() - before).square().mean().sqrt() == pytest.approx(
        0.1 * 0.2 * (24 / 24) ** 0.5 * 8**-0.5, rel=0.5
    )
