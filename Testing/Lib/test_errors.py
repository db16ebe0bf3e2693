"""Errors tell a person what to do and a script what happened."""

from __future__ import annotations

import pickle

import pytest

from LungSegmentationLib import errors
from LungSegmentationLib.errors import ExitCode, LungSegError

ALL = sorted(
    (item for item in vars(errors).values() if isinstance(item, type) and issubclass(item, LungSegError)),
    key=lambda item: item.__name__,
)


@pytest.mark.parametrize(
    ("name", "number"),
    [("DONE", 0), ("FAULT", 1), ("USAGE", 2), ("BAD_INPUT", 3), ("CANCELLED", 4), ("OUT_OF_MEMORY", 5)],
)
def test_exit_codes_are_the_documented_numbers(name: str, number: int) -> None:
    assert ExitCode[name] == number


@pytest.mark.parametrize(
    ("name", "number", "kind"),
    [
        ("BadInputError", 3, "bad_input"),
        ("GeometryError", 3, "geometry"),
        ("UnsupportedFileError", 3, "unsupported"),
        ("StorageError", 3, "storage"),
        ("UsageError", 2, "usage"),
        ("InstallationError", 1, "fault"),
        ("CancelledError", 4, "cancelled"),
        ("MemoryLimitError", 5, "out_of_memory"),
    ],
)
def test_each_error_ends_the_process_with_its_documented_code(name: str, number: int, kind: str) -> None:
    error = getattr(errors, name)("Something happened.")
    assert (error.exit_code, error.kind) == (number, kind)


def test_an_error_reads_as_the_fact_and_then_the_cure() -> None:
    assert str(LungSegError("ct.nii.gz is empty.", "Convert it again.")) == "ct.nii.gz is empty. Convert it again."


def test_an_error_without_a_cure_reads_as_the_fact_alone() -> None:
    assert str(LungSegError("ct.nii.gz is empty.")) == "ct.nii.gz is empty."


@pytest.mark.parametrize("error_type", ALL)
def test_errors_come_whole_out_of_worker_processes(error_type: type[LungSegError]) -> None:
    error = pickle.loads(pickle.dumps(error_type("Poumon gauche – 肺.", "Convert it again.")))
    assert type(error) is error_type
    assert (error.message, error.hint) == ("Poumon gauche – 肺.", "Convert it again.")
