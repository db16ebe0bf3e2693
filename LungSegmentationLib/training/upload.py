"""Small tensors on their way from the CPU to the training device, without making the CPU wait for it."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["upload"]


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """Return the tensor on a device; for a few kilobytes, such as parameters and indices.

    A plain ``to`` from pageable memory waits until the GPU has done all that was queued before. CUDA stages small
    asynchronous copies before it returns, so the source may go at once (CUDA Runtime API, API synchronization
    behavior); other backends do not promise that.
    """
    return tensor.to(device, non_blocking=device.type == "cuda")
