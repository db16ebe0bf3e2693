"""How weights are changed by gradients: the optimizers, and gradients kept within bounds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn

__all__ = ["build_optimizer", "clip_gradients", "has_finite_weights"]

OptimizerName = Literal["adam", "adamw", "sgd"]


def build_optimizer(
    name: OptimizerName,
    parameters: Iterable[nn.Parameter],
    *,
    learning_rate: float,
    weight_decay: float = 0.0,
    momentum: float = 0.9,
    betas: tuple[float, float] = (0.9, 0.999),
    epsilon: float = 1e-8,
    fused: bool | None = None,
) -> torch.optim.Optimizer:
    """Return an optimizer over the parameters that have a gradient.

    Parameters
    ----------
    name
        ``adam`` (Kingma & Ba 2015, arXiv:1412.6980), ``adamw`` (Loshchilov & Hutter 2019, arXiv:1711.05101),
        ``sgd`` with Nesterov momentum (Sutskever et al. 2013) if ``momentum`` is not 0.
    parameters
        Of the network, after it was brought to its device.
    learning_rate, momentum, betas, epsilon
        As in the papers.
    weight_decay
        For ``adam`` and ``sgd`` an L2 penalty on all weights; for ``adamw`` decoupled, and not on biases and the
        scales and shifts of norms (all that have one dimension), which it would only pull away from where the data
        wants them.
    fused
        One kernel for the whole update: the same but for rounding, and several times faster. Default: where the
        device has it (CPU and CUDA).

    Raises
    ------
    ValueError
        If there is nothing to be learned, or no optimizer of this name.
    """
    learned = [parameter for parameter in parameters if parameter.requires_grad]
    if not learned:
        raise ValueError("no parameter has a gradient")
    if fused is None:
        fused = all(weight.is_floating_point() and weight.device.type in {"cpu", "cuda"} for weight in learned)
    adam: dict[str, Any] = {"lr": learning_rate, "betas": betas, "eps": epsilon, "fused": fused}
    match name:
        case "adam":
            return torch.optim.Adam(learned, weight_decay=weight_decay, **adam)
        case "adamw":
            groups = [
                {"params": [weight for weight in learned if weight.ndim > 1], "weight_decay": weight_decay},
                {"params": [weight for weight in learned if weight.ndim <= 1], "weight_decay": 0.0},
            ]
            return torch.optim.AdamW([group for group in groups if group["params"]], **adam)
        case "sgd":
            return torch.optim.SGD(
                learned,
                lr=learning_rate,
                momentum=momentum,
                nesterov=momentum > 0,
                weight_decay=weight_decay,
                fused=fused,
            )
    raise ValueError(f"there is no optimizer {name!r}")


@torch.no_grad()
def has_finite_weights(network: nn.Module) -> bool:
    """Return whether all weights and running means of a network are finite numbers; waits for its device once."""
    values = [value for value in (*network.parameters(), *network.buffers()) if value.is_floating_point()]
    if not values:
        return True
    # The largest magnitude cannot overflow as a sum of squares does.
    return bool(torch.isfinite(torch.stack([torch.linalg.vector_norm(value, torch.inf) for value in values])).all())


def clip_gradients(parameters: Iterable[nn.Parameter], largest_norm: float | None = None) -> Tensor:
    """Scale all gradients down together if their norm is too large (Pascanu et al. 2013, arXiv:1211.5063).

    Parameters
    ----------
    parameters
        Those without a gradient are passed over. With a scaled loss call ``scaler.unscale_(optimizer)`` before.
    largest_norm
        Of all gradients as one vector; ``None`` changes nothing.

    Returns
    -------
    Tensor
        The norm before, a scalar on the gradients' device: reading it waits for the device. It is not finite if one
        of the gradients is not; then nothing can be saved by clipping, and the step should be left out.
    """
    learned = [parameter for parameter in parameters if parameter.grad is not None]
    if not learned:
        return torch.zeros(())
    if largest_norm is not None:
        return nn.utils.clip_grad_norm_(learned, largest_norm)
    # Clipping to infinity would do, but turns gradients that are not finite into other ones.
    norms = [torch.linalg.vector_norm(parameter.grad.float()) for parameter in learned if parameter.grad is not None]
    norm: Tensor = torch.linalg.vector_norm(torch.stack(norms))
    return norm
