"""`fetch(name)`: the published weights from their publishers into one folder, in the layout that the loader reads.

What will come, how large it is and under which licence is told first. A branch is resolved to a commit once and the
commit kept in FOLDER/fetched.json, so that a second fetch, or one that goes on after a break, takes the same files.
Every file is checked against the hash that its publisher states. HF_ENDPOINT and HF_TOKEN are honoured; what lies in
the hub's cache under HF_HOME is taken from there, with HF_HUB_OFFLINE from nowhere else. Knows no network but this one,
and no tensor.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .checkpoints import home
from .conversion import convert_folder, pickles, twin
from .errors import CheckpointError, SettingsError, UnknownName
from .published import SOURCES, Source

LOCK = "fetched.json"
_CHUNK = 1 << 20

Tell = Callable[[str], None]
Agree = Callable[["Plan"], bool]


@dataclass(frozen=True, slots=True)
class Item:
    """One file to fetch. target: its path in the model's folder. size: bytes, 0 where the publisher doesn't say.

    at_hand: where it lies on this machine, None where it has to come over the network.
    """

    source: Source
    revision: str
    path: str
    target: str
    size: int
    sha256: str | None
    at_hand: Path | None = None


@dataclass
class Lock:
    """What was fetched: repository -> commit, file -> sha256 of what came (before any conversion), and whether all."""

    revisions: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    complete: bool = False

    @classmethod
    def read(cls, folder: Path) -> Lock:
        """The lock of a folder; an empty one where there is none."""
        path = folder / LOCK
        return cls(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else cls()

    def write(self, folder: Path) -> None:
        """Keep it, whole or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f".{LOCK}.{os.getpid()}"
        temporary.write_text(json.dumps(asdict(self), indent=1, sort_keys=True) + "\n", encoding="utf-8")
        temporary.replace(folder / LOCK)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a fetch would do."""

    name: str
    folder: Path
    items: tuple[Item, ...]

    @property
    def size(self) -> int:
        """Bytes in all."""
        return sum(item.size for item in self.items)

    def lines(self) -> list[str]:
        """The plan for people: each part with its size and licence, then the sum."""
        said = []
        for source in dict.fromkeys(item.source for item in self.items):
            size = sum(item.size for item in self.items if item.source == source)
            said.append(f"{source.part:16} {_gigabytes(size):>10}  {source.repo or source.url}  ({source.licence})")
        return [*said, f"{'in all':16} {_gigabytes(self.size):>10}  to {self.folder}"]


def fetch(name: str, *, tell: Tell | None = None, agree: Agree | None = None, sources: Any = None) -> Path:
    """Fetch a published model; its folder. What is there already, whole, is not fetched again.

    tell: called with lines for people. agree: asked with the plan before anything is downloaded; None: yes.
    sources: instead of the published ones (name -> Source tuple). Raises UnknownName, SettingsError (offline),
    CheckpointError (a hash differs, a pickle is refused).
    """
    table: dict[str, tuple[Source, ...]] = sources or SOURCES
    if name not in table:
        raise UnknownName(f"There are no published weights named {name!r}; use one of {', '.join(table)}.")
    say = tell or (lambda line: None)
    folder = home() / "models" / name
    lock = Lock.read(folder)
    if lock.complete:
        say(f"{name} is complete in {folder}.")
        return folder
    plan = Plan(name, folder, tuple(item for source in table[name] for item in _items(source, folder, lock)))
    for line in plan.lines():
        say(line)
    if agree is not None and not agree(plan):
        raise SettingsError(f"Fetching {name} was declined; nothing was downloaded.")
    lock.write(folder)
    for item in plan.items:
        _bring(item, folder, lock, say)
    waiting = pickles(folder)
    convert_folder(folder)
    for file in waiting:
        file.unlink()
    lock.complete = True
    lock.write(folder)
    shutil.rmtree(folder / ".fetching", ignore_errors=True)
    return folder


def _items(source: Source, folder: Path, lock: Lock) -> list[Item]:
    """The files of a source at the locked commit, or at the branch's commit now, which is locked thereby."""
    if source.url:
        return [_plain_item(source, folder)]
    if _offline():
        return _cached_items(source, lock)
    from huggingface_hub import HfApi

    try:
        api = HfApi(endpoint=_endpoint())
        info = api.model_info(source.repo, revision=lock.revisions.get(source.repo), files_metadata=True)
    except _unreachable() as error:
        raise SettingsError(f"{source.repo} can't be reached ({_first(error)}); look at HF_ENDPOINT.") from error
    lock.revisions.setdefault(source.repo, str(info.sha))
    files = {file.rfilename: file for file in info.siblings or []}
    large = {name: file.lfs for name, file in files.items()}
    return [
        Item(source, str(info.sha), name, _target(source, name), files[name].size or 0, kept.sha256 if kept else None)
        for name, kept in ((name, large[name]) for name in _wanted(source, files))
    ]


def _plain_item(source: Source, folder: Path) -> Item:
    """The one file of a source outside the hub; one that somebody has put into its place is taken as it is."""
    target = f"{source.part}/{source.url.rpartition('/')[2]}"
    there = folder / target
    found = next((path for path in (there, twin(there)) if path.is_file()), None)
    if found is not None:
        return Item(source, "", source.url, target, found.stat().st_size, None, found)
    if _offline():
        raise SettingsError(
            f"HF_HUB_OFFLINE is set, so {source.url} can't be fetched; put the file into {there.parent}, or unset it."
        )
    return Item(source, "", source.url, target, _remote_size(source.url), None)


def _cached_items(source: Source, lock: Lock) -> list[Item]:
    """The files of a source in the hub's own cache; those kept apart for their size are named by their hash there."""
    from huggingface_hub import snapshot_download

    try:
        snapshot = Path(snapshot_download(source.repo, revision=lock.revisions.get(source.repo), local_files_only=True))
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"HF_HUB_OFFLINE is set and {source.repo} is not in the cache under HF_HOME, so it can't be fetched; "
            "unset it, or bring the cache."
        ) from error
    lock.revisions.setdefault(source.repo, snapshot.name)
    files = {path.relative_to(snapshot).as_posix(): path for path in snapshot.rglob("*") if path.is_file()}
    names = _wanted(source, files)
    if not names:
        raise SettingsError(f"The cache under HF_HOME holds nothing of {source.repo} that is needed; fetch it online.")
    return [
        Item(source, snapshot.name, name, _target(source, name), files[name].stat().st_size, _blob_hash(files[name]),
             files[name])
        for name in names
    ]  # fmt: skip


def _wanted(source: Source, names: Iterable[str]) -> list[str]:
    """The names that a source's patterns ask for; pickles only where there are no safetensors."""
    wanted = [name for name in names if any(fnmatch.fnmatch(name, pattern) for pattern in source.files)]
    has_safe = any(name.endswith(".safetensors") for name in wanted)
    return [name for name in wanted if not (has_safe and name.endswith(".bin"))]


def _target(source: Source, name: str) -> str:
    return f"{source.part}/{name.removeprefix(source.strip)}"


def _blob_hash(cached: Path) -> str | None:
    name = cached.resolve().name
    return name if len(name) == hashlib.sha256().digest_size * 2 else None


def _bring(item: Item, folder: Path, lock: Lock, say: Tell) -> None:
    """Download and check one file; nothing where that is done."""
    target = folder / item.target
    if item.target in lock.files and (target.is_file() or twin(target).is_file()):
        return
    say(f"{item.target} …")
    target.parent.mkdir(parents=True, exist_ok=True)
    in_place = item.at_hand is not None and item.at_hand.parent == target.parent
    if not in_place:
        _download(item, folder, target)
    found = _sha256(item.at_hand if in_place and item.at_hand else target)
    if item.sha256 is not None and found != item.sha256:
        target.unlink()
        raise CheckpointError(
            f"{item.target} came with the hash {found[:12]}… where {item.sha256[:12]}… is stated; fetch it again."
        )
    lock.files[item.target] = found
    lock.write(folder)


def _download(item: Item, folder: Path, target: Path) -> None:
    if item.at_hand is not None:
        shutil.copyfile(item.at_hand, target)
        return
    if item.source.url:
        _download_url(item.source.url, target)
        return
    from huggingface_hub import hf_hub_download

    staging = folder / ".fetching" / item.source.part
    try:
        came = hf_hub_download(
            item.source.repo, item.path, revision=item.revision, local_dir=staging, endpoint=_endpoint()
        )
    except _unreachable() as error:
        raise SettingsError(
            f"{item.target} can't be fetched ({_first(error)}); run the same command again to go on."
        ) from error
    Path(came).replace(target)


def _download_url(url: str, target: Path) -> None:
    """Download a plain URL, going on where an earlier try broke off."""
    partial = target.with_name(target.name + ".part")
    start = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            resumed = answer.status == 206
            with partial.open("ab" if resumed else "wb") as stream:
                while chunk := answer.read(_CHUNK):
                    stream.write(chunk)
    except urllib.error.HTTPError as error:
        if error.code != 416:  # 416: the partial file is whole already
            raise SettingsError(f"{url} can't be fetched ({error}); try again later.") from error
    except OSError as error:
        raise SettingsError(f"{url} can't be fetched ({error}); run the same command again to go on.") from error
    partial.replace(target)


def _remote_size(url: str) -> int:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=60) as answer:
            return int(answer.headers.get("Content-Length") or 0)
    except OSError as error:
        raise SettingsError(f"{url} can't be reached ({error}); try again with a connection.") from error


def _offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def _unreachable() -> tuple[type[Exception], ...]:
    """What the hub's client raises when the network fails."""
    from huggingface_hub import errors

    # The library beneath the client, and so the base of its errors, differs between the client's versions.
    return (errors.HfHubHTTPError.__mro__[1], errors.OfflineModeIsEnabled, OSError, ValueError, RuntimeError)


def _endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT") or None


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 10_000_000 else f"{size / 1e6:.2f} MB"


def _first(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
