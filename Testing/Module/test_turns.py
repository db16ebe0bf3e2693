"""Work in turns: between the window's events, in threads where it says so, left when it is stopped."""

from __future__ import annotations

import threading
import time
import unittest
from unittest import mock

from ModuleTestCase import ModuleTestCase


class TurnsTest(ModuleTestCase):
    def ended(self, steps, **options):
        """Run steps to their end; return value and error."""
        from LungSegmentationScene.Background import InTurns

        told = []
        turns = InTurns(steps, lambda *values: told.append(values), **options)
        self.waitUntil(lambda: told)
        self.assertFalse(turns.isRunning)
        self.assertEqual(len(told), 1)
        return told[0]

    def test_what_a_thread_returns_comes_back_and_what_it_raises_is_raised_in_the_steps(self) -> None:
        def steps():
            value = yield lambda: (threading.get_ident(), 7)
            yield
            try:
                yield lambda: 1 / 0
            except ZeroDivisionError:
                return value
            return None

        (ident, number), error = self.ended(steps())
        self.assertIsNone(error)
        self.assertEqual(number, 7)
        self.assertNotEqual(ident, threading.get_ident())

    def test_where_no_thread_is_to_be_had_that_is_the_error_and_nobody_waits_for_ever(self) -> None:
        from LungSegmentationScene import Background

        told = []
        with mock.patch.object(Background._thread, "start_new_thread", side_effect=RuntimeError("no thread")):
            call = Background.BackgroundCall(lambda: 7, lambda *values: told.append(values))
        call.finishNow()
        ((value, error),) = told
        self.assertIsNone(value)
        self.assertEqual(str(error), "no thread")

    def test_an_error_of_the_steps_is_told(self) -> None:
        def steps():
            yield
            raise ValueError("an invented fault")

        value, error = self.ended(steps())
        self.assertIsNone(value)
        self.assertIsInstance(error, ValueError)

    def test_the_window_has_its_turn_between_steps_however_many_there_are(self) -> None:
        def steps():
            for _step in range(100):
                end = time.thread_time() + 0.005
                while time.thread_time() < end:
                    pass
                yield

        self.assertNeverBlocked(lambda _prepared: self.ended(steps()))

    def test_what_is_stopped_ends_once_and_after_its_thread(self) -> None:
        from LungSegmentationScene.Background import InTurns

        told, closed, going = [], [], threading.Event()

        def steps():
            try:
                yield lambda: going.wait(60.0)
            finally:
                closed.append(True)

        turns = InTurns(steps(), lambda *values: told.append(values))
        self.waitUntil(lambda: turns._call is not None)
        turns.stop()
        self.processEvents()
        self.assertEqual((told, closed), ([], []), "its thread still works")
        going.set()
        self.waitUntil(lambda: told)
        turns.stop()
        self.assertEqual((told, closed), ([(None, None)], [True]))

    def test_a_step_may_ask_to_stop(self) -> None:
        from LungSegmentationScene.Background import InTurns

        told, done = [], []

        def steps():
            for number in range(3):
                done.append(number)
                if number == 1:
                    turns.stop()
                yield

        turns = InTurns(steps(), lambda *values: told.append(values))
        self.waitUntil(lambda: told)
        self.processEvents()
        self.assertEqual((done, told), ([0, 1], [(None, None)]))


if __name__ == "__main__":
    unittest.main()
