"""The recipe's stages: every trainer that they name is there, minutes are shared out, parts become a model folder."""

import inspect
from importlib import import_module
from pathlib import Path

import pytest
from click.testing import CliRunner

from anyloom.anygpt_model.training import stages
from anyloom.app.cli import cli, run

MODULES = [step.module for steps in stages.STAGES.values() for step in steps]


@pytest.mark.parametrize("module", MODULES)
def test_every_step_is_a_module_that_runs(module: str) -> None:
    run = import_module(f"anyloom.anygpt_model.training.{module}").run
    assert {"work", "minutes", "device", "seed"} <= set(inspect.signature(run).parameters)


def test_minutes_are_shared_out_as_usual() -> None:
    usual = dict(stages.minutes_of("speech", None))
    halved = dict(stages.minutes_of("speech", sum(usual.values()) / 2))
    assert halved == {module: minutes / 2 for module, minutes in usual.items()}
    assert dict(stages.minutes_of("data", 10)) == dict.fromkeys(
        ("image_data", "music_data", "speech_data", "other_voices"), 0
    )


def test_a_folder_is_made_of_what_is_trained_and_of_what_shipped(tmp_path: Path) -> None:
    shipped, work = tmp_path / "shipped", tmp_path / "work"
    for part in stages.PARTS.values():
        (shipped / part).mkdir(parents=True)
        (shipped / part / "weights").write_text("old")
    (work / "language" / "llm").mkdir(parents=True)
    (work / "language" / "llm" / "weights").write_text("new")
    made = stages.assemble(work, shipped)
    told = {folder.name: (folder / "weights").read_text() for folder in made.iterdir()}
    assert told == {part: "new" if part == "llm" else "old" for part in stages.PARTS.values()}


def test_the_door_runs_the_steps_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[tuple[str, float]] = []
    for step in stages.STAGES["speech"]:
        module = import_module(f"anyloom.anygpt_model.training.{step.module}")

        def note(work: Path, minutes: float, device: str, seed: int, name: str = step.module) -> None:
            called.append((name, minutes))

        monkeypatch.setattr(module, "run", note)
    done = CliRunner().invoke(cli, ["train", "speech", "--minutes", "11", "--work", str(tmp_path / "work")])
    assert done.exit_code == 0, done.output
    assert called == stages.minutes_of("speech", 11)
    assert (tmp_path / "work" / "pocket" / "llm" / "config.json").exists()


@pytest.mark.parametrize(("wrong", "said"), [(["nothing"], "no stage named"), (["image", "--minutes", "-5"], "-5")])
def test_wrong_use_is_one_sentence_and_code_2(wrong: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", *wrong]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert "Traceback" not in told
