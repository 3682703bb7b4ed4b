"""What every codec is: arrays in, codes out, and back. The words are the field's (EnCodec, Moshi); no others are used.

Arrays are numpy: a picture is uint8 [height, width, 3] RGB, a sound is float32 [samples] mono in -1..1 at
`sample_rate`. Codes are int64 numpy [codebooks, frames]; a picture's codes are [1, 32]. Knows no vocabulary, no file
format, no prompt.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.uint8] | NDArray[np.float32]
Codes = NDArray[np.int64]


@runtime_checkable
class Codec(Protocol):
    """One modality's tokenizer and detokenizer."""

    @property
    def cardinality(self) -> int:
        """How many values one code can take."""
        ...

    @property
    def num_codebooks(self) -> int:
        """Rows of `encode`'s result: the codebooks that the language model sees."""
        ...

    @property
    def frame_rate(self) -> float:
        """Frames a second; 0 for pictures."""
        ...

    @property
    def sample_rate(self) -> int:
        """Samples a second of the sounds taken and made; 0 for pictures."""
        ...

    def encode(self, array: Array) -> Codes:
        """The codes of one picture or sound, [num_codebooks, frames]."""
        ...

    def decode(self, codes: Codes, *, seed: int = 0, voice: NDArray[np.float32] | None = None) -> Array:
        """The picture or sound of `codes`; the same codes, seed and voice give the same bytes.

        voice: float32 [samples] at `sample_rate` whose speaker is imitated (speech only; None: the default voice).
        """
        ...
