"""The recipe of speech: the closed world and its split, the plan, shards, codes, SoundStorm's batches."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from anyloom.anygpt_model.training import sentences, soundstorm_trainer, speech_data, speech_tokens, speech_trainer
from anyloom.anygpt_model.training.speech_data import Reading


def test_the_world_is_small_and_every_tested_word_is_trained():
    texts = sentences.utterances()
    trained = {word for u in texts if u.split == "train" for word in sentences.words(u.text)}
    tested = {word for u in texts if u.split == "test" for word in sentences.words(u.text)}
    assert tested <= trained
    assert len(trained) <= 250
    assert len({u.text for u in texts}) == len(texts)


def test_what_is_read_beside_holds_no_new_word_and_nothing_held_out():
    texts, more = sentences.utterances(), sentences.more()
    trained = {word for u in texts if u.split == "train" for word in sentences.words(u.text)}
    assert len(set(more)) == len(more) == sentences.MORE
    assert not any(sentences.held_out(text) for text in more)
    assert not {u.text for u in texts} & set(more)
    assert {word for text in more for word in sentences.words(text)} <= trained
    beside = [r for r in speech_data.plan() if r.group == speech_data.MORE]
    assert {(r.voice, r.split) for r in beside} == {(speech_data.DEFAULT_VOICE, "train")}
    assert [r.text for r in beside] == more


def test_questions_are_unique_and_their_split_follows_the_hash_of_the_text():
    pairs, trained, tested = sentences.qa_pairs(), sentences.train_pairs(), sentences.test_pairs()
    assert len(pairs) >= 250
    assert len({question for question, _, _ in pairs}) == len(pairs)
    assert sorted(trained + tested) == sorted(pairs)
    assert 100 <= len(tested) <= 130
    assert all(sentences.held_out(question) for question, _, _ in tested)
    splits = {u.text: u.split for u in sentences.utterances()}
    assert all(splits[question] == "test" for question, _, _ in tested)
    assert all(splits[text] == "train" for question, answer, _ in trained for text in (question, answer))


def test_the_split_never_moves():
    assert not sentences.held_out("What colour is the banana?")
    assert sentences.held_out("Is the apple red?")


@pytest.mark.parametrize(
    ("name", "many"), [("cherry", "cherries"), ("bus", "buses"), ("mouse", "mice"), ("cow", "cows")]
)
def test_plurals(name, many):
    assert sentences.plural(name) == many


def test_the_held_out_voice_reads_held_out_texts_only():
    plan = speech_data.plan()
    assert {r.split for r in plan if r.voice == speech_data.TEST_VOICE} == {"test"}
    assert {r.voice for r in plan} == {*speech_data.TRAIN_VOICES, speech_data.TEST_VOICE}
    assert len({(r.text, r.voice) for r in plan}) == len(plan)


def reading(text: str, voice: str = "slt", split: str = "train") -> Reading:
    return Reading(text, voice, split, "caption")


def wave(frames: int) -> np.ndarray:
    return np.sin(np.arange(frames * 320) * 0.1).astype(np.float32) * 0.5


def said(frames: int) -> tuple[np.ndarray, np.ndarray]:
    return wave(frames), np.arange(frames, dtype=np.uint8) % speech_data.STATES


def test_shards_come_back_as_written(tmp_path):
    first = speech_data.plan()[:3]
    made = [said(n) for n in (3, 5, 4)]
    speech_data.write_shard(tmp_path / "speech" / "audio" / "1.npz", first, made)
    back = speech_data.read_labelled(tmp_path)
    assert [reading for reading, _, _ in back] == first
    assert [len(samples) for _, samples, _ in back] == [960, 1600, 1280]
    assert np.abs(speech_data.as_wave(back[1][1]) - made[1][0]).max() < 1e-4
    assert [labels.tolist() for _, _, labels in back] == [labels.tolist() for _, labels in made]


def test_what_was_read_is_not_read_again(tmp_path, monkeypatch):
    class Fake:
        def __init__(self, downloads):
            self.heard = []

        def say(self, reading, scratch):
            heard.append((reading.text, reading.voice))
            return said(2)

    heard: list[tuple[str, str]] = []
    plan = speech_data.plan()
    monkeypatch.setattr(speech_data, "Speaker", Fake)
    monkeypatch.setattr(speech_data, "plan", lambda: plan[:4])
    speech_data.synthesise(tmp_path)
    monkeypatch.setattr(speech_data, "plan", lambda: plan[:6])
    speech_data.synthesise(tmp_path)
    assert heard == [(reading.text, reading.voice) for reading in plan[:6]]


def test_labels_name_the_phone_and_its_third():
    labels = speech_data.labels_of("pau:0.3 k:0.6 ", 16_000)
    states = [speech_data.PHONES[label // 3] + str(label % 3) for label in labels[[0, 3000, 4700, 5000, 9000, 15_000]]]
    assert states == ["pau0", "pau1", "pau2", "k0", "k2", "k2"]


def test_silence_at_the_edges_is_cut_and_the_peak_is_set():
    loud = np.concatenate([np.zeros(16_000), wave(10), np.zeros(16_000)]).astype(np.float32)
    spoken = np.repeat(np.array([0, 9, 0], np.uint8), (16_000, 3200, 16_000))
    tidy, labels = speech_data.tidy(loud, spoken)
    assert len(tidy) == len(labels) * 320
    assert len(tidy) < 10 * 320 + 2 * 1600 + 320
    assert abs(np.abs(tidy).max() - speech_data.PEAK) < 1e-3
    assert (labels == 9).sum() == 10
    assert labels[0] == labels[-1] == 0


def test_a_sound_played_faster_is_shorter_and_its_features_follow():
    assert len(speech_trainer.played(wave(100), 1.25)) == pytest.approx(100 * 320 / 1.25, abs=2)
    features = np.arange(100, dtype=np.float16)[:, None]
    assert speech_trainer.stretched(features, 80)[40, 0] == pytest.approx(50, abs=1)


def test_tokens_are_written_whole_and_read_back(tmp_path, monkeypatch):
    from anyloom.anygpt_model.codecs.frame_codec import FrameCodec, FrameCodecConfig

    config = FrameCodecConfig(n_mels=20, width=16, latent=8, encoder_blocks=1, decoder_blocks=1, cardinality=16)
    FrameCodec(config).save_folder(tmp_path / "speech" / "codec", "ckpt.safetensors")
    readings = [reading("A red apple."), reading("A blue car.", split="test")]
    speech_data.write_shard(tmp_path / "speech" / "audio" / "1.npz", readings, [said(30), said(20)])
    speech_tokens.write_tokens(tmp_path)
    back = speech_tokens.read_tokens(tmp_path)
    assert [row["split"] for row, _ in back] == ["train"] * 2 + ["test"]
    assert back[0][1].shape == (8, 30)
    assert back[-1][1].shape == (8, 20)
    assert json.loads((tmp_path / "speech" / "tokens.json").read_text())[0]["voice"] == "slt"


def test_level_one_has_dimensions_and_vectors_of_its_own():
    from anyloom.anygpt_model.codecs.frame_codec import ResidualCodebooks
    from anyloom.anygpt_model.training.frame_codec_trainer import CodebookTrainer, Meaning

    torch.manual_seed(0)
    books = ResidualCodebooks(3, 16, 8)
    trainer = CodebookTrainer(books.vectors, Meaning(dims=3, vectors=5, labels=4))
    latents = torch.randn(4, 30, 8, requires_grad=True)
    for _ in range(3):
        whole, first, _ = trainer.quantise(latents, 3)
    assert not books.vectors[0, :, 3:].any()
    assert not books.vectors[1:, :, :3].any()
    assert books.encode(latents.detach())[:, 0].max() < 5
    (gradient,) = torch.autograd.grad(whole.sum(), latents, retain_graph=True)
    assert not gradient[..., :3].any()
    assert gradient[..., 3:].all()
    (gradient,) = torch.autograd.grad(first.sum(), latents)
    assert gradient[..., :3].all()
    assert not gradient[..., 3:].any()
    codes = books.encode(latents.detach())
    torch.testing.assert_close(books.decode(codes)[..., :3], books.vectors[0][codes[:, 0]][..., :3])


def test_batches_are_of_one_voice_and_masks_leave_the_prompt_alone():
    rows = [({"voice": name, "speed": 1.0}, np.full((8, 60), value, np.uint16)) for value, name in enumerate("abc")]
    codes, prompts = soundstorm_trainer.Sequences(rows, 0).batch(6)
    assert codes.shape == (6, soundstorm_trainer.FRAMES, 8)
    assert all(len(torch.unique(row)) == 1 for row in codes)
    for level in (0, 3):
        hidden = soundstorm_trainer._hidden(int(prompts[0]), level)
        assert not hidden[: prompts[0]].any()
        assert not hidden[:, :level].any()
        assert hidden[int(prompts[0]) :, level + 1 :].all()
        assert hidden[:, level].any()


def test_written_tables_are_what_was_trained():
    torch.manual_seed(0)
    trainer = soundstorm_trainer.StormTrainer(torch.randn(8, 1024, 16), 1.0, 0, Path("nowhere.pt"))
    rows = [({"voice": "a", "speed": 1.0}, np.random.default_rng(0).integers(0, 1024, (8, 60)).astype(np.uint16))]
    codes, _ = soundstorm_trainer.Sequences(rows * 4, 0).batch(1)
    given = torch.where(soundstorm_trainer._hidden(20, 2)[None], 1024, codes[:, :, 1:])
    trainer.tables.write_into(trainer.storm)
    with torch.no_grad():
        published = trainer.storm(given, codes[:, :, 0])[:, :, 2]
        trained = trainer._logits(trainer._thoughts(given, codes[:, :, 0]), 2)
    torch.testing.assert_close(published, trained, rtol=0, atol=1e-5)
