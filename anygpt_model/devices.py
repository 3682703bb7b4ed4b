"""Where to compute and in which numbers, chosen from the machine. Knows no network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .errors import SettingsError

if TYPE_CHECKING:
    import torch


def chosen_device(name: str | None) -> torch.device:
    """The device called `name`; None: a GPU if there is one. Raises SettingsError for one that can't be used."""
    import torch

    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # "meta" makes tensors that hold nothing
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise SettingsError(
            f"The device {name!r} can't be used here; use cpu, or cuda on a machine with one."
        ) from error
    return device


def chosen_dtype(name: str | None, device: torch.device) -> torch.dtype:
    """The dtype called `name`; None: float32 on a CPU, bfloat16 on a GPU, float16 on one that lacks it."""
    import torch

    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name is None and device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if name is None:
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    if name not in known:
        raise SettingsError(f"The dtype {name!r} came; use one of {', '.join(known)}.")
    return known[name]


def halves_fast(device: torch.device | str) -> bool:
    """Whether bfloat16 products are faster than float32 ones: on a GPU, and on a CPU with instructions for them.

    Where a CPU has none they are emulated, some fifty times slower.
    """
    import torch

    if torch.device(device).type != "cpu":
        return True
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("arm_bf16"))


def mixed_precision(device: torch.device | str) -> torch.autocast:
    """Autocast to bfloat16 where that is faster; elsewhere it changes nothing."""
    import torch

    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=halves_fast(device))
