"""The compiled step: the numbers of the operations that it replaces, the same bits in any company, or none at all."""

import os
import shutil
import signal
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from anyloom.anygpt_model import checkpoints, compiled
from anyloom.anygpt_model.caches import Slots
from anyloom.anygpt_model.legal_ids import Legal
from anyloom.anygpt_model.llama import Llama
from anyloom.anygpt_model.llama_shape import LlamaShape
from anyloom.anygpt_model.values import Modality

SHAPE = LlamaShape(64, 96, 2, 4, 2, 32, 90, 128, 1e-5, 10_000.0, False)
CPU = torch.device("cpu")
needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")


def opened(dtype: torch.dtype) -> Llama:
    draws = torch.Generator().manual_seed(3)
    tensors = {
        name: torch.ones(size) if "norm" in name else torch.randn(size, generator=draws) * 0.2
        for name, size in SHAPE.tensors().items()
    }
    return Llama(SHAPE, tensors, CPU, dtype)


def prompted(llama: Llama, lengths: list[int], rows: list[int]) -> Slots:
    """Slots whose row n holds prompt `rows[n]`."""
    slots = Slots(llama, len(rows), 64)
    for slot, row in enumerate(rows):
        prefix = llama.new_prefix(lengths[row])
        llama.prefill(np.random.default_rng(row).integers(0, 90, lengths[row]), prefix)
        slots.install(slot, prefix)
    return slots


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """However small a pass, three threads share it."""
    before = torch.get_num_threads()
    monkeypatch.setattr(compiled, "_WORK", 1)
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@needs_compiler
@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 1e-4), (torch.bfloat16, 0.1)])
def test_it_equals_the_operations(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, close: float) -> None:
    lengths, legal = [5, 33, 16], Legal(Modality.TEXT, ((3, 40), (50, 61)), (88, 1))
    fast = opened(dtype)
    assert fast.compiled is not None
    monkeypatch.setenv("ANYLOOM_COMPILED", "0")
    slow = opened(dtype)
    assert slow.compiled is None
    found = []
    for llama in (fast, slow):
        slots = prompted(llama, lengths, [0, 1, 2])
        states = [llama.step([7, 8, 9], [length + more for length in lengths], slots) for more in range(3)]
        found.append(np.concatenate([llama.logits(state, legal) for state in states]))
    assert found[0].shape == (9, legal.size)
    assert np.abs(found[0] - found[1]).max() < close


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_has_the_same_bits_in_any_company(dtype: torch.dtype, shared: None) -> None:
    llama, rows = opened(dtype), list(range(7))
    lengths = [3 + 5 * row for row in rows]
    legal = Legal(Modality.TEXT, ((0, 90),), ())
    together = llama.step(rows, lengths, prompted(llama, lengths, rows))
    torch.set_num_threads(1)
    for row in rows:
        alone = llama.step([row], [lengths[row]], prompted(llama, lengths, [row]))
        assert torch.equal(alone[0], together[row])
        assert np.array_equal(llama.logits(alone, legal)[0], llama.logits(together, legal)[row])


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_prompt_has_the_bits_of_its_steps(dtype: torch.dtype, shared: None) -> None:
    llama, ids = opened(dtype), np.random.default_rng(1).integers(0, 90, 90)
    whole, head, slots = llama.new_prefix(90), llama.new_prefix(37), Slots(llama, 1, 96)
    states = llama.prefill(ids, whole)
    assert torch.equal(llama.prefill(ids[:37], head), states[:37])
    parts = llama.new_prefix(90)
    found = [llama.prefill(ids[start:stop], parts) for start, stop in ((0, 37), (37, 39), (39, 90))]
    assert torch.equal(torch.cat(found), states)
    slots.install(0, head)
    for place in range(37, 90):
        assert torch.equal(llama.step([int(ids[place])], [place], slots)[0], states[place])


@needs_compiler
def test_many_threads_ask_for_passes_at_once(shared: None) -> None:
    lengths, rows = [4, 9, 14], [0, 1, 2]
    models = [opened(torch.float32) for _ in range(4)]
    slots = [prompted(llama, lengths, rows) for llama in models]
    expected = models[0].step(rows, lengths, slots[0])

    def repeated(number: int) -> bool:
        found = (models[number].step(rows, lengths, slots[number]) for _ in range(300))
        return all(torch.equal(one, expected) for one in found)

    with ThreadPoolExecutor(len(models)) as pool:
        assert all(pool.map(repeated, range(len(models))))


@needs_compiler
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_of_fork_has_threads_of_its_own(shared: None) -> None:
    llama, lengths, rows = opened(torch.float32), [4, 9], [0, 1]
    slots = prompted(llama, lengths, rows)
    expected = llama.step(rows, lengths, slots)
    child = os.fork()
    if child == 0:
        os._exit(0 if torch.equal(llama.step(rows, lengths, slots), expected) else 1)
    deadline = time.monotonic() + 60
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0):
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.01)
    assert os.waitstatus_to_exitcode(ended[1]) == 0


@needs_compiler
def test_between_passes_no_core_is_busy(shared: None) -> None:
    llama, lengths, rows = opened(torch.float32), [4, 9], [0, 1]
    torch.set_num_threads(2)
    slots = prompted(llama, lengths, rows)
    began, spent = time.monotonic(), time.process_time()
    for _ in range(60):
        llama.step(rows, lengths, slots)
        time.sleep(0.01)
    assert time.process_time() - spent < 0.5 * (time.monotonic() - began)


@needs_compiler
def test_it_keeps_no_caches_alive() -> None:
    llama = opened(torch.float32)
    slots = prompted(llama, [5], [0])
    llama.step([1], [5], slots)
    watched = weakref.ref(slots)
    del slots
    assert watched() is None


def test_without_a_compiler_the_operations_serve(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert opened(torch.float32).compiled is None


@pytest.mark.skipif(shutil.which("false") is None, reason="needs a command that fails")
def test_a_compiler_that_fails_is_no_error(monkeypatch: pytest.MonkeyPatch, logged: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("CC", "false")
    assert opened(torch.float32).compiled is None
    assert "operation by operation" in logged.text


@needs_compiler
def test_it_is_built_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, logged: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for _ in range(2):
        assert compiled.build(torch.float32) is not None
    assert logged.text.count("Built step.c") == 1


def test_the_pocket_fits() -> None:
    folder = checkpoints.model_folder("pocket") / checkpoints.LANGUAGE
    assert compiled.fits(LlamaShape.from_folder(folder), CPU, torch.float32)


def test_what_does_not_fit_is_left_to_the_operations() -> None:
    odd = LlamaShape(48, 96, 2, 4, 2, 12, 90, 128, 1e-5, 10_000.0, False)
    assert not compiled.fits(odd, CPU, torch.float32)
    assert not compiled.fits(SHAPE, CPU, torch.float16)
    half = LlamaShape(64, 80, 2, 4, 2, 16, 90, 128, 1e-5, 10_000.0, False)
    assert compiled.fits(half, CPU, torch.float32)
    assert not compiled.fits(half, CPU, torch.bfloat16)
    assert not compiled.fits(SHAPE, torch.device("meta"), torch.float32)
