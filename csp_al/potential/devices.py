"""Where the potentials run: names as on the command line, and what they stand for on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

WORTH_A_THREAD = 50_000_000
"""Bytes of intermediate results that each thread of a pass must have for its start to pay, on a CPU.

On two cores two threads took 0.84 to 1.72 times as long as one below this size, 1.16 in the median, and 0.62 to 1.08
times above twice the size, 0.77 in the median (`analysis/benchmarks/threads.py`).
"""


def resolve_device(name: str) -> torch.device:
    """The device called "auto", "cpu", "cuda", "cuda:1" or "mps"; auto takes a GPU if there is one.

    Auto never takes "mps", which lacks the double precision that sums of energies need: ask for it by name.
    Raises ValueError, with what is allowed, for a name that is none and for a device that is not there.
    """
    there = available_devices()
    if name == "auto":
        return torch.device("cuda" if "cuda" in there else "cpu")
    kind, colon, number = name.partition(":")
    known = kind in ("cpu", "cuda", "mps") and (not colon or (kind == "cuda" and number.isdecimal()))
    if not known or name not in there:
        what = f"device {name!r} is not there" if known else f"no device is called {name!r}"
        msg = f"{what}; allowed here: auto, {', '.join(there)}"
        raise ValueError(msg)
    return torch.device(name)


def available_devices() -> list[str]:
    """Names of the devices that torch sees here; "cuda" stands for the first of them."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    names = ["cpu", *(["cuda"] if gpus else []), *(f"cuda:{index}" for index in range(gpus))]
    return [*names, *(["mps"] if torch.backends.mps.is_available() else [])]


def use_cores(cores: int) -> None:
    """Compute on so many cores, whatever a user's module has told torch when it was imported."""
    torch.set_num_threads(cores)


@contextmanager
def threads_for(size: int) -> Iterator[None]:
    """Compute on as many of `use_cores` as pay where a pass has so many bytes of intermediate results."""
    most = torch.get_num_threads()
    torch.set_num_threads(max(1, min(most, size // WORTH_A_THREAD)))
    try:
        yield
    finally:
        torch.set_num_threads(most)


def describe_device(device: torch.device) -> str:
    """The device in words: its name and, for a GPU, its model and memory."""
    if device.type != "cuda":
        return f"{device} ({torch.get_num_threads()} threads)" if device.type == "cpu" else str(device)
    properties = torch.cuda.get_device_properties(device)
    return f"{device} ({properties.name}, {properties.total_memory / 2**30:.0f} GiB)"
