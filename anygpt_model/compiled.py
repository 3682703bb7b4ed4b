"""The forward pass as machine code: step.c, built by the machine's own compiler, kept in the user's cache.

Where no compiler is found, it fails, or the sizes don't fit, `open_step` says so in the log and returns None: the same
step then runs operation by operation. Building takes about a second, once; ANYLOOM_COMPILED=0 does without. Uses
as many threads as torch does, of its own. Knows no token and no sampling.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import shutil
import subprocess
import tempfile
import threading
import time
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .caches import Prefix, Slots
    from .llama import Layer
    from .llama_shape import LlamaShape

_SOURCE = Path(__file__).with_name("step.c")
_FLAGS = ("-O3", "-march=native", "-ffp-contract=off", "-pthread", "-fPIC")
_SIZES = ("hidden", "wide", "layers", "heads", "kv_heads", "head_dim", "positions")
_PLACES = ("embedding", "norm", "rotations", "norms", "products", "caches")
_KINDS = {torch.float32: (), torch.bfloat16: ("-DBFLOAT16",)}
_STEPS = {torch.float32: 16, torch.bfloat16: 32}
"""Weights that are read at a time: what every width must be a multiple of."""
_WORK = 8 << 20
"""Products of two numbers that are worth a thread: with less each, waiting for one another costs more."""
_TIME_LIMIT = 120
"""Seconds that a compiler may take."""
_log = logging.getLogger(__name__)


class _Model(ctypes.Structure):
    """step.c's `model`."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in _SIZES),
        ("eps", ctypes.c_float),
        *((name, ctypes.c_void_p) for name in _PLACES),
    )


class CompiledStep:
    """One model's passes, one at a time; holds the weights that it points to."""

    def __init__(self, library: ctypes.CDLL, shape: LlamaShape, weights: _Weights) -> None:
        self._library = library
        self._weights = weights
        self._head = weights.head
        self._hidden = shape.hidden
        self._model = _Model(
            shape.hidden, shape.intermediate, shape.layers, shape.heads, shape.kv_heads, shape.head_dim, 0, shape.eps,
            weights.embedding.data_ptr(), weights.norm.data_ptr(), 0,
            ctypes.addressof(weights.norms), ctypes.addressof(weights.products), 0,
        )  # fmt: skip
        self._caches: weakref.ref[Slots] | None = None
        self._pointers: Any = None
        self._lock, self._process = threading.Lock(), os.getpid()
        self._room = torch.empty(0)
        self._rotations = torch.empty(0)

    def turn_by(self, rotations: Tensor) -> None:
        """Take rotary positions, complex [positions, head_dim / 2]."""
        self._rotations = torch.view_as_real(rotations).contiguous()
        self._model.rotations = self._rotations.data_ptr()

    def decode(self, ids: Sequence[int], lengths: Sequence[int], slots: Slots) -> Tensor:
        """One id [b] for each of the first slots, which hold `lengths` [b] ids -> states [b, hidden], normed."""
        with self._alone():
            if self._caches is None or self._caches() is not slots:
                pairs = zip(slots.keys, slots.values, strict=True)
                self._use([tensor for pair in pairs for tensor in pair])
                self._caches = weakref.ref(slots)  # whoever holds the caches decides when they are freed
            return self._forward(ids, range(len(ids)), lengths)

    def prefill(self, ids: Sequence[int], prefix: Prefix) -> Tensor:
        """`ids` [n] at the end of `prefix` -> states [n, hidden], normed: bit for bit what n steps give."""
        with self._alone():
            self._caches = None
            self._use([part for layer in prefix.data for part in layer])
            return self._forward(ids, [0] * len(ids), range(prefix.length, prefix.length + len(ids)))

    def _alone(self) -> threading.Lock:
        """One pass at a time: a verification may run beside the decoding thread. A child of fork begins anew."""
        if self._process != os.getpid():
            self._lock, self._process, self._caches = threading.Lock(), os.getpid(), None
        return self._lock

    def _use(self, tensors: Sequence[Tensor]) -> None:
        """Read and write `tensors` [..., positions, head_dim]: keys and values of each layer."""
        self._pointers = _pointers(tensors)
        self._model.caches = ctypes.addressof(self._pointers)
        self._model.positions = tensors[0].shape[-2]

    def _forward(self, ids: Sequence[int], slots: Sequence[int], lengths: Sequence[int]) -> Tensor:
        rows = len(ids)
        threads = min(torch.get_num_threads(), max(1, rows * self._weights.size // _WORK))
        needed = self._library.decode_room(ctypes.byref(self._model), rows, threads)
        if len(self._room) < needed:
            self._room = torch.empty(needed)
        states = torch.empty(rows, self._hidden, dtype=self._head.dtype)
        numbers = ctypes.c_int64 * rows
        self._library.decode(
            ctypes.byref(self._model), rows, numbers(*ids), numbers(*slots), numbers(*lengths),
            states.data_ptr(), self._room.data_ptr(), threads,
        )  # fmt: skip
        return states

    def logits(self, states: Tensor, runs: Sequence[tuple[int, int]]) -> Tensor:
        """states [rows, hidden] -> float32 logits [rows, n] of runs of ids: the first of each and how many."""
        x = states.to(self._head.dtype).contiguous()
        width = sum(count for _, count in runs)
        threads = min(torch.get_num_threads(), max(1, len(x) * width * self._hidden // _WORK))
        found, room = torch.empty(len(x), width), torch.empty(x.shape)
        flat = (ctypes.c_int64 * (2 * len(runs)))(*(number for run in runs for number in run))
        self._library.outputs(
            self._head.data_ptr(), self._hidden, x.data_ptr(), len(x), flat, len(runs),
            found.data_ptr(), width, room.data_ptr(), threads,
        )  # fmt: skip
        return found


class _Weights:
    """What step.c reads, kept alive: norms in float32, products as [out, in]."""

    def __init__(self, embedding: Tensor, norm: Tensor, head: Tensor, layers: Sequence[Layer]) -> None:
        self.embedding, self.head, self.norm = embedding.contiguous(), head.contiguous(), norm.float()
        norms = [scale.float() for layer in layers for scale in (layer.attention_norm, layer.mlp_norm)]
        linears = [x for layer in layers for x in (layer.qkv, layer.out, layer.gate, layer.up, layer.down)]
        products = [linear.weight.contiguous() for linear in linears if linear.weight is not None]
        self.kept = (norms, products)
        self.size = sum(product.numel() for product in products)
        self.norms, self.products = _pointers(norms), _pointers(products)


def _pointers(tensors: Sequence[Tensor]) -> Any:
    return (ctypes.c_void_p * len(tensors))(*(tensor.data_ptr() for tensor in tensors))


def fits(shape: LlamaShape, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether step.c can serve this model and the user wants it to."""
    wanted = os.environ.get("ANYLOOM_COMPILED", "1") != "0"
    if not wanted or device.type != "cpu" or dtype not in _KINDS:
        return False
    widths = (shape.hidden, shape.intermediate, shape.heads * shape.head_dim)
    return all(size % _STEPS[dtype] == 0 for size in widths) and shape.head_dim % 16 == 0


def build(dtype: torch.dtype) -> ctypes.CDLL | None:
    """step.c for weights of `dtype`, built unless the cache has it; None where that can't be done, with the reason
    logged."""
    compiler = shutil.which(os.environ.get("CC") or "cc") or shutil.which("gcc")
    if compiler is None:
        _log.info("No C compiler is here: ids are decoded operation by operation; install gcc for a faster step.")
        return None
    try:
        return _loaded(_built(compiler, (*_FLAGS, *_KINDS[dtype])))
    except (OSError, subprocess.SubprocessError) as error:
        _log.info("The compiled step can't be used (%s): ids are decoded operation by operation.", error)
        return None


def open_step(
    shape: LlamaShape, library: ctypes.CDLL, embedding: Tensor, norm: Tensor, head: Tensor, layers: Sequence[Layer]
) -> CompiledStep:
    """The step of one model. embedding, head: [vocabulary, hidden]; the layers' weights are [out, in]."""
    return CompiledStep(library, shape, _Weights(embedding, norm, head, layers))


def _loaded(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    integer, pointer = ctypes.c_int64, ctypes.c_void_p
    library.decode_room.argtypes, library.decode_room.restype = [pointer, integer, integer], integer
    library.decode.argtypes, library.decode.restype = [pointer, integer, *[pointer] * 5, integer], None
    library.prepare.argtypes, library.prepare.restype = [], None
    library.prepare()
    library.outputs.argtypes, library.outputs.restype = (
        [pointer, integer, pointer, integer, pointer, integer, pointer, integer, pointer, integer], None,
    )  # fmt: skip
    return library


def _built(compiler: str, flags: Sequence[str]) -> Path:
    """The library's file; its name tells source, flags, compiler and processor, so that a change of one builds anew."""
    version = subprocess.run([compiler, "--version"], capture_output=True, check=True, timeout=_TIME_LIMIT).stdout
    about = (_SOURCE.read_bytes(), " ".join(flags).encode(), version, _processor(), torch.__version__.encode())
    target = _folder() / f"step-{hashlib.sha256(b'|'.join(about)).hexdigest()[:20]}.so"
    if not target.is_file():
        started = time.perf_counter()
        with tempfile.TemporaryDirectory(dir=target.parent) as room:
            part, whole = Path(room) / "step.o", Path(room) / "step.so"
            link = ["-shared", str(part), "-o", str(whole), "-pthread", "-lm"]
            for command in ([*flags, "-c", str(_SOURCE), "-o", str(part)], link):
                subprocess.run([compiler, *command], capture_output=True, check=True, timeout=_TIME_LIMIT)
            whole.replace(target)
        _log.info("Built the decoding step in %.1f s, once for this machine.", time.perf_counter() - started)
    return target


def _folder() -> Path:
    """Where built code is kept: the user's own cache, readable by nobody else; a folder of this process without one."""
    from platformdirs import user_cache_path

    folder = user_cache_path("anyloom", appauthor=False)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.access(folder, os.W_OK) and folder.stat().st_uid == os.getuid() and not folder.stat().st_mode & 0o022:
            return folder
    except OSError:
        pass
    return Path(tempfile.mkdtemp(prefix="anyloom-"))


def _processor() -> bytes:
    """What the code was built for, as far as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_bytes().split(b"\n")
    except OSError:
        return b""
    return b"".join(line for line in lines[:40] if line.startswith((b"flags", b"Features", b"model")))
