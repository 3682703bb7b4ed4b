"""The scripted engine of the graph's tests, for the command line's."""

from __future__ import annotations

import importlib.util
from pathlib import Path

_SPEC = importlib.util.spec_from_file_location("anyloom_fakes", Path(__file__).parents[1] / "graphs" / "conftest.py")
assert _SPEC is not None
assert _SPEC.loader is not None
_FAKES = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_FAKES)
vocabulary, engine = _FAKES.vocabulary, _FAKES.engine
