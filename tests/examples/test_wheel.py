"""The built wheel, in somebody else's project that has folders of our folders' names: nothing of either is hidden."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
LEFT = shutil.ignore_patterns(
    ".*", "tests", "build", "dist", "out", "*.egg-info", "__pycache__", "node_modules", "shared"
)
PROJECT = """
import nodes, graphs, storage, app
import anyloom

assert (nodes.MINE, graphs.MINE, storage.MINE, app.MINE) == ("nodes", "graphs", "storage", "app")
with anyloom.load_engine("pocket") as engine, anyloom.open_store("kept.db") as store:
    tool = anyloom.AnyGPTTool(engine=engine, store=store)
    call = {"type": "tool_call", "id": "1", "name": tool.name, "args": {"text": "draw a red apple", "to": "image"}}
    print(tool.invoke(call).content)
print(anyloom.__file__)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy so that the checkout stays clean."""
    copy, built = tmp_path_factory.mktemp("source") / "copy", tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT, copy, ignore=LEFT)
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(built), str(copy))
    shutil.rmtree(copy)
    [made] = built.glob("anyloom-*.whl")
    return made


def pip(*arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check", *arguments], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_the_wheel_holds_everything_under_one_name(wheel: Path) -> None:
    held = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in held} == {"anyloom"}
    tracked = [ROOT / "py.typed", *(ROOT / "app" / "samples").iterdir(), *(ROOT / "anygpt_model").rglob("*.c")]
    for folder in ("anygpt_model/pocket", "storage/migrations"):
        tracked += [path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    missing = [str(path.relative_to(ROOT)) for path in tracked if f"anyloom/{path.relative_to(ROOT)}" not in held]
    assert not missing


def test_a_project_with_folders_of_our_names_embeds_it(wheel: Path, tmp_path: Path) -> None:
    site, project = tmp_path / "site", tmp_path / "project"
    pip("install", "--no-deps", "--target", str(site), str(wheel))
    for name in ("nodes", "graphs", "storage", "app"):
        (project / name).mkdir(parents=True)
        (project / name / "__init__.py").write_text(f"MINE = {name!r}\n")
    (project / "main.py").write_text(PROJECT)
    known = {**os.environ, "PYTHONPATH": str(site), "ANYLOOM_HOME": str(tmp_path / "home")}
    done = subprocess.run([sys.executable, "main.py"], cwd=project, env=known, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    *said, where = done.stdout.splitlines()
    assert "sha256:" in "\n".join(said)
    assert Path(where).is_relative_to(site)
