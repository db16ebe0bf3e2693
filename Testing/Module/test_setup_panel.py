"""The set-up strip: what it says of a Python, what it installs and only when asked, other Pythons, faults in words."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import unittest
from pathlib import Path

from ModuleTestCase import ModuleTestCase, qt, slicer


def probeLine(**report) -> str:
    """Return what a probe prints."""
    from LungSegmentationScene.PythonProbe import MARK

    return MARK + json.dumps({"version": "3.12.9", "executable": "python", "packages": [], "torch": None, **report})


class SetupStrip(ModuleTestCase):
    """With a played probe and a played installer: nothing is started and nothing installed."""

    def setUp(self) -> None:
        super().setUp()
        from LungSegmentationScene import Setup

        self.Setup = Setup
        self.strip = self.widget.accordion.setupPanel
        self.asked = []
        self.installed = []
        self.reports = []
        self.strip.report = None
        self.strip.startProbe = self.probe
        self.strip.stepsFor = self.steps
        self.strip.isOnline = lambda: True
        self.installError = None
        self.strip.ui.setupDetailsButton.checked = False
        self.strip.updateState()

    def tearDown(self) -> None:
        from LungSegmentationScene import Installer, Setup

        self.strip.cleanup()
        self.strip.report = None
        self.strip._tellReport()
        self.strip.startProbe = Setup.startProbe
        self.strip.stepsFor = Installer.stepsFor
        self.strip._restartReason = ""
        self.strip._log = []
        self.strip._hint("")
        self.strip.ui.setupDetailsButton.checked = False
        self.strip.updateState()
        super().tearDown()

    def probe(self, python, onReport):
        self.asked.append(python)
        qt.QTimer.singleShot(0, lambda: onReport(self.reports.pop(0)))

    def steps(self, report):
        from LungSegmentationScene.Installer import InstallStep

        def install(requirement, done, say) -> None:
            say(f"Collecting {requirement.name}")
            self.installed.append(requirement.name)
            qt.QTimer.singleShot(0, lambda: done(self.installError))

        return [
            InstallStep(f"Installing {item.name}", lambda done, say, item=item: install(item, done, say))
            for item in report.toInstall
        ]

    def report(self, python=None, **found):
        requirements = self.Setup.readRequirements()
        states = {item.name: "ok" for item in requirements} | found.pop("states", {})
        packages = [{"name": name, "version": "1.0", "state": state} for name, state in states.items()]
        return self.Setup.readReport(python, 0, probeLine(packages=packages, **found), requirements)

    def ready(self, **found):
        device = {"device": "cuda:0", "name": "NVIDIA H200", "memory_total_mb": 143360, "chosen": True}
        devices = {"torch_build": "2.13.0+cu130", "devices": [device], "problem": ""}
        return self.report(devices=devices, **found)

    def check(self, report) -> None:
        self.reports.append(report)
        self.strip.check()
        self.waitUntil(lambda: not self.strip.isChecking)

    def testNothingIsAskedBeforeTheModuleIsOpenedOrInTests(self) -> None:
        self.strip.enter()
        self.assertEqual(self.asked, [])
        self.assertEqual(self.strip.ui.setupStatusLabel.text, "Not checked yet.")

    def testTheFirstOpeningChecksOnce(self) -> None:
        self.reports.append(self.ready())
        self.strip.checksWhenEntered = True
        try:
            self.strip.enter()
            self.strip.enter()
            self.waitUntil(lambda: not self.strip.isChecking)
            self.strip.enter()
        finally:
            self.strip.checksWhenEntered = False
        self.assertEqual(self.asked, [None])

    def testReadySaysDeviceMemoryAndBuild(self) -> None:
        self.check(self.ready())
        self.assertEqual(self.strip.ui.setupStatusLabel.text, "Ready. Jobs run on NVIDIA H200, 140 GB.")
        self.click("setupDetailsButton")
        self.assertIn("140.0 GB", self.strip.ui.setupDeviceInfoLabel.text)
        self.assertEqual(self.strip.ui.setupTorchInfoLabel.text, "2.13.0+cu130")
        self.assertIn("3.12.9", self.strip.ui.setupPythonInfoLabel.text)
        self.assertTrue(self.strip.ui.setupInstallButton.isHidden())
        self.photograph("setup-ready")

    def testWhereAJobWillRunStandsAboveItsButtonBeforeTheStart(self) -> None:
        parameters = self.logic.parameters()
        for panel, name in (("Training", "training"), ("Inference", "inference")):
            with self.subTest(panel):
                self.strip.report = None
                self.strip._tellReport()
                self.panel(panel)
                label = self.find(f"{name}RunsOnLabel")
                self.assertTrue(label.isHidden(), "nothing is known yet")
                self.check(self.ready())
                self.assertFalse(label.isHidden())
                self.assertEqual((label.text, label.styleSheet), ("Will run on NVIDIA H200, 140 GB.", ""))
                setattr(parameters, f"{name}Device", "mps")
                self.assertIn("no device “mps”", label.text)
                self.assertIn("color", label.styleSheet)
                setattr(parameters, f"{name}Device", "cuda")
                self.assertEqual((label.text, label.styleSheet), ("Will run on NVIDIA H200, 140 GB.", ""))
                self.photograph(f"{name}-device")

    def testThatThereIsNoGpuIsSaidBeforeTheStart(self) -> None:
        self.panel("Inference")
        label = self.find("inferenceRunsOnLabel")
        cpu = {"device": "cpu", "name": "AMD EPYC, 2 cores", "memory_total_mb": 24105, "chosen": True}
        old = {"device": "cuda:0", "name": "GTX 760", "chosen": False, "problem": "PyTorch has no kernels for it."}
        devices = {"torch_build": "2.13.0+cu130", "devices": [old, cpu], "problem": "No GPU can be used."}
        self.check(self.report(devices=devices))
        self.assertIn("Will run on the CPU, which is slow", label.text)
        self.logic.parameters().inferenceDevice = "cuda"
        self.assertIn("PyTorch has no kernels for it.", label.text)
        self.assertIn("color", label.styleSheet)
        self.logic.parameters().inferenceDevice = "cpu"
        self.assertEqual(label.text, "Will run on the CPU.")
        self.check(self.report(states={"torch": "missing"}))
        self.assertTrue(label.isHidden(), "what is missing stands in the strip")

    def testMissingPackagesAreNamedWithTheirSizeAndNothingIsInstalledYet(self) -> None:
        self.check(self.report(states={"torch": "missing", "highdicom": "missing", "pydantic": "old"}))
        self.assertIn("torch", self.strip.ui.setupStatusLabel.text)
        self.assertFalse(self.strip.ui.setupDetails.isHidden(), "the cure is shown")
        self.assertEqual(self.strip.ui.setupInstallButton.text, "Install 3 packages (0.2 to 3.0 GB)")
        self.assertIn("torch>=", self.strip.ui.setupInstallButton.toolTip)
        self.assertEqual(self.installed, [])
        self.photograph("setup-missing")

    def testInstallingShowsProgressAndProvesTheResult(self) -> None:
        self.check(self.report(states={"highdicom": "missing", "rich": "missing"}))
        self.reports.append(self.ready())
        self.click("setupInstallButton")
        self.assertTrue(self.strip.isInstalling)
        self.assertFalse(self.strip.ui.setupProgressBar.isHidden())
        self.assertFalse(self.strip.ui.setupInstallButton.enabled)
        self.photograph("setup-installing")
        self.waitUntil(lambda: not self.strip.isInstalling and not self.strip.isChecking)
        self.assertEqual(self.installed, ["highdicom", "rich"])
        self.assertEqual(len(self.asked), 2, "what was installed is proved by a second check")
        self.assertTrue(self.strip.report.isReady)
        self.assertIn("Collecting rich", self.strip.ui.setupLogText.plainText)

    def testAHalfInstalledTorchIsSeenAndRepaired(self) -> None:
        torch = {"version": None, "problem": "libtorch_cpu.so: cannot open shared object file"}
        self.check(self.report(states={"torch": "broken"}, torch=torch))
        self.assertIn("half installed", self.strip.ui.setupStatusLabel.text)
        self.assertIn("libtorch_cpu.so", self.strip.ui.setupHintLabel.text)
        self.assertIn("Repair 1 package", self.strip.ui.setupInstallButton.text)
        self.photograph("setup-broken")

    def testAFailedInstallationSaysWhyAndCanBeTriedAgain(self) -> None:
        self.check(self.report(states={"rich": "missing"}))
        self.installError = "The installer ended with exit code 1."
        self.click("setupInstallButton")
        self.waitUntil(lambda: not self.strip.isInstalling)
        self.assertIn("exit code 1", self.strip.ui.setupHintLabel.text)
        self.assertTrue(self.strip.ui.setupInstallButton.enabled)

    def testWithoutANetworkTheSentenceSaysSo(self) -> None:
        self.strip.isOnline = lambda: False
        self.check(self.report(states={"rich": "missing"}))
        self.installError = "The installer ended with exit code 1."
        self.click("setupInstallButton")
        self.waitUntil(lambda: not self.strip.isInstalling)
        self.assertIn("pypi.org cannot be reached", self.strip.ui.setupHintLabel.text)
        self.photograph("setup-offline")

    def testARestartIsAskedForWithItsReason(self) -> None:
        # What was there comes back: PyTorch cannot be imported twice by one process.
        kept = sys.modules.get("torch")
        sys.modules["torch"] = sys.modules["json"]
        try:
            self.check(self.report(states={"torch": "old"}))
            self.reports.append(self.ready())
            self.click("setupInstallButton")
            self.waitUntil(lambda: not self.strip.isInstalling and not self.strip.isChecking)
        finally:
            del sys.modules["torch"]
            if kept is not None:
                sys.modules["torch"] = kept
        self.assertIn("Restart Slicer", self.strip.ui.setupHintLabel.text)
        self.assertIn("torch", self.strip.ui.setupHintLabel.text)

    def testTheCpuIsSaidLoudly(self) -> None:
        device = {"device": "cpu", "name": "Xeon, 2 cores", "memory_total_mb": 24105, "chosen": True}
        warning = "No GPU was found. It will run on the CPU, which is slow."
        devices = {"torch_build": "2.13.0+cpu", "devices": [device], "problem": warning}
        self.check(self.report(devices=devices))
        self.assertEqual(self.strip.ui.setupStatusLabel.text, "Ready. Jobs run on the CPU, 24 GB.")
        self.assertIn("slow", self.strip.ui.setupHintLabel.text)

    def testAnotherPythonIsRememberedAndAsked(self) -> None:
        from LungSegmentationScene import Environment

        python = self.folder / "python"
        self.reports.append(self.ready(python=python))
        self.find("setupPythonPathLineEdit").currentPath = str(python)
        self.waitUntil(lambda: self.strip.report is not None)
        self.assertEqual(self.asked, [python])
        self.assertEqual(Environment.chosenPython(), python)
        self.reports.append(self.ready())
        self.find("setupPythonPathLineEdit").currentPath = ""
        self.waitUntil(lambda: len(self.asked) == 2)
        self.assertIsNone(Environment.chosenPython())

    def testTestsOfTheApplicationNeverInstall(self) -> None:
        from LungSegmentationScene import Environment, Installer

        asked = Environment.isTesting
        Environment.isTesting = lambda: True
        try:
            self.check(self.report(states={"rich": "missing"}))
            self.strip.stepsFor = Installer.stepsFor
            self.click("setupInstallButton")
        finally:
            Environment.isTesting = asked
        self.assertFalse(self.strip.isInstalling)
        self.assertIn("Nothing is installed", self.strip.ui.setupHintLabel.text)


class Probing(ModuleTestCase):
    """With real processes."""

    def report(self, python, **options):
        from LungSegmentationScene import Setup

        reports = []
        Setup.startProbe(python, reports.append, **options)
        self.waitUntil(lambda: reports)
        return reports[0]

    def fake(self, name: str, script: str) -> Path:
        program = self.folder / name
        program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        program.chmod(0o755)
        return program

    def testThePythonOfTheTestsIsReadyWithItsDevice(self) -> None:
        from LungSegmentationScene import Setup

        found = []
        before = "torch" in sys.modules
        Setup.startProbe(None, found.append)
        begin = time.monotonic()
        self.assertNotEqual(found, [1], "it returns at once")
        self.waitUntil(lambda: found)
        self.assertLess(time.monotonic() - begin, 60)
        report = found[0]
        self.assertEqual((report.problem, report.broken), ("", ()))
        self.assertEqual("torch" in sys.modules, before, "PyTorch was imported in the window")
        if not report.missing:
            self.assertTrue(report.torchBuild)
            self.assertGreater(report.memoryMb, 0)

    def testTheWindowLivesWhileAPythonIsAsked(self) -> None:
        self.assertNeverBlocked(lambda _: self.report(None))

    def testAPathThatIsNoProgramIsSaid(self) -> None:
        missing = self.report(self.folder / "nothing")
        self.assertIn("does not exist", missing.problem)
        file = self.folder / "notes.txt"
        file.write_text("no program", encoding="utf-8")
        self.assertIn("is no program", self.report(file).problem)
        self.assertTrue(missing.hint)

    @unittest.skipIf(sys.platform == "win32", "played by shell scripts")
    def testAProgramThatIsNoPythonIsSaid(self) -> None:
        report = self.report(self.fake("other", "echo hello; exit 3"))
        self.assertIn("could not be asked", report.problem)
        self.assertIn("hello", report.details)

    @unittest.skipIf(sys.platform == "win32", "played by shell scripts")
    def testAnOldPythonIsRefusedWithItsVersion(self) -> None:
        answer = probeLine(version="3.9.10")
        report = self.report(self.fake("python3.9", f"echo '{answer}'"))
        self.assertIn("3.9.10", report.problem)
        self.assertIn("3.11", report.problem)

    @unittest.skipIf(sys.platform == "win32", "played by shell scripts")
    def testAPythonThatGivesNoAnswerIsEnded(self) -> None:
        from LungSegmentationScene import ChildProcess, Setup

        def impatient(command, environment, onFinished, onLine, _timeoutS):
            return ChildProcess.ChildProcess(command, environment, onFinished, onLine, 0.3)

        report = self.report(self.fake("python", "exec sleep 60"), startProcess=impatient)
        self.assertIn("no answer", report.problem)
        self.assertEqual(Setup.PROBE_TIMEOUT_S, 120)

    @unittest.skipIf(sys.platform == "win32", "the folder is that of other systems")
    def testTheFolderOfAVirtualEnvironmentStandsForItsPython(self) -> None:
        from LungSegmentationScene.Environment import programOf

        (self.folder / "venv" / "bin").mkdir(parents=True)
        python = self.fake("venv/bin/python", f"echo '{probeLine(version='3.12.1')}'")
        self.assertEqual(programOf(self.folder / "venv"), python)
        self.assertEqual(self.report(self.folder / "venv").version, "3.12.1")

    def testTheProbeNamesWhatIsMissingOldAndBroken(self) -> None:
        from LungSegmentationScene import PythonProbe

        site = self.folder / "site"
        (site / "torch").mkdir(parents=True)
        (site / "torch" / "__init__.py").write_text("raise ImportError('libtorch is not there')\n", encoding="utf-8")
        for name, version in (("torch", "2.9.0"), ("oldie", "1.2.3")):
            metadata = site / f"{name}-{version}.dist-info"
            metadata.mkdir()
            (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (site / "oldie.py").touch()
        (site / "half").mkdir()
        program = Path(PythonProbe.__file__)
        done = subprocess.run(
            [sys.executable, str(program), str(self.folder), "torch>=2.4", "oldie>=2", "half", "nowhere"],
            env={"PYTHONPATH": str(site), "PATH": ""}, capture_output=True, text=True, check=True, timeout=120,
        )  # fmt: skip
        line = done.stdout.splitlines()[-1]
        found = json.loads(line[len(PythonProbe.MARK) :])
        states = {entry["name"]: entry["state"] for entry in found["packages"]}
        self.assertEqual(states, {"torch": "broken", "oldie": "old", "half": "broken", "nowhere": "missing"})
        self.assertIn("libtorch is not there", found["torch"]["problem"])


class Installing(ModuleTestCase):
    """Which way an installation takes; Slicer's installers are played."""

    def setUp(self) -> None:
        super().setUp()
        from LungSegmentationScene import Installer, Setup

        self.Installer, self.Setup = Installer, Setup
        self.calls = []
        self._pipInstall = slicer.util.pip_install
        slicer.util.pip_install = lambda requirements: self.calls.append(("pip_install", requirements))
        self._modules = {name: sys.modules.get(name) for name in ("PyTorchUtils", "slicer.packaging")}

    def tearDown(self) -> None:
        slicer.util.pip_install = self._pipInstall
        for name, module in self._modules.items():
            if module is None:
                sys.modules.pop(name, None)
            else:
                sys.modules[name] = module
        super().tearDown()

    def requirement(self, name: str):
        return next(item for item in self.Setup.readRequirements() if item.name == name)

    def played(self, name: str, **members) -> None:
        module = type(sys)(name)
        module.__spec__ = type("Spec", (), {"name": name, "loader": None})()
        for member, value in members.items():
            setattr(module, member, value)
        sys.modules[name] = module

    def run_(self, report):
        ended = []
        steps = self.Installer.stepsFor(report)
        titles = [step.title for step in steps]
        self.Installer.Installation(steps, lambda *_: None, lambda _line: None, ended.append).start()
        self.waitUntil(lambda: ended)
        return titles, ended[0]

    def testWithoutNewerWaysSlicersPipInstallIsTaken(self) -> None:
        report = self.Setup.PythonReport(None, missing=(self.requirement("rich"), self.requirement("torch")))
        _titles, error = self.run_(report)
        self.assertIsNone(error)
        self.assertEqual([call[0] for call in self.calls], ["pip_install", "pip_install"])
        self.assertEqual(self.calls[0][1], ["rich>=13.5"])

    def testPipEnsureIsTakenWhereItExistsWithoutAskingTwice(self) -> None:
        def ensure(requirements, **options) -> None:
            self.calls.append(("pip_ensure", [str(item) for item in requirements], options))

        self.played("slicer.packaging", pip_ensure=ensure)
        self.run_(self.Setup.PythonReport(None, missing=(self.requirement("rich"),)))
        self.assertEqual(self.calls[0][:2], ("pip_ensure", ["rich>=13.5"]))
        self.assertFalse(self.calls[0][2]["prompt_install"])

    def testThePyTorchExtensionInstallsTorchWhereItIs(self) -> None:
        calls = self.calls

        class PyTorchUtilsLogic:
            def installTorch(self, **options) -> None:
                calls.append(("installTorch", options))

        self.played("PyTorchUtils", PyTorchUtilsLogic=PyTorchUtilsLogic)
        self.run_(self.Setup.PythonReport(None, missing=(self.requirement("torch"),)))
        self.assertEqual(self.calls, [("installTorch", {"askConfirmation": False, "torchVersionRequirement": ">=2.4"})])

    def testWhatIsBrokenIsRemovedFirst(self) -> None:
        removed = []
        uninstall = slicer.util.pip_uninstall
        slicer.util.pip_uninstall = removed.append
        try:
            titles, error = self.run_(self.Setup.PythonReport(None, broken=(self.requirement("torch"),)))
        finally:
            slicer.util.pip_uninstall = uninstall
        self.assertIsNone(error)
        self.assertEqual((removed, len(titles)), (["torch"], 2))
        self.assertEqual(self.calls[0][1], ["torch>=2.4"])

    def testAFaultOfTheInstallerBecomesASentence(self) -> None:
        def fail(_requirements) -> None:
            raise subprocess.CalledProcessError(2, ["pip"])

        slicer.util.pip_install = fail
        _titles, error = self.run_(self.Setup.PythonReport(None, missing=(self.requirement("rich"),)))
        self.assertEqual(error, "The installer ended with exit code 2.")

    @unittest.skipIf(sys.platform == "win32", "played by a shell script")
    def testAnotherPythonIsGivenItsPackagesByItsOwnPip(self) -> None:
        record = self.folder / "called.txt"
        python = self.folder / "python"
        python.write_text(f'#!/bin/sh\necho "$@" >> "{record}"\n', encoding="utf-8")
        python.chmod(0o755)
        report = self.Setup.PythonReport(python, missing=(self.requirement("rich"), self.requirement("torch")))
        _titles, error = self.run_(report)
        self.assertIsNone(error)
        lines = record.read_text().splitlines()
        self.assertEqual(len(lines), 2)
        self.assertTrue(lines[0].startswith("-m pip install rich>=13.5"))
        self.assertTrue(lines[1].startswith("-m pip install torch>=2.4"))
        self.assertEqual(self.calls, [], "Slicer's own Python is left alone")

    def testSlicersSimpleItkIsNeverReplaced(self) -> None:
        requirements = self.Setup.readRequirements()
        packages = [{"name": item.name, "version": None, "state": "missing"} for item in requirements]
        report = self.Setup.readReport(None, 0, probeLine(packages=packages), requirements)
        self.assertNotIn("SimpleITK", [item.name for item in report.toInstall])
        other = self.Setup.readReport(Path("python"), 0, probeLine(packages=packages), requirements)
        self.assertIn("SimpleITK", [item.name for item in other.toInstall])


if __name__ == "__main__":
    unittest.main()
