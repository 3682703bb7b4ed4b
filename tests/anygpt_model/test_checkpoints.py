"""Names, safe loading, checking and conversion: what is wrong is one sentence, and nothing foreign is run."""

import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from anyloom.anygpt_model import checkpoints
from anyloom.anygpt_model.checking import check, check_part
from anyloom.anygpt_model.checkpoints import fingerprints, load_tensors, model_folder
from anyloom.anygpt_model.codecs.unclip import ImageSynthesis
from anyloom.anygpt_model.conversion import convert, pickles
from anyloom.anygpt_model.engine import load_engine
from anyloom.anygpt_model.errors import CheckpointError, UnknownName


@pytest.fixture
def copy(tiny_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_folder, tmp_path / "copy"))


@pytest.fixture
def llm_copy(llm_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(llm_folder, tmp_path / "copy"))


def change(file: Path, **tensors: torch.Tensor | None) -> None:
    """Replace tensors of a file by name ('.' written '__'); None drops one."""
    state = load_file(file)
    for name, tensor in tensors.items():
        name = name.replace("__", ".")
        if tensor is None:
            del state[name]
        else:
            state[name] = tensor
    save_file(state, file)


class Malice:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.trace}",)


def test_names_are_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYLOOM_HOME", str(tmp_path))
    (tmp_path / "models" / "anygpt-chat").mkdir(parents=True)
    assert model_folder("anygpt-chat") == tmp_path / "models" / "anygpt-chat"
    assert model_folder(tmp_path) == tmp_path
    with pytest.raises(UnknownName, match="anyloom models fetch anygpt-base"):
        model_folder("anygpt-base")
    for strange in ("anygpt-huge", "", None, 5):
        with pytest.raises(UnknownName, match="pocket, anygpt-chat, anygpt-base, or the path"):
            model_folder(strange)  # type: ignore[arg-type]


def test_a_missing_tensor_is_named(llm_copy: Path) -> None:
    change(llm_copy / "llm" / "model.safetensors", model__layers__1__mlp__up_proj__weight=None)
    with pytest.raises(CheckpointError, match=r"no tensor model\.layers\.1\.mlp\.up_proj\.weight"):
        load_engine(llm_copy)


def test_a_misshapen_tensor_is_named(llm_copy: Path) -> None:
    change(llm_copy / "llm" / "model.safetensors", model__norm__weight=torch.ones(31))
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight has the shape \[31\] where .* \[32\]"):
        load_engine(llm_copy)


def test_a_truncated_file_is_named(llm_copy: Path) -> None:
    file = llm_copy / "llm" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match="damaged or cut short"):
        load_engine(llm_copy)


def test_a_pickle_is_refused_with_what_to_do(llm_copy: Path) -> None:
    file = llm_copy / "llm" / "model.safetensors"
    torch.save(load_file(file), file.with_name("pytorch_model.bin"))
    file.unlink()
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin beside it is a pickle.*anyloom models check"):
        load_engine(llm_copy)
    with pytest.raises(CheckpointError, match="is a pickle"):
        load_tensors(file.with_name("pytorch_model.bin"))


def test_shards_are_joined(llm_copy: Path) -> None:
    file = llm_copy / "llm" / "model.safetensors"
    state = load_file(file)
    halves = [dict(list(state.items())[::2]), dict(list(state.items())[1::2])]
    table = {}
    for number, half in enumerate(halves):
        save_file(half, file.with_name(f"model-{number}.safetensors"))
        table |= dict.fromkeys(half, f"model-{number}.safetensors")
    file.unlink()
    index = file.with_name("model.safetensors.index.json")
    index.write_text(f'{{"weight_map": {str(table).replace(chr(39), chr(34))}}}')
    assert load_tensors(file.parent).keys() == state.keys()


def test_another_configuration_is_refused(llm_copy: Path) -> None:
    path = llm_copy / "llm" / "config.json"
    path.write_text(path.read_text().replace('"llama"', '"mistral"'))
    with pytest.raises(CheckpointError, match="describes a mistral"):
        load_engine(llm_copy)


def test_fingerprints_follow_contents_and_are_remembered(llm_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = fingerprints(llm_copy)
    assert set(first) == {"llm", "tokenizer", "speech", "music"}
    assert all(value.startswith("sha256:") and len(value) == 71 for value in first.values())
    reads = []
    digest = checkpoints.hashlib.file_digest
    monkeypatch.setattr(checkpoints.hashlib, "file_digest", lambda *given: reads.append(1) or digest(*given))
    assert fingerprints(llm_copy) == first
    assert not reads
    change(llm_copy / "llm" / "model.safetensors", model__norm__weight=torch.zeros(32))
    again = fingerprints(llm_copy)
    assert again["llm"] != first["llm"]
    assert again["tokenizer"] == first["tokenizer"]


def test_conversion_writes_the_same_tensors(tmp_path: Path) -> None:
    state = {"a": torch.randn(3, 4), "b": torch.arange(5), "c": torch.randn(4, 3).t()}
    state["d"] = state["a"]
    torch.save({"model": state}, tmp_path / "x.pth")
    convert({tmp_path / "x.pth": tmp_path / "x.safetensors"})
    back = load_file(tmp_path / "x.safetensors")
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in state.items())


def test_a_malicious_pickle_is_refused_and_nothing_runs(tmp_path: Path) -> None:
    trace = tmp_path / "run"
    for name, write in (("raw", pickle.dump), ("zip", torch.save)):
        file = tmp_path / f"{name}.pt"
        with file.open("wb") as stream:
            write({"weight": Malice(trace)}, stream)
        with pytest.raises(CheckpointError, match=f"{name}.pt was refused, and nothing in it was run"):
            convert({file: tmp_path / "out.safetensors"})
    assert not trace.exists()
    assert not (tmp_path / "out.safetensors").exists()
    assert not list(tmp_path.glob(".out*"))


@pytest.mark.slow
def test_check_accepts_a_whole_folder(tiny_folder: Path) -> None:
    rows = check(tiny_folder)
    assert [row.sentence for row in rows] == [""] * len(rows)
    assert {row.file.split("/")[0] for row in rows} == {
        "llm", "seed", "unclip", "speechtokenizer", "soundstorm", "encodec"}  # fmt: skip
    assert all(row.ok and row.expected <= row.found for row in rows)


def test_check_tells_dtypes_and_refuses_whole_numbers(llm_copy: Path) -> None:
    file = llm_copy / "llm" / "model.safetensors"
    change(file, model__norm__weight=torch.ones(32, dtype=torch.bfloat16))
    [row] = check_part("llm", llm_copy / "llm")
    assert (row.ok, row.dtype) == (True, "BF16, F32")
    change(file, model__norm__weight=torch.ones(32, dtype=torch.int8))
    [row] = check_part("llm", llm_copy / "llm")
    assert not row.ok
    assert "has model.norm.weight as I8 where F32, F16 or BF16 is expected" in row.sentence


@pytest.mark.slow
def test_check_accepts_the_pocket() -> None:
    assert [row.sentence for row in check(model_folder("pocket"), converting=False) if not row.ok] == []


@pytest.mark.slow
def test_names_of_older_libraries_are_known(copy: Path) -> None:
    """The published picture pipeline was written before its libraries renamed tensors; unused ones are counted only."""
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    vae = copy / "unclip" / "vae" / "diffusion_pytorch_model.safetensors"
    state = {}
    for name, tensor in load_file(vae).items():
        for new, former in old.items():
            name = name.replace(f".attentions.0.{new}.", f".attentions.0.{former}.")
        state[name] = tensor
    assert any(".query." in name for name in state)
    save_file({**state, "spare": torch.zeros(1)}, vae)
    text = copy / "unclip" / "text_encoder" / "model.safetensors"
    prefixed = {f"text_model.{name.removeprefix('text_model.')}": tensor for name, tensor in load_file(text).items()}
    save_file({**prefixed, "text_model.embeddings.position_ids": torch.arange(8)[None]}, text, {"format": "pt"})
    rows = {row.file: row for row in check_part("unclip", copy / "unclip")}
    assert all(row.ok for row in rows.values()), rows
    assert [row.unexpected for row in rows.values()] == [0, 1, 0, 0]
    assert ImageSynthesis.from_folder(copy / "unclip").size


@pytest.mark.slow
def test_check_misses_what_stands_beside_the_weights(copy: Path) -> None:
    (copy / "unclip" / "scheduler" / "scheduler_config.json").unlink()
    (copy / "speechtokenizer" / "config.json").write_text("{")
    wrong = {row.file: row.sentence for row in check(copy) if not row.ok}
    assert set(wrong) == {"unclip/scheduler/scheduler_config.json", "speechtokenizer/config.json"}
    assert "is missing" in wrong["unclip/scheduler/scheduler_config.json"]
    assert "can't be read" in wrong["speechtokenizer/config.json"]


def test_a_folder_named_by_mistake_is_left_alone(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "deep" / "seed", tmp_path / "seed" / "deep" / "er"):
        place.mkdir(parents=True, exist_ok=True)
        torch.save({"weight": torch.zeros(2)}, place / "mine.pt")
    assert pickles(tmp_path) == []
    shutil.rmtree(tmp_path / "seed")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(CheckpointError, match="no model's folder"):
        check(tmp_path)
    assert sorted(tmp_path.rglob("*")) == before
