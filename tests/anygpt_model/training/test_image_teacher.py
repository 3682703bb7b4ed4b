"""The picture teacher's clustering is kept: another machine would cluster otherwise."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from anyloom.anygpt_model.training import image_teacher
from anyloom.anygpt_model.training.image_teacher import Teaching, teach


def teaching(number: int) -> Teaching:
    names = [each.name for each in fields(Teaching) if each.name != "things"]
    return Teaching(["apple"], **{name: torch.full((2,), number) for name in names})


def test_a_teaching_is_computed_once_for_its_pictures_and_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    computed: list[int] = []

    def taught(pictures: object, rows: object, seed: int) -> Teaching:
        computed.append(seed)
        return teaching(len(computed))

    rows = tmp_path / "image" / "images.json"
    rows.parent.mkdir()
    rows.write_text(json.dumps(["a"]))
    monkeypatch.setattr(image_teacher, "taught", taught)
    monkeypatch.setattr(image_teacher, "load", lambda work: (None, None, []))
    first, again = teach(tmp_path), teach(tmp_path)
    assert (again.things, again.codes.tolist()) == (["apple"], first.codes.tolist())
    assert computed == [0]
    assert teach(tmp_path, seed=1).codes[0].item() == 2
    rows.write_text(json.dumps(["a", "b"]))
    assert (teach(tmp_path, seed=1).codes[0].item(), computed) == (3, [0, 1, 1])
