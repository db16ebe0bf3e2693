"""Import: which patients there are, what each ROI would become and is to become; into the scene, and into a cohort."""

from __future__ import annotations

from pathlib import Path

from LungSegmentationScene import Hierarchy, Import, Patients, Views
from LungSegmentationScene.Errors import SceneError
from LungSegmentationScene.Import import ImportedPatient
from LungSegmentationScene.Jobs import FINISHED, SceneJob, findJob
from LungSegmentationScene.Patients import Corrections, Findings, PatientCt, Roi
from slicer.i18n import tr as _

from LungSegmentationPanels.ImportTexts import conversionText, ctChoices, rtstructChoices
from LungSegmentationPanels.JobBar import JobBar
from LungSegmentationPanels.Panel import Panel, errorColor
from LungSegmentationPanels.PatientTables import DatabaseTable, PatientTable
from LungSegmentationPanels.RoiTable import RoiTable

FOLDER, DATABASE = "folder", "database"
SHOWN_NOTES = 2


class ImportPanel(Panel):
    """See the module's text; object names begin with ``import``."""

    name = "Import"

    def setup(self) -> None:
        """Connect widgets; nothing is scanned before a user asks for it."""
        from LungSegmentationLib.labels import load_label_set

        self.findings: Findings | None = None
        self.corrections = Corrections()
        self._scanned: Path | None = None
        self._scannedChoice: tuple = ()
        self._checking: SceneJob | None = None
        ui = self.ui
        self._fillChoices()
        self.rois = RoiTable(ui.importRoisTable, load_label_set(), self.onStructureChosen)
        self.scanBar = JobBar("importScanJob", ui.importScanJobPlace, ui.importScanButton)
        self.loadBar = JobBar("importLoadJob", ui.importLoadJobPlace, ui.importLoadButton)
        self.convertBar = JobBar("importConvertJob", ui.importConvertJobPlace, ui.importConvertButton)
        self.bars = (self.scanBar, self.loadBar, self.convertBar)
        ui.importWarningsText.visible = ui.importCorrectionsLabel.visible = False
        self.database = DatabaseTable(ui.importDatabaseTable, self.updateState)
        self.patients = PatientTable(ui.importPatientsTable, self.onPatientChosen)
        ui.importScanButton.connect("clicked()", self.onScan)
        ui.importLoadButton.connect("clicked()", self.onLoad)
        ui.importConvertButton.connect("clicked()", self.onConvert)

    def _fillChoices(self) -> None:
        ui = self.ui
        ui.importSourceComboBox.addItem(_("Folder"), FOLDER)
        for text, data in ctChoices():
            ui.importCtChoiceComboBox.addItem(text, data)
        for text, data in rtstructChoices():
            ui.importRtstructChoiceComboBox.addItem(text, data)

    def _offerDatabase(self) -> None:
        """Offer Slicer's DICOM database where it is open by now, with the patients that it has by now."""
        box = self.ui.importSourceComboBox
        if Patients.hasDatabase() and box.findData(DATABASE) < 0:
            box.addItem(_("Slicer's DICOM database"), DATABASE)
        # With one choice there is nothing to choose.
        box.visible = self.ui.importSourceLabel.visible = box.count > 1
        if Patients.hasDatabase():
            self.database.refresh()

    def enter(self) -> None:
        """Show the database's patients, and a conversion that is under way."""
        self._offerDatabase()
        if self.scanBar.job is None and (job := findJob(Import.SCAN_KEY)):
            self._watchScan(job)
        if self.convertBar.job is None and (job := findJob(Import.CONVERT_KEY)):
            self._watchConversion(job)
        super().enter()

    # What the state allows

    def updateState(self) -> None:
        """Bring buttons and texts in line with the parameters."""
        ui, parameters = self.ui, self.parameters
        if parameters is None:
            return
        database = self._fromDatabase
        ui.importDatabaseTable.visible = database
        ui.importFolderPathLineEdit.visible = ui.importFolderLabel.visible = not database
        if database and self.entered:
            self.database.fill()
        ui.importSyntheticPtvMarginSpinBox.enabled = parameters.importSyntheticPtv
        if self.findings is not None and not self.scanBar.isRunning and self._choice() != self._scannedChoice:
            # What was found in another place is not what would be loaded and converted.
            self.clearMessage()
            self._showFindings(None)
            return
        self._followCohort()
        patient = self.patient()
        if not self.scanBar.isRunning:
            self.allow(ui.importScanButton, self._scanReason())
        if not self.loadBar.isRunning:
            self.allow(ui.importLoadButton, None if patient else _("Scan, then choose a patient in the table."))
        if not self.convertBar.isRunning:
            self.allow(ui.importConvertButton, self._convertReason())
        ui.importAllRoisCheckBox.enabled = patient is None or bool(patient.rois)
        ui.importPatientsTable.enabled = self.findings is not None
        ui.importRoisTable.enabled = patient is not None and bool(patient.rois)

    @property
    def _fromDatabase(self) -> bool:
        return self.parameters.importSource == DATABASE and Patients.hasDatabase()

    def _choice(self) -> tuple:
        """Return what is chosen to be scanned, to compare."""
        if self._fromDatabase:
            return DATABASE, tuple(one.key for one in self.database.checked())
        return FOLDER, self.parameters.importFolder.strip()

    def source(self) -> Path | None:
        """Return the folder that is chosen, or a list of the files of the database's checked patients."""
        if self._fromDatabase:
            chosen = self.database.checked()
            return Patients.listFiles(chosen) if chosen else None
        return Path(self.parameters.importFolder) if self.parameters.importFolder.strip() else None

    def _scanReason(self) -> str | None:
        if self._fromDatabase:
            return None if self.database.checked() else _("Check a patient in the table above.")
        folder = self.parameters.importFolder.strip()
        if not folder:
            return _("Choose a folder with DICOM files.")
        return None if Path(folder).is_dir() else _("There is no folder {folder}.").format(folder=folder)

    def _convertReason(self) -> str | None:
        if self.findings is None:
            return _("Scan first.")
        if not any(one.rtstruct is not None for one in self.findings.patients):
            return _("Nothing to convert: no CT here has contours.")
        cohort = self.parameters.cohortFolder.strip()
        if not cohort:
            return _("Choose a folder for the cohort.")
        if self._scanned is not None and _inside(Path(cohort), self._scanned):
            return _("The cohort cannot lie in the folder of the DICOM files. Choose another one.")
        return None

    # Scan

    def onScan(self) -> None:
        """Start to look at the files; the button cancels while that goes on."""
        if self.scanBar.isRunning:
            self.scanBar.cancel()
            return
        self.clearMessage()
        if not self._settleCohort():
            return
        try:
            source = self.source()
        except SceneError as error:
            self.complain(error.sentence, error.hint)
            return
        self._scanned, self._scannedChoice = source, self._choice()
        self._showFindings(None)
        self._watchScan(Import.scanJob(source, [*self.corrections.arguments, *self._choices()]).start())

    def _choices(self) -> list[str]:
        parameters, options = self.parameters, []
        for option, value in (
            ("--roi-map", parameters.importRoiMap),
            ("--ct", parameters.importCtChoice),
            ("--rtstruct", parameters.importRtstructChoice),
        ):
            if value.strip():
                options += [option, value]
        return options

    def _watchScan(self, job: SceneJob) -> None:
        def take(event) -> None:
            if event.event == "result":
                try:
                    self._showFindings(Patients.readFindings(job.result.paths["scan"]))
                except SceneError as error:
                    self.complain(error.sentence, error.hint)

        if self._scanned is None:
            self._scanned, self._scannedChoice = Path(job.arguments[1]), self._choice()
        self.scanBar.watch(job)
        job.listen(onEvent=take, onFinished=lambda job: self._onEnded(self.scanBar, job))
        self.updateState()

    def _showFindings(self, findings: Findings | None) -> None:
        """Show what was found; the patient that was chosen before is chosen again."""
        self.findings = findings
        patients = findings.patients if findings is not None else []
        before = self.parameters.importCase if self.parameters is not None else ""
        self.patients.show(patients, before)
        if findings is not None:
            if not patients:
                self.complain(
                    _("There is no CT in this folder."), _("Choose the folder that holds the slices, or one above it.")
                )
            elif findings.notes:
                self.say("\n".join(findings.notes[:SHOWN_NOTES]))
        self.onPatientChosen()

    # The chosen patient

    def patient(self) -> PatientCt | None:
        """Return the patient that is chosen in the table."""
        return self.patients.chosen()

    def onPatientChosen(self) -> None:
        """Show the ROIs of the chosen patient."""
        patient = self.patient()
        if patient is not None and self.parameters is not None and self.parameters.importCase != patient.name:
            self.parameters.importCase = patient.name
        self._stopChecking()
        self.rois.show(patient.rois if patient is not None else [])
        self._showWarnings(patient)
        self._showCorrections()
        self.updateState()

    def _showWarnings(self, patient: PatientCt | None) -> None:
        shown = self.ui.importWarningsText
        sentences = [] if patient is None else [*([patient.error] if patient.error else []), *patient.warnings]
        shown.setPlainText("\n".join(sentences))
        shown.styleSheet = f"color: {errorColor(self.widget)}" if patient is not None and patient.error else ""
        shown.visible = bool(sentences)

    # Corrections

    def onStructureChosen(self, roi: Roi, structure: str | None, automatic: bool) -> None:
        """Remember what a user says an ROI is, and look what follows for the others."""
        patient = self.patient()
        if patient is None or not self._settleCohort():
            return
        try:
            if automatic:
                self.corrections.forget(patient.rtstructKey, roi.name)
            else:
                self.corrections.set(patient.rtstructKey, roi.name, structure)
        except SceneError as error:
            self.complain(error.sentence, error.hint)
            self.rois.show(patient.rois)
            return
        self.clearMessage()
        roi.structure, roi.corrected = structure, not automatic
        roi.reason = _("left to the rules again") if automatic else _("chosen by you")
        self.rois.show(patient.rois)
        self._showCorrections()
        self._check(patient)

    def _check(self, patient: PatientCt) -> None:
        """Ask the library what the ROIs of a patient become with the corrections; the table follows."""
        self._stopChecking()
        source = patient.folder if patient.folder and Path(patient.folder).is_dir() else self._scanned
        job = Import.scanJob(source, [*self.corrections.arguments, *self._choices()])
        job.key = "Import.check"
        self._checking = job

        def take(job: SceneJob) -> None:
            if job is not self._checking:
                return
            self._checking = None
            if job.failure is not None:
                self.complain(job.failure.sentence, job.failure.hint)
            elif job.state == FINISHED:
                self._takeCheck(patient, job.result.paths["scan"])

        job.listen(onFinished=take)
        job.start()

    def _takeCheck(self, patient: PatientCt, file: Path) -> None:
        try:
            found = Patients.readFindings(file).patients
        except SceneError as error:
            self.complain(error.sentence, error.hint)
            return
        same = next((one for one in found if one.rtstructKey == patient.rtstructKey), None)
        if same is None or self.findings is None or patient not in self.findings.patients:
            return
        patient.rois, patient.warnings, patient.error = same.rois, same.warnings, same.error
        self.patients.refresh(patient)
        if patient is self.patient():
            self.rois.show(patient.rois)
            self._showWarnings(patient)
            self._showCorrections()
            self.updateState()

    def _stopChecking(self) -> None:
        if self._checking is not None:
            self._checking.cancel()
            self._checking = None

    @property
    def isChecking(self) -> bool:
        """Whether the library is still being asked what a correction leads to."""
        return self._checking is not None

    def _followCohort(self) -> None:
        """Read the corrections of a cohort that is there as soon as it is chosen."""
        text = self.parameters.cohortFolder.strip()
        if text and (Path(text) / "cohort.json").is_file():
            self._settleCohort()

    def _settleCohort(self) -> bool:
        """Keep corrections in the chosen cohort from now on; returns whether that could be done.

        Not while a path is still being typed: each part of it may be a folder.
        """
        text = self.parameters.cohortFolder.strip()
        folder = Path(text) if text else None
        if folder == self.corrections.cohort:
            return True
        try:
            self.corrections.moveTo(folder)
        except SceneError as error:
            self.complain(error.sentence, error.hint)
            return False
        self._showCorrections()
        return True

    def _showCorrections(self) -> None:
        patient = self.patient()
        label = self.ui.importCorrectionsLabel
        count = sum(roi.corrected for roi in patient.rois) if patient is not None else 0
        if not count:
            label.visible = False
            return
        cohort = self.corrections.cohort
        if cohort is not None:
            label.text = _("{count} chosen by you, remembered in the cohort.").format(count=count)
            label.toolTip = _("Kept in {folder}").format(folder=cohort)
        else:
            label.text = _("{count} chosen by you, kept until Slicer closes.").format(count=count)
            label.toolTip = _("Choose a folder for the cohort below to keep them for good.")
        label.visible = True

    # Into the scene

    def onLoad(self) -> None:
        """Load the chosen patient; the button cancels while that goes on."""
        if self.loadBar.isRunning:
            self.loadBar.cancel()
            return
        patient = self.patient()
        self.clearMessage()
        if patient is None or not self._settleCohort():
            return
        source = patient.folder if patient.folder and Path(patient.folder).is_dir() else self._scanned
        # The RTSTRUCT is the one of the table, whatever the rule for several is.
        choices = [*self.corrections.arguments]
        if self.parameters.importRoiMap.strip():
            choices += ["--roi-map", self.parameters.importRoiMap]
        job = Import.extractJob(
            source,
            series=patient.seriesUid,
            rtstruct=patient.rtstructUid or None,
            allRois=self.parameters.importAllRois,
            options=choices,
        )
        # The UID says nothing to people.
        job.spoken = {f"CT series “{patient.seriesUid}”": _("CT of {name}").format(name=patient.name)}
        self.loadBar.watch(job)
        job.listen(onFinished=self._onLoadEnded)
        job.start()

    def _onLoadEnded(self, job: Import.ExtractJob) -> None:
        if job.imported is not None and Hierarchy.isInScene(job.imported.volumeNode):
            self._onLoaded(job.imported)
        self._onEnded(self.loadBar, job)

    def _onLoaded(self, imported: ImportedPatient) -> None:
        Views.showVolume(imported.volumeNode)
        parameters = self.parameters
        if parameters is not None:
            parameters.previewVolume = imported.volumeNode
            parameters.previewSegmentation = imported.segmentationNode
            parameters.inferenceVolume = imported.volumeNode
        if imported.segmentationNode is not None:
            count = imported.segmentationNode.GetSegmentation().GetNumberOfSegments()
            Views.paint(imported.segmentationNode, 0.7, fill=True, outline=True)
            self.say(_("{case} is in the scene: CT and structures ({count}).").format(case=imported.case, count=count))
        elif imported.rois:
            self.say(_("{case}: the CT is in the scene; none of its ROIs is a structure.").format(case=imported.case))
        else:
            self.say(_("{case}: the CT is in the scene; it has no contours.").format(case=imported.case))

    def _onEnded(self, bar: JobBar, job: SceneJob) -> None:
        # Of a job that went well its result tells; the row would only take room.
        if job.state == FINISHED and job is bar.job:
            bar.watch(None)
        self.updateState()

    # Into a cohort

    def onConvert(self) -> None:
        """Convert all patients; the button cancels while that goes on."""
        if self.convertBar.isRunning:
            self.convertBar.cancel()
            return
        self.clearMessage()
        if not self._settleCohort():
            return
        parameters = self.parameters
        cohort = Path(parameters.cohortFolder.strip())
        options: dict[str, object] = {"jobs": parameters.importJobs}
        if parameters.importSyntheticPtv:
            options["synthetic_ptv"] = f"{parameters.importSyntheticPtvMargin:g}"
        choices = {
            "roi_map": parameters.importRoiMap,
            "ct": parameters.importCtChoice,
            "rtstruct": parameters.importRtstructChoice,
        }
        options |= {name: value for name, value in choices.items() if value.strip()}
        for one in self.findings.patients:
            one.state = ""
        self._watchConversion(Import.convertCohort(self._scanned, cohort, **options))

    def _watchConversion(self, job: SceneJob) -> None:
        failed: set[str] = set()

        def take(event) -> None:
            if event.event == "warning" and event.message.startswith("not converted"):
                failed.add(event.subject)

        def end(job: SceneJob) -> None:
            if job.result.summary:
                self._showConversion(job.result.summary, failed)
            self.updateState()

        self.convertBar.watch(job)
        job.listen(onEvent=take, onFinished=end)
        self.updateState()

    def _showConversion(self, summary: dict, failed: set[str]) -> None:
        self.say(conversionText(summary))
        for one in self.findings.patients if self.findings is not None else []:
            if one.rtstruct is not None:
                one.state = "failed" if one.name in failed else "converted"
                self.patients.refresh(one)


def _inside(folder: Path, other: Path) -> bool:
    """Whether a folder is another one or lies in it."""
    return other.is_dir() and folder.absolute().is_relative_to(other.absolute())
