"""A whole small checkpoint as it is published, chat and base: checked, then used in every direction from the command
line; whatever is wrong with a file is one sentence, and nothing foreign is run."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from anyloom.anygpt_model.media import write_png, write_wav
from anyloom.app.cli import run

pytestmark = pytest.mark.slow
PUBLISHED = {
    "llm/model": "llm/pytorch_model.bin",
    "seed/seed_quantizer": "seed/seed_quantizer.pt",
    "seed/eva_vit_g": "seed/eva_vit_g.pth",
    "speechtokenizer/ckpt": "speechtokenizer/ckpt.dev",
    "soundstorm/speechtokenizer_soundstorm_mls": "soundstorm/speechtokenizer_soundstorm_mls.pt",
}
"""Which files of the layout are published as pickles, and under which names."""
Say = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module", params=["chat", "base"])
def checkpoint(request: Any, tiny_folder: Path, base_llm_folder: Path, tmp_path_factory: Any) -> tuple[str, Path]:
    """Its kind, and the folder with its pickles; the first test converts them."""
    folder = Path(shutil.copytree(tiny_folder, tmp_path_factory.mktemp("published") / request.param))
    if request.param == "base":
        shutil.rmtree(folder / "llm")
        shutil.copytree(base_llm_folder / "llm", folder / "llm")
    for safe, pickled in PUBLISHED.items():
        torch.save(load_file(folder / f"{safe}.safetensors"), folder / pickled)
        (folder / f"{safe}.safetensors").unlink()
    return request.param, folder


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: Any) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("inputs")
    noise = np.random.default_rng(0).uniform(-0.3, 0.3, 19_200).astype(np.float32)
    (folder / "image.png").write_bytes(write_png(np.full((20, 30, 3), 90, np.uint8)))
    (folder / "speech.wav").write_bytes(write_wav(noise, 16_000))
    (folder / "music.wav").write_bytes(write_wav(noise, 32_000))
    return {path.stem: path for path in folder.iterdir()}


@pytest.fixture
def anyloom(tmp_path: Path, monkeypatch: Any, capsys: Any) -> Say:
    """Run a command in this process: (exit code, stdout, stderr)."""
    monkeypatch.setenv("ANYLOOM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ANYLOOM_OUT", str(tmp_path / "out"))
    monkeypatch.setenv("ANYLOOM_DEVICE", "cpu")

    def call(*args: Any) -> tuple[int, str, str]:
        code = run([str(arg) for arg in args])
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


SHORT = ["--json", "--seed", 1, "--max-tokens", 90, "--max-seconds", 0.2]
CHAT = (
    (["draw", "--to", "image", "--only"], {"image"}),
    (["what is this"], {"text"}),
    (["answer", "--to", "speech", "+image", "+speech", "+music"], {"speech"}),
    (["a tune", "--to", "music"], {"music"}),
)
BASE = (
    (["a dog", "--to", "image"], {"image"}),
    (["a dog", "--to", "speech"], {"speech"}),
    (["a dog", "--to", "music", "--instruction", "Play this."], {"music"}),
    (["+image"], {"text"}),
    (["Transcribe it.", "+speech", "--to", "text"], {"text"}),
    (["+music"], {"text"}),
)


def test_it_is_refused_raw_accepted_by_check_and_runs_in_every_direction(
    checkpoint: tuple[str, Path], inputs: dict[str, Path], anyloom: Say
) -> None:
    kind, folder = checkpoint
    code, out, err = anyloom("say", "hello", "--model", folder)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "is a pickle" in err
    code, out, _ = anyloom("models", "check", folder, "--json")
    assert (code, json.loads(out)["ok"]) == (0, True)
    for words, expected in CHAT if kind == "chat" else BASE:
        code, out, err = anyloom("say", *spoken(words, inputs), *SHORT, "--model", folder)
        assert code == 0, (words, err)
        answer = json.loads(out)
        made = {part["modality"] for part in answer["reply"]}
        assert expected <= made or expected == {"text"}  # random weights may end before they say a word
        if kind == "base" or "--only" in words:
            assert made <= expected
        assert all(Path(part["file"]).stat().st_size for part in answer["reply"] if "file" in part)
    turns = json.loads(anyloom("traces", "list", "--json")[1])["turns"]
    for turn in turns[:2]:
        assert anyloom("traces", "verify", turn["id"], "--model", folder)[0] == 0


def test_a_base_model_says_what_it_cannot_do(
    checkpoint: tuple[str, Path], inputs: dict[str, Path], anyloom: Say
) -> None:
    _, folder = checkpoint
    ask = ["say", "--model", folder, "--template", "base"]
    for wrong in (
        ["hello"],
        ["--image", inputs["image"], "--to", "speech"],
        ["--image", inputs["image"], "--speech", inputs["speech"]],
        ["a dog", "--to", "image", "--template", "ChatML"],
    ):
        code, out, err = anyloom(*ask, *wrong)
        assert (code, out, err.count("\n")) == (2, "", 1), err


class Malice:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.trace}",)


def without_one(file: Path) -> str:
    state = load_file(file)
    name = min(state)
    del state[name]
    save_file(state, file)
    return named(name)


def misshapen(file: Path) -> str:
    state = load_file(file)
    name = min(state)
    save_file({**state, name: torch.zeros(3, 5, 7, 11)}, file)
    return named(name)


def truncated(file: Path) -> str:
    file.write_bytes(file.read_bytes()[:-50])
    return "damaged or cut short"


def named(name: str) -> str:
    return name.replace("parametrizations.weight.original0", "weight_g").removeprefix("text_model.")


DAMAGED = {
    "llm/model": (["hello"], (without_one, misshapen, truncated)),
    "seed/seed_quantizer": (["+image"], (misshapen,)),
    "seed/eva_vit_g": (["+image"], (truncated,)),
    "speechtokenizer/ckpt": (["+speech"], (without_one,)),
    "soundstorm/speechtokenizer_soundstorm_mls": (["+speech"], (misshapen,)),
    "encodec/model": (["+music"], (truncated,)),
    "unclip/unet/diffusion_pytorch_model": (["+image"], (without_one, truncated)),
    "unclip/text_encoder/model": (["+image"], (without_one, misshapen)),
}
"""File -> a request that opens it, and how it is damaged."""


def spoken(words: list[str], inputs: dict[str, Path]) -> list[Any]:
    """The arguments of a request: "+image" stands for --image and its file."""
    return [part for word in words for part in ([f"--{word[1:]}", inputs[word[1:]]] if word[0] == "+" else [word])]


@pytest.mark.parametrize(
    ("part", "damage"), [(part, damage) for part, (_, damages) in DAMAGED.items() for damage in damages]
)
def test_a_damaged_file_is_one_sentence(
    part: str, damage: Callable[[Path], str], tiny_folder: Path, inputs: dict[str, Path], anyloom: Say, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "copy"))
    wrong = damage(folder / f"{part}.safetensors")
    code, out, _ = anyloom("models", "check", folder, "--json")
    rows = [row for row in json.loads(out)["files"] if not row["ok"]]
    assert code == 1
    assert len(rows) == 1
    assert wrong in rows[0]["sentence"]
    code, out, err = anyloom("say", *spoken(DAMAGED[part][0], inputs), "--model", folder)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert wrong in err


def test_malicious_pickles_are_refused_and_nothing_runs(
    tiny_folder: Path, inputs: dict[str, Path], anyloom: Say, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "copy"))
    trace = tmp_path / "it-ran"
    for safe, pickled in PUBLISHED.items():
        (folder / f"{safe}.safetensors").unlink()
        with (folder / pickled).open("wb") as stream:
            pickle.dump({"weight": Malice(trace)}, stream)
    code, out, _ = anyloom("models", "check", folder, "--json")
    refused = [row["sentence"] for row in json.loads(out)["files"] if "nothing in it was run" in row["sentence"]]
    assert code == 1
    assert sorted(sentence.split(" was refused")[0] for sentence in refused) == sorted(
        str(folder / pickled) for pickled in PUBLISHED.values()
    )
    for words in (["hello"], ["+image"], ["+speech"]):
        code, out, err = anyloom("say", *spoken(words, inputs), "--model", folder)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert "is a pickle, which is never opened" in err
        shutil.copyfile(tiny_folder / "llm" / "model.safetensors", folder / "llm" / "model.safetensors")
    assert not trace.exists()
    with trace.with_name("proof").open("wb") as stream:
        pickle.dump(Malice(trace), stream)
    pickle.loads(trace.with_name("proof").read_bytes())
    assert trace.exists()
