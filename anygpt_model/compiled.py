"""The forward pass as machine code (step.c), where that can be built and the sizes fit; else the same pass runs
operation by operation. Uses as many threads as torch does, of its own. Knows no token and no sampling.
"""

from __future__ import annotations

import ctypes
import os
import threading
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .machine_code import library, wanted

if TYPE_CHECKING:
    from .caches import Prefix, Slots
    from .llama import Layer
    from .llama_shape import LlamaShape

_FLAGS = ("-ffp-contract=off",)
_SIZES = ("hidden", "wide", "layers", "heads", "kv_heads", "head_dim", "positions")
_PLACES = ("embedding", "norm", "rotations", "norms", "products", "caches")
_KINDS = {torch.float32: (), torch.bfloat16: ("-DBFLOAT16",)}
_STEPS = {torch.float32: 16, torch.bfloat16: 32}
"""Weights that are read at a time: what every width must be a multiple of."""
_WORK = 8 << 20
"""Products of two numbers that are worth a thread: with less each, waiting for one another costs more."""


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
    if not wanted() or device.type != "cpu" or dtype not in _KINDS:
        return False
    widths = (shape.hidden, shape.intermediate, shape.heads * shape.head_dim)
    return all(size % _STEPS[dtype] == 0 for size in widths) and shape.head_dim % 16 == 0


def build(dtype: torch.dtype) -> ctypes.CDLL | None:
    """step.c for weights of `dtype`; None where that can't be built."""
    found = library("step.c", (*_FLAGS, *_KINDS[dtype]), "ids are decoded operation by operation")
    return None if found is None else _declared(found)


def open_step(
    shape: LlamaShape, library: ctypes.CDLL, embedding: Tensor, norm: Tensor, head: Tensor, layers: Sequence[Layer]
) -> CompiledStep:
    """The step of one model. embedding, head: [vocabulary, hidden]; the layers' weights are [out, in]."""
    return CompiledStep(library, shape, _Weights(embedding, norm, head, layers))


def _declared(library: ctypes.CDLL) -> ctypes.CDLL:
    integer, pointer = ctypes.c_int64, ctypes.c_void_p
    library.decode_room.argtypes, library.decode_room.restype = [pointer, integer, integer], integer
    library.decode.argtypes, library.decode.restype = [pointer, integer, *[pointer] * 5, integer], None
    library.prepare.argtypes, library.prepare.restype = [], None
    library.prepare()
    library.outputs.argtypes, library.outputs.restype = (
        [pointer, integer, pointer, integer, pointer, integer, pointer, integer, pointer, integer], None,
    )  # fmt: skip
    return library
