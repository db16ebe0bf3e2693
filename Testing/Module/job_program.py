"""Plays the library's command line in tests of jobs: what it does is said by the command, so that ends can be forced.

``fakePython(folder)`` makes a program that is started like a Python and runs this file in place of the library.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path


def fakePython(folder: Path) -> Path:
    """Return a program that takes ``-m LungSegmentationLib <command>`` and does what ``main`` below says."""
    from LungSegmentationScene import Environment

    program = folder / "python"
    command = f'exec "{Environment.ownPython()}" "{Path(__file__).resolve()}" "$@"'
    program.write_text(f"#!/bin/sh\n{command}\n", encoding="utf-8")
    program.chmod(0o755)
    return program


def main() -> None:
    """Run the command after ``-m LungSegmentationLib``."""
    from LungSegmentationLib.errors import BadInputError
    from LungSegmentationLib.jobs.running import run_command

    command, *arguments = [part for part in sys.argv[3:] if part != "--events"]

    def work(reporter) -> None:
        if command == "steps":
            for done in range(1, int(arguments[0]) + 1):
                reporter.progress("stepping", done, int(arguments[0]))
                reporter.check_cancelled()
                time.sleep(0.01)
            target = Path(arguments[1])
            target.mkdir(parents=True, exist_ok=True)
            (target / "made.txt").write_text("made", encoding="utf-8")
            reporter.result({"made": target / "made.txt"}, {"count": int(arguments[0])})
        elif command == "refuse":
            raise BadInputError("There is no CT in the folder.", "Choose another folder.")
        elif command == "fault":
            raise ZeroDivisionError("an invented fault")
        elif command == "vanish":
            sys.stdout.write("about to go\n")
            sys.stdout.flush()
            os._exit(77)
        elif command == "flood":
            for number in range(int(arguments[0])):
                reporter.warning(f"warning {number} " + "x" * 200, "case")
        elif command == "letters":
            sys.stdout.flush()
            os.write(1, b"broken \xff\xfe letters\n")
        elif command in ("tree", "stubborn"):
            stubborn = command == "stubborn"
            child = subprocess.Popen([sys.executable, __file__, "child", *(["stubborn"] if stubborn else [])])
            Path(arguments[0]).write_text(f"{os.getpid()} {child.pid}", encoding="utf-8")
            if stubborn:
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            while True:
                reporter.progress("waiting", 1, 2)
                if not stubborn:
                    reporter.check_cancelled()
                time.sleep(0.05)

    sys.exit(run_command(command, work, events=True))


def child() -> None:
    """Live until ended."""
    if "stubborn" in sys.argv:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with contextlib.suppress(KeyboardInterrupt):
        time.sleep(600)


if __name__ == "__main__":
    child() if sys.argv[1] == "child" else main()
