"""The networks themselves: a graph in, energies and representations of its atoms out."""

import sys

if sys.version_info < (3, 12):
    # schnetpack 2.0.4, the newest that runs on Python 3.11 beside a current torch, imports this type variable under
    # the name that it had before torch 2.11.
    import torch.utils.data.dataloader as _dataloader

    if not hasattr(_dataloader, "T_co"):
        _dataloader.T_co = _dataloader._T_co  # type: ignore[attr-defined]  # noqa: SLF001
