"""What the evaluation asks of the codec alone never reaches the language model, and is counted all the same."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from anyloom.anygpt_model.training.asking import Asker
from anyloom.anygpt_model.training.directions.direction import Case, Prompt
from anyloom.anygpt_model.values import Modality


class Codec:
    """All levels of a sound are itself and its double; the sound is made of both."""

    def all_levels(self, samples: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.stack([samples, 2 * samples]))

    def wave(self, codes: torch.Tensor) -> torch.Tensor:
        return codes.sum(dim=0)


def test_all_levels_make_the_sound_again() -> None:
    engine: Any = SimpleNamespace(sampling={}, codec=lambda modality: Codec())
    sounds = [np.full(4, value, np.float32) for value in (1, 2, 3)]
    prompts = [Prompt(Modality.SPEECH, media=s, modality=Modality.SPEECH, codec_alone=True) for s in sounds]
    told: list[tuple[int, int]] = []
    made = Asker(engine, batch=2).answers(
        [Case(str(number), prompt) for number, prompt in enumerate(prompts)], lambda *done: told.append(done)
    )
    assert [np.asarray(each).tolist() for each in made] == [[3.0 * value] * 4 for value in (1, 2, 3)]
    assert told == [(2, 3), (3, 3)]
