"""What tests of the networks share: the published tensors of each, as lists beside the goldens tell them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from torch import nn

GOLDENS = Path(__file__).parents[1] / "goldens"
Table = dict[str, tuple[list[int], str]]
"""Name of a tensor -> its shape and its dtype."""


@pytest.fixture(scope="session")
def published() -> Callable[[str], Table]:
    """The table of the list `keys_NAME.txt`."""

    def table(name: str) -> Table:
        rows = (line.split("\t") for line in (GOLDENS / f"keys_{name}.txt").read_text("utf-8").splitlines() if line)
        return {key: (json.loads(shape), dtype) for key, shape, dtype in rows}

    return table


@pytest.fixture(scope="session")
def table_of() -> Callable[[nn.Module], Table]:
    """The table of what a network holds."""
    return lambda network: {
        key: (list(tensor.shape), str(tensor.dtype).removeprefix("torch."))
        for key, tensor in network.state_dict().items()
    }
