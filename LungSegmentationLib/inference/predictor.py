"""Trained models segment a CT: from HU on any grid to structures on exactly that grid."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from LungSegmentationLib.cohort.resampling import plan_mapping
from LungSegmentationLib.errors import BadInputError
from LungSegmentationLib.inference.checks import check_input
from LungSegmentationLib.inference.forward import Ensemble, Model, Slices, load
from LungSegmentationLib.inference.hounsfield import as_hounsfield
from LungSegmentationLib.inference.options import PredictionOptions
from LungSegmentationLib.inference.postprocessing import postprocess
from LungSegmentationLib.inference.prediction import Prediction
from LungSegmentationLib.inference.restoring import Restored, Restorer
from LungSegmentationLib.jobs.reporter import Reporter, SilentReporter
from LungSegmentationLib.structures import StructureMap
from LungSegmentationLib.training.devices import ChosenDevice, choose_device
from LungSegmentationLib.training.memory import keep_freed_memory, release_freed_memory

if TYPE_CHECKING:
    import SimpleITK as sitk
    import torch

    from LungSegmentationLib.cohort.resampling import InPlaneMapping
    from LungSegmentationLib.dicom.ct import CTVolume
    from LungSegmentationLib.geometry import Grid
    from LungSegmentationLib.networks.card import ModelCard

__all__ = ["Predictor"]

AHEAD = 2
"""Batches that may wait to be restored: more would only take memory."""


class Predictor:
    """Models, loaded once, that segment any number of CTs.

    Parameters
    ----------
    model
        A model file, or several: an ensemble, whose probabilities are averaged. They must agree in label set,
        structures, overlap, slice size and field of view.
    options
        See :class:`.options.PredictionOptions`.
    networks
        In place of model files: networks in memory with their cards.

    Attributes
    ----------
    device
        Where it runs, with a sentence for people (``device.statement``, ``device.warning``).
    cards
        Of the models.

    Raises
    ------
    BadInputError
        If a model file cannot be used.
    UsageError
        If the models do not agree, or the device or an option cannot be had.

    Examples
    --------
    >>> predictor = Predictor("best_unet_multi_organ.safetensors")  # doctest: +SKIP
    >>> prediction = predictor.predict(sitk.ReadImage("ct.nii.gz"))  # doctest: +SKIP
    >>> prediction.write("labels.nii.gz")  # doctest: +SKIP
    """

    def __init__(
        self,
        model: str | Path | Sequence[str | Path] = (),
        options: PredictionOptions | None = None,
        *,
        networks: Sequence[Model] = (),
    ) -> None:
        self.options = options or PredictionOptions()
        self.device: ChosenDevice = choose_device(self.options.device, self.options.precision)
        files = [model] if isinstance(model, str | Path) else list(model)
        where, precision = self.device.device, self.device.precision
        models = [*networks, *(load(file, where, precision.dtype) for file in files)]
        self._ensemble = Ensemble(models, where, self.options.batch_size, self.options.augmentation)
        self.cards: tuple[ModelCard, ...] = tuple(model.card for model in models)
        self.model_names: tuple[str, ...] = tuple(model.name for model in models)
        rows, columns = self.cards[0].preprocessing.size
        if rows != columns:
            raise BadInputError(
                f"{models[0].name} wants slices of {rows} × {columns} pixels; this version makes square ones.",
                "Use the version that wrote it.",
            )

    @property
    def keys(self) -> tuple[str, ...]:
        """Structures that can be found, in the order of their labels."""
        return self.cards[0].structures

    def predict(
        self,
        ct: sitk.Image | CTVolume | tuple[NDArray[Any], Grid],
        reporter: Reporter | None = None,
        *,
        name: str = "The CT",
    ) -> Prediction:
        """Segment a CT.

        Parameters
        ----------
        ct
            HU in any orientation, size and spacing: an image, a DICOM series that was read, or an array (z, y, x) with
            its grid. It is not changed, and not copied where it is int16.
        reporter
            Hears of progress, slice by slice, and is asked after each batch whether to stop.
        name
            What a message calls the CT, for example its file.

        Returns
        -------
        Prediction
            On the CT's own grid.

        Raises
        ------
        BadInputError
            If the CT cannot be used.
        CancelledError
            If the reporter was asked to stop.
        MemoryLimitError
            If memory does not suffice for one slice.

        Notes
        -----
        Memory beside the CT: two bytes a voxel (result and confidence), and on the network's slices two bytes a pixel
        for HU and at most one a pixel and structure for contours. A CT of 512 × 512 × 1000 takes below 3 GB in all.
        """
        start = time.monotonic()
        reporter = reporter or SilentReporter()
        hounsfield, grid = as_hounsfield(ct, name)
        preprocessing = self.cards[0].preprocessing
        mapping = plan_mapping(hounsfield, grid, preprocessing.size[0], preprocessing.field_of_view)
        warnings = self._warnings(hounsfield, mapping)
        for sentence in warnings:
            reporter.warning(sentence, name)
        cached = mapping.to_cache(hounsfield)
        slices = Slices.of(cached, mapping.cached.spacing[0], self._ensemble.models)
        if any(std == 0 for _, std in slices.scales.values()):
            raise BadInputError(
                f"{name} shows one value only in the window of the model, so there is nothing to segment.",
                "Is it a CT in HU?",
            )
        with _kept_memory(self.device.device):
            restored = self._restore(slices, mapping, reporter)
            # Postprocessing needs room, too.
            del cached, slices
            structures, changes, changed = self._mended(StructureMap(self.cards[0].label_set, restored.bits), grid)
        return Prediction(
            structures=structures,
            keys=self.keys,
            grid=grid,
            confidence=restored.confidence,
            structure_confidence=dict(zip(self.keys, restored.means, strict=True)),
            warnings=warnings,
            changes=changes,
            seconds=time.monotonic() - start,
            cards=self.cards,
            model_names=self.model_names,
            probabilities=restored.probabilities,
            changed_bits=changed,
        )

    def _warnings(self, hounsfield: NDArray[np.int16], mapping: InPlaneMapping) -> tuple[str, ...]:
        found = (warning for card in self.cards for warning in check_input(hounsfield, mapping, card))
        return tuple(dict.fromkeys(found))

    def _mended(
        self, structures: StructureMap, grid: Grid
    ) -> tuple[StructureMap, tuple[str, ...], NDArray[np.uint8] | None]:
        """Return the structures after postprocessing, what it did, and the bits that it changed on each slice."""
        if not self.options.postprocess:
            return structures, (), None
        result = postprocess(structures, grid, self.keys, exclusive=self.cards[0].overlap == "exclusive")
        return result.structures, result.changes, _changed_slices(structures.bits, result.structures.bits)

    def _restore(self, slices: Slices, mapping: InPlaneMapping, reporter: Reporter) -> Restored:
        card, options = self.cards[0], self.options
        restorer = Restorer(
            mapping,
            card.channel_labels,
            exclusive=card.overlap == "exclusive",
            smoothing=options.smoothing,
            confidence=options.confidence,
            keep=options.contours,
        )
        count, done = mapping.slices, 0
        reporter.progress("prediction", 0, count)
        # One thread restores what the network has done while the network goes on.
        with ThreadPoolExecutor(1, thread_name_prefix="restoring") as beside:
            waiting: deque[Future[None]] = deque()
            for probabilities in self._ensemble.run(slices):
                reporter.check_cancelled()
                waiting.append(beside.submit(restorer.add, probabilities))
                if len(waiting) > AHEAD:
                    waiting.popleft().result()
                done += len(probabilities)
                reporter.progress("prediction", done, count)
            for rest in waiting:
                rest.result()
        return restorer.finish()


@contextmanager
def _kept_memory(device: torch.device) -> Iterator[None]:
    """Let batches on the CPU, and then the postprocessing, take over the memory of what came before."""
    kept = device.type == "cpu" and keep_freed_memory()
    try:
        yield
    finally:
        if kept:
            keep_freed_memory(keep=False)
            release_freed_memory()


def _changed_slices(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return for each slice the bits that differ somewhere on it, uint8 (z,)."""
    return np.array(
        [np.bitwise_or.reduce(old ^ new, axis=None) for old, new in zip(before, after, strict=True)], np.uint8
    )
