"""Jobs beside a living window: never blocked, cancelled as a whole, found again, failures in words."""

from __future__ import annotations

import shutil
import sys
import threading
import time
import unittest

from job_program import fakePython
from ModuleTestCase import ModuleTestCase, slicer

CANCEL_BAR_S = 5.0
BLOCK_S = 0.15
"""A blockage that must be seen."""


def alive(pid: int) -> bool:
    import psutil

    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@unittest.skipIf(sys.platform == "win32", "the program that plays the library is a shell script")
class JobsInWindow(ModuleTestCase):
    """With a program that plays the library, so that every end can be forced."""

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.requireJobs()

    def job(self, *arguments, **options):
        from LungSegmentationScene.Jobs import SceneJob

        self.finished = []
        job = SceneJob(arguments, python=fakePython(self.folder), key="Test.job", title="Testing", **options)
        job.listen(onFinished=self.finished.append)
        return job

    def ended(self, job):
        self.waitUntil(lambda: not job.isRunning, message="the job did not end")
        return job

    def startedTree(self, command: str):
        """Start a job with a child; return it and both process ids."""
        file = self.folder / "pids.txt"
        job = self.job(command, file).start()
        self.waitUntil(lambda: file.is_file() and len(file.read_text().split()) == 2 and job.progress is not None)
        return job, [int(text) for text in file.read_text().split()]

    def testAJobTellsProgressAndResult(self) -> None:
        seen = []
        job = self.job("steps", "20", "{folder}/out")
        job.listen(onEvent=lambda event: seen.append(event.event))
        texts = []
        job.listen(onFinished=lambda one: texts.append(one.result.paths["made"].read_text()))
        folder = job.folder
        self.ended(job.start())
        self.assertEqual((job.state, job.failure), ("finished", None))
        self.assertEqual(texts, ["made"], "files are there while the end is told")
        self.assertEqual(job.result.summary, {"count": 20})
        self.assertEqual((job.progress.done, job.progress.total), (20, 20))
        self.assertEqual((seen[0], seen[-1]), ("started", "finished"))
        self.assertEqual(self.finished, [job])
        self.waitUntil(lambda: not folder.exists(), message="the temporary folder stays")

    def testTheWindowIsNeverBlockedWhileAJobStartsRunsAndEnds(self) -> None:
        self.ended(self.job("steps", "1", "{folder}/out").start())  # what is imported once is measured below, too
        self.assertNeverBlocked(lambda _: self.ended(self.job("steps", "100", "{folder}/out").start()))

    def testWhatBlocksTheWindowIsCaughtHoweverItDoesIt(self) -> None:
        lock = threading.Lock()

        def sleep() -> None:
            time.sleep(BLOCK_S)

        def compute() -> None:
            begin = time.thread_time()
            while time.thread_time() - begin < BLOCK_S:
                pass

        def waitForAThread() -> None:
            lock.acquire()
            threading.Timer(BLOCK_S, lock.release).start()
            with lock:
                pass

        def blocked(block) -> None:
            told = []

            def once(event) -> None:
                if event.event == "progress" and not told:
                    told.append(event)
                    block()

            job = self.job("steps", "5", "{folder}/out")
            job.listen(onEvent=once)
            self.ended(job.start())

        for block in (sleep, compute, waitForAThread):
            with self.subTest(block.__name__):
                with self.assertRaises(AssertionError) as caught:
                    self.assertNeverBlocked(lambda _, block=block: blocked(block), attempts=2)
                self.assertIn("the window stood still", str(caught.exception))

    def testTheWindowIsNotBlockedByAFloodOfEvents(self) -> None:
        def flood(_prepared) -> None:
            job = self.ended(self.job("flood", "10000").start())
            self.assertEqual((job.state, len(job.warnings)), ("finished", 10000))

        self.assertNeverBlocked(flood)

    def testCancelEndsTheWholeTreeInTime(self) -> None:
        for command in ("tree", "stubborn"):
            with self.subTest(command):
                job, pids = self.startedTree(command)
                folder = job.folder
                (folder / "half.bin").write_bytes(b"0" * 1000)
                begin = time.monotonic()
                job.cancel()
                self.assertEqual(job.state, "cancelling")
                self.ended(job)
                self.assertLess(time.monotonic() - begin, CANCEL_BAR_S)
                self.assertEqual([pid for pid in pids if alive(pid)], [], "processes of the tree live on")
                self.assertEqual((job.state, job.failure), ("cancelled", None))
                self.waitUntil(lambda folder=folder: not folder.exists(), message="the temporary folder stays")
                (self.folder / "pids.txt").unlink()

    def testTheWindowIsNotBlockedWhileATreeIsEnded(self) -> None:
        def startedWithFiles():
            (self.folder / "pids.txt").unlink(missing_ok=True)
            job, _pids = self.startedTree("tree")
            for number in range(50):
                (job.folder / f"{number}.bin").write_bytes(bytes(1_000_000))
            return job

        def cancel(job) -> None:
            job.cancel()
            self.ended(job)

        self.assertNeverBlocked(cancel, prepare=startedWithFiles)

    def testAJobCancelledBeforeItsProcessIsThereEndsToo(self) -> None:
        job = self.job("tree", self.folder / "pids.txt").start()
        job.cancel()
        self.assertEqual(self.ended(job).state, "cancelled")

    def testARefusalIsShownWithItsCure(self) -> None:
        job = self.ended(self.job("refuse").start())
        self.assertEqual(job.state, "failed")
        self.assertEqual(job.failure.sentence, "There is no CT in the folder.")
        self.assertEqual(job.failure.hint, "Choose another folder.")
        self.assertEqual(job.failure.traceback, "")
        self.assertIn("There is no CT in the folder.", job.logText())

    def testAFaultKeepsItsTracebackForTheLog(self) -> None:
        job = self.ended(self.job("fault").start())
        self.assertIn("an invented fault", job.failure.sentence)
        self.assertIn("Traceback", job.logText())

    def testAJobThatVanishesIsAFailureWithItsExitCode(self) -> None:
        job = self.ended(self.job("vanish").start())
        self.assertEqual(job.state, "failed")
        self.assertIn("77", job.failure.sentence)
        self.assertIn("about to go", job.logText())

    def testLettersThatAreNoUtf8AreShownAllTheSame(self) -> None:
        job = self.ended(self.job("letters").start())
        self.assertEqual(job.state, "finished")
        self.assertIn("broken", job.logText())
        self.assertIn("letters", job.logText())

    def testAPythonThatIsNotThereIsSaidInASentence(self) -> None:
        from LungSegmentationScene.Jobs import SceneJob

        job = self.ended(SceneJob(["scan"], python=self.folder / "no such python").start())
        self.assertEqual(job.state, "failed")
        self.assertIn("no such python", job.failure.sentence)

    def testAFaultOfOneListenerKeepsNobodyFromBeingTold(self) -> None:
        def broken(_job) -> None:
            raise ValueError("an invented fault of a panel")

        job = self.job("steps", "2", "{folder}/out")
        job.listen(onProgress=broken, onFinished=broken)
        told = []
        job.listen(onFinished=told.append)
        with self.assertLogs("LungSegmentation", level="ERROR"):
            self.ended(job.start())
        self.assertEqual(told, [job])

    def testAJobWhoseFolderIsRemovedUnderItSaysSo(self) -> None:
        job = self.job("steps", "60", "{folder}/out")
        folder = job.folder
        job.start()
        self.waitUntil(lambda: job.progress is not None)
        shutil.rmtree(folder)
        self.ended(job)
        self.assertEqual(job.state, "failed")
        self.assertIn("temporary folder was removed", job.failure.sentence)

    def testTheEndOfTheApplicationEndsJobsSoon(self) -> None:
        from LungSegmentationScene import Jobs

        job, pids = self.startedTree("stubborn")
        begin = time.monotonic()
        Jobs.endAll()
        self.assertLess(time.monotonic() - begin, CANCEL_BAR_S)
        self.assertEqual(([pid for pid in pids if alive(pid)], job.state), ([], "cancelled"))

    def testWaitReturnsTheResultAndRaisesFailures(self) -> None:
        from LungSegmentationScene.Jobs import JobError

        result = self.job("steps", "3", self.folder / "out").start().wait()
        self.assertEqual(result.paths["made"], self.folder / "out" / "made.txt")
        with self.assertRaises(JobError) as raised:
            self.job("refuse").start().wait()
        self.assertEqual(raised.exception.failure.hint, "Choose another folder.")

    def testARunningJobIsFoundAgainByItsKey(self) -> None:
        from LungSegmentationScene.Jobs import findJob, runningJobs

        job, _pids = self.startedTree("tree")
        self.assertIs(findJob("Test.job"), job)
        self.assertEqual(runningJobs(), [job])
        job.cancel()
        self.ended(job)
        self.assertIsNone(findJob("Test.job"))

    def testARunningJobOutlivesAReloadOfTheModule(self) -> None:
        from LungSegmentationScene.Jobs import findJob

        job, _pids = self.startedTree("tree")
        self.widget.onReload()
        self.widget = slicer.util.getModuleWidget("LungSegmentation")
        from LungSegmentationScene import Jobs

        self.assertIs(Jobs.findJob, findJob)
        self.assertIs(Jobs.findJob("Test.job"), job)
        self.assertTrue(job.isRunning)
        job.cancel()
        self.ended(job)


@unittest.skipIf(sys.platform == "win32", "the program that plays the library is a shell script")
class JobBarShowsAJob(ModuleTestCase):
    """The row that every panel has."""

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.requireJobs()

    def setUp(self) -> None:
        super().setUp()
        import qt
        from LungSegmentationPanels.JobBar import JobBar

        self.button = qt.QPushButton("Apply")
        self.bar = JobBar("testJob", startButton=self.button)

    def watched(self, *arguments):
        from LungSegmentationScene.Jobs import SceneJob

        job = SceneJob(arguments, python=fakePython(self.folder), title="Testing")
        self.bar.watch(job.start())
        return job

    def testApplyBecomesCancelAndBack(self) -> None:
        job = self.watched("tree", self.folder / "pids.txt")
        self.assertEqual(self.button.text, "Cancel")
        self.waitUntil(lambda: job.state == "running")
        self.bar.cancel()
        self.assertEqual((self.button.text, self.button.enabled), ("Cancelling…", False))
        self.waitUntil(lambda: not job.isRunning)
        self.assertEqual((self.button.text, self.button.enabled), ("Apply", True))
        self.assertEqual(self.bar.statusLabel.text, "Cancelled.")
        self.assertTrue(self.bar.progressBar.isHidden())

    def testProgressIsShown(self) -> None:
        job = self.watched("steps", "60", "{folder}/out")
        self.waitUntil(lambda: job.progress is not None and job.progress.done >= 20)
        self.assertEqual(self.bar.progressBar.maximum, 60)
        self.assertGreaterEqual(self.bar.progressBar.value, 20)
        self.assertRegex(self.bar.statusLabel.text, r"^stepping \d+ of 60")
        self.photograph("jobbar-running", self.bar.widget)
        self.waitUntil(lambda: not job.isRunning)
        self.assertEqual(self.bar.statusLabel.text, "Done.")

    def testAFailureIsRedAndTheLogIsBehindAClick(self) -> None:
        job = self.watched("fault")
        self.waitUntil(lambda: not job.isRunning)
        self.assertIn("an invented fault", self.bar.statusLabel.text)
        self.assertIn("color", self.bar.statusLabel.styleSheet)
        self.assertTrue(self.bar.logText.isHidden())
        self.bar.logButton.click()
        self.assertFalse(self.bar.logText.isHidden())
        self.assertIn("Traceback", self.bar.logText.plainText)
        self.photograph("jobbar-failed", self.bar.widget)


class JobsOfTheLibrary(ModuleTestCase):
    """With the real command line."""

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.requireJobs()

    def testPhantomIsMadeByAJob(self) -> None:
        from LungSegmentationScene.Jobs import SceneJob

        out = self.folder / "phantoms"
        job = SceneJob(["phantom", out, "--patients", "1", "--size", "256", "--slices", "20"])
        result = job.start().wait(120)
        self.assertEqual(result.paths["dicom"], out / "dicom")
        self.assertEqual(len([file for file in (out / "dicom").rglob("*") if file.is_file()]), 20 + 1)


if __name__ == "__main__":
    unittest.main()
