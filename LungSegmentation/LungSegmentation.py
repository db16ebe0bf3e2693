"""The Slicer module: import, preview, train, segment and evaluate lung CT without leaving the window.

This file stays thin: panels are in ``LungSegmentationPanels``, MRML work in ``LungSegmentationScene``, and what takes
time runs as a job of ``LungSegmentationLib``. Nothing of these is imported before it is needed.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import slicer
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

MODULE_FOLDER = Path(__file__).resolve().parent

MINIMUM_PYTHON = (3, 11)
"""What this extension is written for; Slicer 5.8 and earlier bring Python 3.9."""


def _findOwnPackages() -> None:
    """Make our packages importable: beside the module when installed, one folder up in a source tree."""
    for package, folder in (("LungSegmentationScene", MODULE_FOLDER), ("LungSegmentationLib", MODULE_FOLDER.parent)):
        if importlib.util.find_spec(package) is None and str(folder) not in sys.path:
            sys.path.append(str(folder))


_findOwnPackages()


class LungSegmentation(ScriptedLoadableModule):
    """What Slicer shows of the module: name, place in the menu, help, icon."""

    def __init__(self, parent) -> None:
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = _("Lung Segmentation")
        parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        parent.dependencies = []
        parent.contributors = ["LungSegmentation maintainers"]
        parent.helpText = _(
            "Imports lung CT with radiotherapy structures (DICOM RTSTRUCT), shows and corrects what each ROI was taken "
            "for, trains a network on your own cohort in the background, segments new CTs and compares the result with "
            "a reference. All data stay on this computer. For research; not a medical device."
        )
        parent.acknowledgementText = _(
            "Built on SimpleITK, pydicom, highdicom, PyTorch and 3D Slicer. How to cite: see CITATION.cff."
        )
        slicer.app.connect("startupCompleted()", _onStartupCompleted)


def _onStartupCompleted() -> None:
    """Register what other modules offer of ours; only file names are touched."""
    if sys.version_info < MINIMUM_PYTHON:
        return
    from LungSegmentationScene import Startup

    Startup.registerAll()


class LungSegmentationWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The module's column: the set-up strip and five panels, of which one is open."""

    def __init__(self, parent=None) -> None:
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic = None
        self.accordion = None

    def setup(self) -> None:
        """Build the headings; what is in a panel is made when it is opened for the first time."""
        ScriptedLoadableModuleWidget.setup(self)
        if sys.version_info < MINIMUM_PYTHON:
            self._refuse()
            return
        from LungSegmentationPanels.Accordion import Accordion

        self.logic = LungSegmentationLogic()
        self.accordion = Accordion(self.logic)
        self.layout.addWidget(self.accordion.widget)
        self.layout.addStretch(1)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onSceneEndClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndImportEvent, self.onSceneEndImport)

    def _refuse(self) -> None:
        """Say that this Slicer is too old, in place of the panels."""
        import qt

        label = qt.QLabel(
            _("This module needs Slicer 5.10 or later: here Python is {version}, and {minimum} is needed.").format(
                version=".".join(map(str, sys.version_info[:2])), minimum=".".join(map(str, MINIMUM_PYTHON))
            )
        )
        label.objectName = "tooOldLabel"
        label.wordWrap = True
        self.layout.addWidget(label)
        self.layout.addStretch(1)

    def enter(self) -> None:
        """Show the state of the scene's parameters whenever the module is opened."""
        if self.accordion is None:  # this Slicer is too old
            return
        from LungSegmentationScene import Jobs

        Jobs.preload()
        self.showParameters()
        self.accordion.enter()

    def exit(self) -> None:
        """Let the panels rest while another module is open; jobs go on."""
        if self.accordion is not None:
            self.accordion.exit()

    def cleanup(self) -> None:
        """Let go of the scene; jobs go on and are found again by the next widget."""
        self.removeObservers()
        if self.accordion is not None:
            self.accordion.cleanup()

    def onReload(self) -> None:
        """Reload the panels and scene parts with the module; the list of running jobs is kept."""
        from LungSegmentationScene import Jobs

        kept = {Jobs.__name__, Jobs.__package__, *Jobs.OWN_PARTS}
        for name in [name for name in sys.modules if name.startswith("LungSegmentation")]:
            if name.split(".")[0] in {"LungSegmentationPanels", "LungSegmentationScene"} and name not in kept:
                package, _dot, part = name.rpartition(".")
                # "from package import part" takes what the package holds, whether it is a loaded module or not.
                if hasattr(sys.modules.get(package), part):
                    delattr(sys.modules[package], part)
                del sys.modules[name]
        former, entered = self.accordion.widget, self.accordion.entered
        slicer.util.reloadScriptedModule(self.moduleName)
        # Slicer only hides it: a script that looks for a widget by its name would find it twice.
        former.setParent(None)
        former.deleteLater()
        if entered:  # Slicer makes the new widget, and does not enter it
            slicer.util.getModuleWidget(self.moduleName).enter()

    def onSceneStartClose(self, caller=None, event=None) -> None:  # noqa: ARG002 - the signature of observers
        """The parameter node goes with the scene."""
        self.accordion.setParameterNode(None)

    def onSceneEndClose(self, caller=None, event=None) -> None:  # noqa: ARG002 - the signature of observers
        """Begin anew in the empty scene."""
        if self.accordion.entered:
            self.showParameters()

    def onSceneEndImport(self, caller=None, event=None) -> None:  # noqa: ARG002 - the signature of observers
        """Show the parameters that came with a loaded scene."""
        if self.accordion.entered:
            # The node may be the one that is shown already, but the nodes that it names came after it.
            self.accordion.setParameterNode(self.logic.parameters())
            self.accordion.openStored()

    def showParameters(self) -> None:
        """Show the scene's parameters; the panels keep what they show if it is these already."""
        shown = self.accordion.parameters
        if shown is None or shown.parameterNode != self.logic.getParameterNode():
            self.accordion.setParameterNode(self.logic.parameters())


class LungSegmentationLogic(ScriptedLoadableModuleLogic):
    """What scripts and the Python console use; each method imports the part of the scene that does it.

    What a user can mend is raised as ``LungSegmentationScene.Errors.SceneError``, with a sentence and a hint.
    """

    def parameters(self):
        """Return the parameters of the panels, which are saved with the scene."""
        from LungSegmentationScene.Parameters import LungSegmentationParameters

        return LungSegmentationParameters(self.getParameterNode())

    def importPatient(self, path: Path | str, case: str | None = None, allRois: bool = False) -> tuple:
        """Load a patient's CT and structures from a DICOM folder; waits, the window staying alive.

        Parameters
        ----------
        path
            Folder with DICOM files.
        case
            Which patient or series; not needed where there is one.
        allRois
            Also the ROIs that are none of the structures.

        Returns
        -------
        tuple
            CT node, and segmentation node (None where nothing is drawn).
        """
        from LungSegmentationScene import Import

        imported = Import.importPatient(path, case=case, allRois=allRois)
        return imported.volumeNode, imported.segmentationNode

    def convertCohort(self, path: Path | str, cohort: Path | str, wait: bool = True, **options: object):
        """Convert all patients of a DICOM folder into a cohort; options as of ``lungseg convert``.

        Returns
        -------
        SceneJob
            The job; with ``wait`` it has ended.
        """
        from LungSegmentationScene import Import

        return _waited(Import.convertCohort(path, cohort, **options), wait)

    def prepareCohort(self, cohort: Path | str, wait: bool = True, **options: object):
        """Make a cohort ready for training; options as of ``lungseg prepare``.

        Returns
        -------
        SceneJob
            The job; with ``wait`` it has ended.
        """
        from LungSegmentationScene import Training

        return _waited(Training.prepareCohort(cohort, **options), wait)

    def startTraining(self, cohort: Path | str, run: str | None = None, resume: bool = False, **settings: object):
        """Start a training, which goes on when Slicer is closed; returns at once.

        Parameters
        ----------
        cohort
            A prepared cohort.
        run
            Name of the run; default date and time.
        resume
            Go on with that run from its last checkpoint.
        settings
            As of ``lungseg train``: ``epochs=50, network="lite", device="cuda"``.

        Returns
        -------
        SceneJob
            The running job; ``job.stop()`` ends it with a checkpoint, ``job.wait()`` waits for it.
        """
        from LungSegmentationScene import Training

        return Training.startTraining(cohort, run, resume=resume, **settings)

    def segment(self, ct, model: Path | str, wait: bool = True, **options: object):
        """Segment a CT node, a list of them, or every frame of a sequence node with a model.

        Returns
        -------
        vtkMRMLSegmentationNode, list, vtkMRMLSequenceNode or SceneJob
            The result; the running job where ``wait`` is False.
        """
        from LungSegmentationScene import Inference

        return Inference.segment(ct, model, wait=wait, **options)

    def evaluate(self, segmentation, reference, ct=None, wait: bool = True):
        """Compare two segmentations or label maps.

        Returns
        -------
        vtkMRMLTableNode or SceneJob
            Dice, IoU, HD95, surface Dice and volumes; the running job where ``wait`` is False.
        """
        from LungSegmentationScene import Evaluation

        return Evaluation.evaluate(segmentation, reference, ct, wait=wait)

    def exportSegmentation(self, segmentation, path: Path | str, source: Path | str | None = None, wait: bool = True):
        """Write a segmentation as NIfTI, seg.nrrd, DICOM SEG or RTSTRUCT, by the ending of the file.

        Parameters
        ----------
        segmentation, path
            What and where.
        source
            Folder of the CT's DICOM files, to which SEG and RTSTRUCT refer; default where the CT came from.
        wait
            Whether to wait, the window staying alive.
        """
        from LungSegmentationScene import Inference

        return Inference.exportSegmentation(segmentation, path, source, wait=wait)


def _waited(job, wait: bool):
    if wait:
        job.wait()
    return job


class LungSegmentationTest(ScriptedLoadableModuleTest):
    """The module's own tests, for Slicer's Reload and Test button; they are in ``Testing/Module``."""

    def runTest(self, **_options) -> None:
        """Run the tests that need no other files than the installed ones."""
        self.setUp()
        logic = LungSegmentationLogic()
        self.assertIsNotNone(logic.parameters().parameterNode)  # noqa: PT009 - Slicer's tests are unittest cases
        self.delayDisplay(_("Lung Segmentation: the module is in order."))
