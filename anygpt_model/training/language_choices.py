"""Which ids compete at each place of a training chat: those that the grammar lets generation choose from there.

Logits that generation never looks at need not be learnt, and leaving them out makes the output layer several times
cheaper. Knows no network.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..values import Modality
from ..vocabulary import Vocabulary

OPEN_ENDED = (Modality.SPEECH, Modality.MUSIC)
"""Modalities whose spans may end before they must: their closing marker competes with the codes."""


class Choices:
    """The kinds of place in a chat: 0 is text and markers, the others are the codebooks of the modalities."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        size = vocabulary.size
        self.kind_of = np.zeros(size, np.int8)
        groups: list[NDArray[np.int64]] = []
        for table in vocabulary.ranges.values():
            for book in range(table.codebooks):
                ids = np.array(table.codebook(book), np.int64)
                if book == 0 and table.modality in OPEN_ENDED:
                    ids = np.append(ids, table.closing)
                groups.append(ids)
                self.kind_of[ids] = len(groups)
        self.groups = [np.flatnonzero(self.kind_of == 0), *groups]
        """Of each kind the ids [n] that compete."""
        self.places = np.zeros(size, np.int64)
        """Of each id its place in its kind's group."""
        for ids in self.groups:
            self.places[ids] = np.arange(len(ids))
