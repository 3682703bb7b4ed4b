"""A step's draws, by machine code or by numpy: what `sampling.decide` finds, the same bits in any company."""

import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anyloom.anygpt_model.drawing import Drawing
from anyloom.anygpt_model.errors import CheckpointError
from anyloom.anygpt_model.machine_code import library
from anyloom.anygpt_model.redrawing import decide_rows
from anyloom.anygpt_model.sampling import decide
from anyloom.anygpt_model.values import Sampling

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
ROWS = 5


@pytest.fixture(scope="module")
def compiled() -> Drawing:
    assert library("draw.c", (), "numpy would be tested against itself") is not None
    return Drawing()


@needs_compiler
@settings(max_examples=300, deadline=None)
@given(
    seed=st.integers(0, 2**64 - 1),
    columns=st.sampled_from([1, 2, 7, 8, 31, 33, 64, 300]),
    temperature=st.sampled_from([0.0, 0.2, 1.0, 3.0]),
    top_k=st.sampled_from([0, 1, 5, 50]),
    top_p=st.sampled_from([0.0, 0.3, 0.95, 1.0]),
    penalty=st.sampled_from([1.0, 1.3]),
    levels=st.sampled_from([0, 3]),
    spread=st.sampled_from([0.01, 4.0, 300.0]),
)
def test_machine_code_draws_what_decide_draws(
    compiled: Drawing,
    seed: int,
    columns: int,
    temperature: float,
    top_k: int,
    top_p: float,
    penalty: float,
    levels: int,
    spread: float,
) -> None:
    """levels: so few distinct logits that many are equal, at the border too. spread: up to where e^x is 0."""
    random = np.random.default_rng(seed)
    logits = random.standard_normal((ROWS, columns))
    logits = ((np.round(logits * levels) / levels if levels else logits) * spread).astype(np.float32)
    ids = np.sort(random.choice(10_000, columns, replace=False)).astype(np.int64)
    draws = [(seed - row, int(step)) for row, step in enumerate(random.integers(0, 3000, ROWS))]
    repeated = random.random((ROWS, columns)) < 0.3 if penalty != 1.0 else None
    sampling = Sampling(temperature, top_k, top_p, penalty)
    together = compiled(logits, ids, sampling, draws, repeated)
    for row, draw in enumerate(draws):
        held = None if repeated is None else repeated[row]
        wanted = decide(logits[row], ids, sampling, *draw, held)
        assert together[row].token == wanted.token
        assert together[row].logprob == pytest.approx(wanted.logprob, rel=1e-12, abs=1e-12)
        assert together[row].margin == pytest.approx(wanted.margin, rel=1e-9, abs=1e-11)
        alone = compiled(logits[row : row + 1], ids, sampling, [draw], None if held is None else held[None])
        assert alone == [together[row]]


def test_without_machine_code_numpy_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYLOOM_COMPILED", "0")
    logits, ids = np.random.default_rng(1).standard_normal((3, 90)).astype(np.float32), np.arange(90)
    draws, sampling = [(5, 1), (6, 1), (7, 9)], Sampling(0.7, 20)
    assert Drawing()(logits, ids, sampling, draws) == decide_rows(logits, ids, sampling, draws)


@pytest.mark.parametrize("machine_code", ["1", "0"])
@pytest.mark.parametrize("damage", [np.nan, np.inf])
def test_logits_that_are_no_numbers_are_told(monkeypatch: pytest.MonkeyPatch, machine_code: str, damage: float) -> None:
    monkeypatch.setenv("ANYLOOM_COMPILED", machine_code)
    logits = np.zeros((2, 40), np.float32)
    logits[1, 33] = damage
    drawing = Drawing()
    for sampling in (Sampling(), Sampling(0.0), Sampling(1.0, 5, 0.9)):
        with pytest.raises(CheckpointError, match="damaged, or too large"):
            drawing(logits, np.arange(40), sampling, [(1, 1), (2, 1)])
        assert len(drawing(logits[:1], np.arange(40), sampling, [(1, 1)])) == 1
