"""Slice, 3D and plot views without a window: what Slicer's displayable managers draw, rendered off screen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import slicer
import vtk
from PySide6 import QtCore

from .plot_view import qMRMLPlotWidget
from .scene import Session

SLICE_MANAGERS = (
    "vtkMRMLCrosshairDisplayableManager",
    "vtkMRMLModelSliceDisplayableManager",
    "vtkMRMLSegmentationsDisplayableManager2D",
    "vtkMRMLMarkupsDisplayableManager",
    "vtkMRMLOrientationMarkerDisplayableManager",
    "vtkMRMLRulerDisplayableManager",
    "vtkMRMLScalarBarDisplayableManager",
)
THREE_D_MANAGERS = (
    "vtkMRMLCameraDisplayableManager",
    "vtkMRMLViewDisplayableManager",
    "vtkMRMLModelDisplayableManager",
    "vtkMRMLSegmentationsDisplayableManager3D",
    "vtkMRMLMarkupsDisplayableManager",
    "vtkMRMLOrientationMarkerDisplayableManager",
)
SLICES = {
    "Red": ("Axial", "R", (0.953, 0.290, 0.200)),
    "Green": ("Coronal", "G", (0.431, 0.690, 0.294)),
    "Yellow": ("Sagittal", "Y", (0.929, 0.835, 0.298)),
}
SIZE = (512, 512)


class OffscreenView:
    """A render window that nobody sees, with the displayable managers of its kind.

    Parameters
    ----------
    factory : type
        Factory of displayable managers: of slice views, or of 3D views.
    managers : tuple of str
        Their classes.
    """

    def __init__(self, session: Session, factory: Any, managers: tuple[str, ...]) -> None:
        self._session = session
        self._renderer = vtk.vtkRenderer()
        self._window = vtk.vtkRenderWindow()
        self._window.SetShowWindow(False)
        self._window.SetOffScreenRendering(True)
        self._window.SetMultiSamples(0)
        self._window.AddRenderer(self._renderer)
        self._window.SetSize(*SIZE)
        self._interactor = vtk.vtkGenericRenderWindowInteractor()
        self._interactor.SetRenderWindow(self._window)
        instance = factory.GetInstance()
        for manager in managers:
            if not instance.IsDisplayableManagerRegistered(manager):
                instance.RegisterDisplayableManager(manager)
        self._group = slicer.vtkMRMLDisplayableManagerGroup()
        self._group.SetRenderer(self._renderer)
        self._group.Initialize(instance, self._renderer)

    def renderWindow(self) -> Any:
        return self._window

    def forceRender(self) -> None:
        self._window.Render()

    def save(self, path: Path) -> Path:
        """Render the view into a PNG file."""
        self._window.Render()
        image = vtk.vtkWindowToImageFilter()
        image.SetInput(self._window)
        image.SetInputBufferTypeToRGB()
        image.ReadFrontBufferOff()
        writer = vtk.vtkPNGWriter()
        writer.SetFileName(str(path))
        writer.SetInputConnection(image.GetOutputPort())
        path.parent.mkdir(parents=True, exist_ok=True)
        writer.Write()
        return path


class SliceView(OffscreenView):
    """One slice view with its logic and nodes."""

    def __init__(self, session: Session, name: str) -> None:
        super().__init__(session, slicer.vtkMRMLSliceViewDisplayableManagerFactory, SLICE_MANAGERS)
        orientation, label, color = SLICES[name]
        self._renderer.GetActiveCamera().ParallelProjectionOn()
        self.logic = slicer.vtkMRMLSliceLogic()
        self.logic.SetMRMLApplicationLogic(session.application_logic)
        session.application_logic.GetSliceLogics().AddItem(self.logic)
        self.logic.SetMRMLScene(session.scene)
        # There is one node a layout name: where a script made it before the view opens, the view takes that, as in
        # Slicer. A second one would stay outside of the scene, and what moves the first would not move the view.
        self.node = session.scene.GetSingletonNode(name, "vtkMRMLSliceNode")
        if self.node is None:
            self.node = self.logic.AddSliceNode(name)
        else:
            self.logic.SetSliceNode(self.node)
        self.node.SetOrientation(orientation)
        self.node.SetLayoutLabel(label)
        self.node.SetLayoutColor(*color)
        self._group.SetMRMLDisplayableNode(self.node)
        self._mapper = vtk.vtkImageMapper()
        self._mapper.SetColorWindow(255)
        self._mapper.SetColorLevel(127.5)
        self._image = vtk.vtkActor2D()
        self._image.SetMapper(self._mapper)
        self._image.GetProperty().SetDisplayLocationToBackground()
        self._image.SetVisibility(False)
        # Before the managers add theirs: what comes later is drawn over it.
        self._renderer.AddViewProp(self._image)
        self.logic.AddObserver("ModifiedEvent", lambda *_: self._show_image())
        self.logic.ResizeSliceNode(*SIZE)

    def _show_image(self) -> None:
        # Without a volume there is no image, and a mapper without one complains at each rendering.
        image = self.logic.GetImageDataConnection()
        self._mapper.SetInputConnection(image)
        self._image.SetVisibility(image is not None)

    def fit(self) -> None:
        self.logic.RotateSliceToLowestVolumeAxes(False)
        self.logic.FitSliceToBackground()
        self.logic.SnapSliceOffsetToIJK()


class ThreeDView(OffscreenView):
    """One 3D view with its node."""

    def __init__(self, session: Session) -> None:
        super().__init__(session, slicer.vtkMRMLThreeDViewDisplayableManagerFactory, THREE_D_MANAGERS)
        self.logic = slicer.vtkMRMLViewLogic()
        self.logic.SetMRMLApplicationLogic(session.application_logic)
        session.application_logic.GetViewLogics().AddItem(self.logic)
        self.logic.SetMRMLScene(session.scene)
        self.node = self.logic.AddViewNode("1")
        self._group.SetMRMLDisplayableNode(self.node)

    def resetFocalPoint(self) -> None:
        shown = self.node.GetBoxVisible(), self.node.GetAxisLabelsVisible()
        self.node.SetBoxVisible(False)
        self.node.SetAxisLabelsVisible(False)
        self._renderer.ResetCamera()
        camera = self._group.GetDisplayableManagerByClassName("vtkMRMLCameraDisplayableManager").GetCameraNode()
        camera.RotateTo(slicer.vtkMRMLCameraNode.Anterior)
        self._renderer.ResetCamera()
        # The box takes its bounds from what has been drawn.
        self._window.Render()
        self.node.SetBoxVisible(shown[0])
        self.node.SetAxisLabelsVisible(shown[1])
        self._renderer.ResetCameraClippingRange()


class SliceWidget:
    """``slicer.app.layoutManager().sliceWidget(name)``."""

    def __init__(self, view: SliceView) -> None:
        self._view = view

    def sliceLogic(self) -> Any:
        return self._view.logic

    def sliceView(self) -> SliceView:
        return self._view

    def mrmlSliceNode(self) -> Any:
        return self._view.node


class ThreeDWidget:
    """``slicer.app.layoutManager().threeDWidget(number)``."""

    def __init__(self, view: ThreeDView) -> None:
        self._view = view

    def threeDView(self) -> ThreeDView:
        return self._view

    def mrmlViewNode(self) -> Any:
        return self._view.node


class LayoutManager(QtCore.QObject):
    """``slicer.app.layoutManager()`` of a Slicer with a window: three slice views, a 3D view, and plots on demand."""

    layoutChanged = QtCore.Signal(int)
    SIGNALS = {"layoutChanged": ("int",)}

    def __init__(self, session: Session) -> None:
        super().__init__()
        self._session = session
        self._slices = {name: SliceWidget(SliceView(session, name)) for name in SLICES}
        self._three_d = ThreeDWidget(ThreeDView(session))
        self._plots: list[qMRMLPlotWidget] = []
        self._logic = slicer.vtkMRMLLayoutLogic()
        self._logic.SetMRMLApplicationLogic(session.application_logic)
        self._logic.SetMRMLScene(session.scene)
        self.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutConventionalView)

    def mrmlScene(self) -> Any:
        return self._session.scene

    def layoutLogic(self) -> Any:
        return self._logic

    def setLayout(self, layout: int) -> None:
        node = self._logic.GetLayoutNode()
        node.SetViewArrangement(layout)
        with_plot = "vtkMRMLPlotViewNode" in (node.GetCurrentLayoutDescription() or "")
        if with_plot and not self._plots:
            self._plots.append(self._new_plot())
        for plot in self._plots:
            plot.setVisible(with_plot)
        self.layoutChanged.emit(layout)

    def _new_plot(self) -> qMRMLPlotWidget:
        node = self._session.scene.CreateNodeByClass("vtkMRMLPlotViewNode")
        node.UnRegister(None)
        node.SetLayoutName("PlotView1")
        node.SetSingletonTag("PlotView1")
        widget = qMRMLPlotWidget()
        widget.setMRMLScene(self._session.scene)
        widget.setMRMLPlotViewNode(self._session.scene.AddNode(node))
        return widget

    def _read_layout(self) -> int:
        return self._logic.GetLayoutNode().GetViewArrangement()

    layout = QtCore.Property(int, _read_layout, setLayout)

    def sliceViewNames(self) -> list[str]:
        return list(self._slices)

    def sliceWidget(self, name: str) -> SliceWidget | None:
        return self._slices.get(name)

    def threeDWidget(self, number: int) -> ThreeDWidget | None:
        return self._three_d if number == 0 else None

    def plotWidget(self, number: int) -> Any:
        return self._plots[number] if number < len(self._plots) else None

    def _read_three_d_count(self) -> int:
        return 1

    def _read_plot_count(self) -> int:
        return len(self._plots)

    threeDViewCount = QtCore.Property(int, _read_three_d_count)
    plotViewCount = QtCore.Property(int, _read_plot_count)

    def resetSliceViews(self) -> None:
        for widget in self._slices.values():
            widget.sliceView().fit()

    def resetThreeDViews(self) -> None:
        self._three_d.threeDView().resetFocalPoint()
