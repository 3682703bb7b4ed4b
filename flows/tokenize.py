"""The flow `tokenize`: media -> shards of codes, to train on. Each medium is tokenized once, whatever interrupts it.

A shard is a safetensors file of one modality: `codes` (int32, every medium's codes in a row, frame by frame: the
codebooks of the first frame, then those of the second) and `offsets` (int64, where each medium begins, and the end).
`codes.jsonl` says which input is which row of which shard, with its text and metadata. Knows no language model.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import numpy as np
from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from pydantic import Field

from ..anygpt_model.errors import InputError
from ..anygpt_model.media import Limits
from ..anygpt_model.values import Modality
from ..graphs.handles import to_block
from ..nodes.tokenization import tokenize as tokenized
from ..storage.jobs import Item
from .convert import Share, ended, here_and_now, on_failure, worker_name
from .crashed import tell_crashed
from .destination import Destination
from .ledger import Asked
from .planning import Order, leading, order
from .runners import check_database, task_runner
from .running import Terms, dry, open_store, run_job
from .shards import Result, Shard, each
from .sources import Source
from .watching import Answer
from .workplace import Workplace, workplace

if TYPE_CHECKING:
    from ..storage.store import Store

CODES = "codes.jsonl"
Document = dict[str, Any]


class Tokenization:
    """One item: its media are read into the store's memo; the ledger keeps which they are and how long."""

    def __init__(self, place: Workplace, source: Source) -> None:
        self._place = place
        self._source = source

    def __call__(self, item: Item) -> Result:
        """The item's media, tokenized. Raises InputError for an item without any, and what a medium raises."""
        if not item.source["media"]:
            raise InputError("There is no medium to tokenize; give the item a picture or a sound.")
        media = [self._medium(path, said) for path, said in item.source["media"]]
        tokens = sum(entry["codebooks"] * entry["frames"] for entry in media)
        return Result(None, {"text": item.source["text"], "files": [], "media": media, "tokens": tokens})

    def _medium(self, path: str, said: str | None) -> Document:
        store, engine = self._place.store, self._place.engine
        limits = Limits()
        block = to_block(store, self._source.read(path, limits.max_bytes), said)
        kind, hash = Modality(block["extras"]["anyloom"]["modality"]), str(block["file_id"])
        tokenized(kind, hash, engine, store, limits)
        fingerprint = engine.fingerprints[kind.value]
        codes = store.codes(hash, fingerprint)
        if codes is None:
            raise InputError(f"{path} was made by this model, so its codes are not a reading; give another file.")
        books, frames = codes.shape
        return {"hash": hash, "modality": kind.value, "memo": fingerprint, "codebooks": books, "frames": frames}


@task(name="tokens", task_run_name="tokens {number}", cache_policy=NO_CACHE, persist_result=False)
def tokenize_shard(document: Document, number: int, size: int, deadline: float | None = None) -> dict[str, int]:
    """Claim at most `size` items of the job and tokenize their media; how many were done and how many failed."""
    given = Order.from_document(document)
    place = workplace(given.model, given.device, given.database)
    work = Tokenization(place, Source(given.source))
    return Shard(place.store.jobs.job(given.job), place.store, each(work), deadline).work(worker_name(number), size)


@flow(
    name="tokenize",
    flow_run_name="tokenize {source}",
    task_runner=task_runner(),
    on_failure=[cast(Any, on_failure)],
    on_crashed=[cast(Any, on_failure)],
    persist_result=False,
)
def tokenize(
    source: str,
    out: str,
    model: str | None = None,
    columns: dict[str, str] | None = None,
    limit: Annotated[int, Field(ge=0)] | None = None,
    retry_failed: bool = False,
    only_stale: bool = False,
    shard: Annotated[int, Field(ge=1)] | None = None,
    stop_after: Annotated[float, Field(ge=0)] | None = None,
    rows: Annotated[int, Field(ge=1)] = 1000,
    max_failed_share: Share = 1.0,
) -> Any:
    """Tokenize every medium of a source, for training.

    Args:
        source: A folder, a glob, a CSV or JSONL table, or an fsspec URL of one.
        out: The folder (or fsspec URL) for the shards and their tables.
        model: A model's name or folder; by default what ANYLOOM_MODEL says.
        columns: Which of the table's columns serve as ours.
        limit: At most so many items in this run.
        retry_failed: Take failed items again.
        only_stale: Leave new inputs for later.
        shard: Items a task carries; by default as many as suit their number and the workers.
        stop_after: Seconds after which no item is begun.
        rows: Media a file of codes holds.
        max_failed_share: The run fails if more than this share of its items did.
    """
    given = order(source, out, Asked("text"), model, columns, verb="tokenize")
    check_database(given.database)
    with leading(given.job):
        tell_crashed()
        answer, told = run_job(given, Terms(limit, retry_failed, only_stale, shard, stop_after), tokenize_shard.submit)
        with open_store(given) as store:
            write_codes(store, Destination(given.out), told, rows)
    return ended(answer, max_failed_share)


def run_tokenize(source: str, *, out: str | Path, quiet: bool = False, dry_run: bool = False, **options: Any) -> Answer:
    """Run the flow here and now; as `run_convert`. options: the flow's own."""
    given = order(source, str(out), Asked("text"), options.get("model"), options.get("columns"), verb="tokenize")
    terms = Terms(**{name: options[name] for name in Terms.__dataclass_fields__ if name in options})
    if dry_run:
        return dry(given, terms)
    return here_and_now(tokenize, given, {**options, "source": source, "out": given.out}, quiet)


def write_codes(store: Store, place: Destination, told: Sequence[Document], rows: int) -> list[str]:
    """Write the codes of what is done, `rows` media a file, in the manifest's order; the files' names."""
    kinds: dict[str, list[tuple[Document, Document]]] = {}
    for row in told:
        for medium in row["media"]:
            kinds.setdefault(medium["modality"], []).append((row, medium))
    lines, names = [], []
    for kind, found in sorted(kinds.items()):
        for start in range(0, len(found), rows):
            some = found[start : start + rows]
            names.append(place.put(f"{kind}-{start // rows + 1:05d}.safetensors", packed(store, some)))
            lines += [_line(row, medium, names[-1], number) for number, (row, medium) in enumerate(some)]
    place.put_lines(CODES, lines)
    return names


def packed(store: Store, media: Sequence[tuple[Document, Document]]) -> bytes:
    """A shard's bytes."""
    from safetensors.numpy import save

    codes = [_codes(store, medium).T.reshape(-1).astype(np.int32) for _, medium in media]
    offsets = np.cumsum([0, *(len(entry) for entry in codes)], dtype=np.int64)
    first = media[0][1]
    about = {"modality": first["modality"], "codebooks": str(first["codebooks"]), "codec": first["memo"]}
    return bytes(save({"codes": np.concatenate(codes), "offsets": offsets}, metadata=about))


def _codes(store: Store, medium: Document) -> Any:
    codes = store.codes(medium["hash"], medium["memo"])
    if codes is None:
        raise InputError(f"The codes of {medium['hash']} are gone from the store; tokenize into another folder.")
    return codes


def _line(row: Document, medium: Document, name: str, number: int) -> Document:
    about = {"file": name, "row": number, "modality": medium["modality"], "frames": medium["frames"]}
    return {
        "name": row["name"],
        **about,
        "hash": medium["hash"],
        "text": row["input_text"],
        "metadata": row["metadata"],
    }
