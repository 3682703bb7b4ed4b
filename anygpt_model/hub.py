"""`fetch(name)`: the published weights from their publishers into one folder, in the layout that the loader reads.

What will come, how large it is and under which licence is told first. A branch is resolved to a commit once and the
commit kept in FOLDER/fetched.json, so that a second fetch, or one that goes on after a break, takes the same files.
Every file is checked against the hash that its publisher states. HF_ENDPOINT, HF_HOME, HF_TOKEN and HF_HUB_OFFLINE are
honoured. Knows no network but this one, and no tensor.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .checkpoints import PUBLISHED, home
from .conversion import convert_folder, pickles, twin
from .errors import CheckpointError, SettingsError, UnknownName

LOCK = "fetched.json"
EVA_VIT = "https://storage.googleapis.com/sfr-vision-language-research/LAVIS/models/BLIP2/eva_vit_g.pth"
"""SEED's vision tower; its publisher keeps it outside the hub, without a stated hash."""
_CHUNK = 1 << 20

Tell = Callable[[str], None]
Agree = Callable[["Plan"], bool]


@dataclass(frozen=True, slots=True)
class Source:
    """Where one part comes from. files: patterns within the repository, or "" with a `url`. part: its subfolder.

    strip: leading folder of the repository's paths that the layout doesn't have.
    """

    part: str
    licence: str
    repo: str = ""
    files: tuple[str, ...] = ()
    strip: str = ""
    url: str = ""


_LLM_FILES = ("*.json", "tokenizer.model", "*.safetensors", "pytorch_model*.bin")
_SHARED = (
    Source("seed", "Apache-2.0, parts BSD-3-Clause", "AILab-CVC/seed-tokenizer-2", ("seed_quantizer.pt",)),
    Source("seed", "BSD-3-Clause (LAVIS)", url=EVA_VIT),
    Source(
        "unclip",
        "CreativeML Open RAIL++-M",
        "sd2-community/stable-diffusion-2-1-unclip",
        (
            "model_index.json", "scheduler/*", "image_noising_scheduler/*", "tokenizer/*", "text_encoder/config.json",
            "text_encoder/model.safetensors", "unet/config.json", "unet/diffusion_pytorch_model.safetensors",
            "vae/config.json", "vae/diffusion_pytorch_model.safetensors", "image_normalizer/*",
        ),
    ),
    Source(
        "speechtokenizer", "Apache-2.0", "fnlp/AnyGPT-speech-modules", ("speechtokenizer/*",), strip="speechtokenizer/"
    ),
    Source("soundstorm", "MIT", "fnlp/AnyGPT-speech-modules", ("soundstorm/*",), strip="soundstorm/"),
    Source("encodec", "CC-BY-NC-4.0 (non-commercial)", "facebook/encodec_32khz", ("config.json", "*.safetensors")),
)  # fmt: skip
_LLAMA = "Apache-2.0 by its card, the LLaMA 2 Community Licence by its README (not permissive)"
SOURCES: dict[str, tuple[Source, ...]] = {
    name: (Source("llm", _LLAMA, repo, _LLM_FILES), *_SHARED)
    for name, repo in zip(PUBLISHED, ("fnlp/AnyGPT-chat", "fnlp/AnyGPT-base"), strict=True)
}


@dataclass(frozen=True, slots=True)
class Item:
    """One file to fetch. target: its path in the model's folder. size: bytes, 0 where the publisher doesn't say."""

    source: Source
    revision: str
    path: str
    target: str
    size: int
    sha256: str | None


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
    plan = Plan(name, folder, tuple(item for source in table[name] for item in _items(source, lock)))
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


def _items(source: Source, lock: Lock) -> list[Item]:
    """The files of a source at the locked commit, or at the branch's commit now, which is locked thereby."""
    if source.url:
        name = source.url.rpartition("/")[2]
        return [Item(source, "", source.url, f"{source.part}/{name}", _remote_size(source.url), None)]
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    _online(source.repo)
    try:
        api = HfApi(endpoint=_endpoint())
        info = api.model_info(source.repo, revision=lock.revisions.get(source.repo), files_metadata=True)
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError) as error:
        raise SettingsError(f"{source.repo} can't be reached ({_first(error)}); look at HF_ENDPOINT.") from error
    lock.revisions.setdefault(source.repo, str(info.sha))
    wanted = [file for file in info.siblings or [] if any(fnmatch.fnmatch(file.rfilename, p) for p in source.files)]
    has_safe = any(file.rfilename.endswith(".safetensors") for file in wanted)
    return [
        Item(source, str(info.sha), file.rfilename, f"{source.part}/{file.rfilename.removeprefix(source.strip)}",
             file.size or 0, file.lfs.sha256 if file.lfs else None)
        for file in wanted
        if not (has_safe and file.rfilename.endswith(".bin"))
    ]  # fmt: skip


def _bring(item: Item, folder: Path, lock: Lock, say: Tell) -> None:
    """Download and check one file; nothing where that is done."""
    target = folder / item.target
    if item.target in lock.files and (target.is_file() or twin(target).is_file()):
        return
    say(f"{item.target} …")
    target.parent.mkdir(parents=True, exist_ok=True)
    _download(item, folder, target)
    found = _sha256(target)
    if item.sha256 is not None and found != item.sha256:
        target.unlink()
        raise CheckpointError(
            f"{item.target} came with the hash {found[:12]}… where {item.sha256[:12]}… is stated; fetch it again."
        )
    lock.files[item.target] = found
    lock.write(folder)


def _download(item: Item, folder: Path, target: Path) -> None:
    if item.source.url:
        _download_url(item.source.url, target)
        return
    from huggingface_hub import hf_hub_download

    staging = folder / ".fetching" / item.source.part
    came = hf_hub_download(item.source.repo, item.path, revision=item.revision, local_dir=staging, endpoint=_endpoint())
    Path(came).replace(target)


def _download_url(url: str, target: Path) -> None:
    """Download a plain URL, going on where an earlier try broke off."""
    _online(url)
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
    _online(url)
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=60) as answer:
            return int(answer.headers.get("Content-Length") or 0)
    except OSError as error:
        raise SettingsError(f"{url} can't be reached ({error}); try again with a connection.") from error


def _online(what: str) -> None:
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise SettingsError(f"HF_HUB_OFFLINE is set, so {what} can't be fetched; unset it, or use a folder you have.")


def _endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT") or None


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 10_000_000 else f"{size / 1e6:.2f} MB"


def _first(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
