"""Many draws at once are the draws one by one: the same ids, log-probabilities and margins."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from anyloom.anygpt_model.redrawing import decide_rows, redraw
from anyloom.anygpt_model.sampling import border_distance, decide
from anyloom.anygpt_model.values import Sampling


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**64 - 1),
    columns=st.sampled_from([1, 2, 7, 60, 300]),
    temperature=st.sampled_from([0.0, 0.2, 1.0, 3.0]),
    top_k=st.sampled_from([0, 1, 5, 50]),
    top_p=st.sampled_from([0.0, 0.3, 0.95, 1.0]),
    penalty=st.sampled_from([1.0, 1.3]),
    levels=st.sampled_from([0, 3]),
)
def test_rows_together_are_drawn_as_rows_alone(
    seed: int, columns: int, temperature: float, top_k: int, top_p: float, penalty: float, levels: int
) -> None:
    """levels: so few distinct logits that many are equal, at the border too."""
    draw = np.random.default_rng(seed)
    logits = (draw.standard_normal((9, columns)) * 4).astype(np.float32)
    if levels:
        logits = np.round(logits / 4 * levels) / levels
    ids = np.sort(draw.choice(10_000, columns, replace=False)).astype(np.int64)
    steps = draw.integers(0, 3000, 9).tolist()
    repeated = draw.random((9, columns)) < 0.3 if penalty != 1.0 else None
    sampling = Sampling(temperature, top_k, top_p, penalty)
    found = redraw(logits, ids, sampling, seed, steps, repeated)
    together = decide_rows(logits, ids, sampling, [(seed + row, step) for row, step in enumerate(steps)], repeated)
    for row, step in enumerate(steps):
        held = None if repeated is None else repeated[row]
        assert together[row] == decide(logits[row], ids, sampling, seed + row, step, held)
        alone = decide(logits[row], ids, sampling, seed, step, held)
        edge = border_distance(logits[row], ids, sampling, seed, step, held)
        assert found.tokens[row] == alone.token
        assert np.isclose(found.logprobs[row], alone.logprob, atol=1e-12, rtol=0)
        assert found.margins[row] == min(alone.margin, edge)
