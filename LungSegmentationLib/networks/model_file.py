"""The model file: weights as safetensors with a JSON card in the header. Reading it runs no code that it holds.

A safetensors file is eight bytes with the length of a JSON header (little endian), the header, and the numbers.
"""

from __future__ import annotations

import json
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from LungSegmentationLib.cohort.paths import RunPaths
from LungSegmentationLib.errors import BadInputError
from LungSegmentationLib.networks.card import ModelCard, parse_card
from LungSegmentationLib.storage import atomic_path

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from LungSegmentationLib.networks.unet import UNet

    # Type and shape of a tensor, as safetensors spells them.
    _Kind = tuple[str, tuple[int, ...]]

__all__ = ["load_model", "model_file", "read_card", "read_shapes", "save_model"]

CARD_KEY = "lungsegmentation"
# The header of the largest network here takes 40 KB and a card 20 KB; what claims more is no model of ours.
MAX_HEADER = 16 * 2**20
_PICKLE_STARTS = (b"PK", *(b"\x80" + bytes([protocol]) for protocol in range(2, 6)))
_BYTES = {"F32": 4, "I64": 8}


def save_model(path: str | Path, network: torch.nn.Module, card: ModelCard) -> None:
    """Write a model, whole or not at all.

    Parameters
    ----------
    path
        File, by convention ending in ``.safetensors``. An old one is replaced only when the new one is on the disk.
    network
        As :func:`.unet.build_network` made it, on any device; not wrapped for several processes or by a compiler.
    card
        Describes it; ``card.network`` must be its architecture.

    Raises
    ------
    BadInputError
        If a weight is not a finite number.
    StorageError
        If the disk is full or the folder cannot be written.
    ValueError
        If the weights are not those of ``card.network``.
    """
    import safetensors.torch
    import torch

    path = Path(path)
    expected = _described(_empty_network(card).state_dict())
    tensors = {name: tensor.detach().to("cpu").contiguous() for name, tensor in network.state_dict().items()}
    found = _described(tensors)
    if found != expected:
        different = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
        raise ValueError(f"the network is not the one on its card; different: {different[:5]}")
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise BadInputError(
                f"The network is not saved to {path}: its weights {name} are not all numbers.",
                "The training diverged; train with a lower learning rate.",
            )
    content = safetensors.torch.save(tensors, {"format": "pt", CARD_KEY: card.model_dump_json()})
    with atomic_path(path) as partial:
        partial.write_bytes(content)


def model_file(path: str | Path) -> Path:
    """Return the file of a model; of the folder of a run, that of its best network.

    Raises
    ------
    BadInputError
        If the folder holds none.
    """
    path = Path(path)
    if not path.is_dir():
        return path
    best = RunPaths(path).model
    if not best.is_file():
        raise BadInputError(
            f"{path} is a folder without a model {best.name}.", "Choose a model file, or the folder of a run."
        )
    return best


def read_card(path: str | Path) -> ModelCard:
    """Return what a model file says about itself, in milliseconds and without torch.

    Raises
    ------
    BadInputError
        If the file is missing, cut off, no model, or not understood.
    """
    card, _ = _read_header(Path(path))
    return card


def read_shapes(path: str | Path) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor in a model file, by its name, in milliseconds and without torch.

    Raises
    ------
    BadInputError
        If the file is missing, cut off, no model, or not understood.
    """
    _, header = _read_header(Path(path))
    return {name: tuple(entry["shape"]) for name, entry in header.items()}


def load_model(path: str | Path, device: torch.device | str = "cpu") -> tuple[UNet, ModelCard]:
    """Return the network, in evaluation mode on ``device``, and its card.

    Names, shapes and types of all weights are compared with the card's architecture before memory is taken for them,
    and every weight must be a finite number.

    Raises
    ------
    BadInputError
        If the file is missing, cut off, no model, or not understood.
    """
    import safetensors
    import torch

    path = Path(path)
    card, header = _read_header(path)
    network = _empty_network(card)
    _compare(path, header, _described(network.state_dict()))
    network.to_empty(device="cpu")
    try:
        with safetensors.safe_open(path, framework="pt", device="cpu") as file:
            for name, target in network.state_dict(keep_vars=True).items():
                tensor = file.get_tensor(name)
                if tensor.shape != target.shape:
                    raise _damaged(path, f"its header names {name} twice")
                if not bool(torch.isfinite(tensor).all()):
                    raise BadInputError(
                        f"{path} holds weights that are not numbers ({name}).", "Use another checkpoint or model."
                    )
                with torch.no_grad():
                    target.copy_(tensor)
    except (safetensors.SafetensorError, OSError) as error:
        raise _damaged(path, str(error)) from error
    return network.to(device).eval(), card


def _empty_network(card: ModelCard) -> UNet:
    """Return the network that a card describes, without memory for its weights and without drawing random numbers."""
    import torch

    from LungSegmentationLib.networks.unet import build_network

    with torch.device("meta"):
        return build_network(card.network)


def _described(tensors: Mapping[str, torch.Tensor]) -> dict[str, _Kind]:
    import torch

    names = {torch.float32: "F32", torch.int64: "I64"}
    return {name: (names.get(tensor.dtype, str(tensor.dtype)), tuple(tensor.shape)) for name, tensor in tensors.items()}


def _read_header(path: Path) -> tuple[ModelCard, dict[str, Any]]:
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            start = stream.read(8)
            length = int.from_bytes(start, "little")
            # A claimed length is believed only within the file and a limit, so that nothing huge is read.
            raw = stream.read(length) if len(start) == 8 and length <= min(size - 8, MAX_HEADER) else b""
    except FileNotFoundError as error:
        raise BadInputError(f"There is no model at {path}.") from error
    except OSError as error:
        raise BadInputError(f"{path} cannot be read: {error.strerror}.", "Choose a model file.") from error
    try:
        header = json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        if start[:2] in _PICKLE_STARTS:
            raise BadInputError(
                f"{path} is a pickled PyTorch file, not a model of LungSegmentation.",
                "Such files can run code when they are opened; choose a .safetensors file.",
            ) from error
        raise BadInputError(
            f"{path} is no safetensors file, or it is cut off.", "Copy the model file again."
        ) from error
    metadata = header.pop("__metadata__", None) if isinstance(header, dict) else None
    card = metadata.get(CARD_KEY) if isinstance(metadata, dict) else None
    if not isinstance(card, str):
        raise BadInputError(
            f"{path} holds no model card, so it is no model of LungSegmentation.", "Choose a model that it trained."
        )
    _check_layout(path, header, size - 8 - length)
    return parse_card(card, str(path)), header


def _check_layout(path: Path, header: dict[str, Any], available: int) -> None:
    """Refuse a file that does not hold exactly the bytes its header promises."""
    end = 0
    try:
        spans = sorted((*entry["data_offsets"], entry["dtype"], entry["shape"]) for entry in header.values())
        for begin, stop, dtype, shape in spans:
            if begin != end or stop - begin != prod(shape) * _BYTES[dtype]:
                raise _damaged(path, "its header contradicts itself")
            end = stop
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(path, "its header holds what a model does not have") from error
    if end != available:
        raise _damaged(path, f"it has {available} bytes of weights, its header promises {end}")


def _compare(path: Path, header: dict[str, Any], expected: dict[str, _Kind]) -> None:
    missing = sorted(expected.keys() - header.keys())
    extra = sorted(header.keys() - expected.keys())
    wrong = sorted(
        name
        for name in expected.keys() & header.keys()
        if (header[name]["dtype"], tuple(header[name]["shape"])) != expected[name]
    )
    for fact, names in (("lacks", missing), ("has too many", extra), ("has, in another shape or type,", wrong)):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise BadInputError(
                f"{path} does not fit its card: it {fact} the weights {', '.join(names[:3])}{more}.",
                "Use the version that wrote it, or train the model again.",
            )


def _damaged(path: Path, reason: str) -> BadInputError:
    return BadInputError(f"{path} is damaged: {reason}.", "Copy the model file again.")
