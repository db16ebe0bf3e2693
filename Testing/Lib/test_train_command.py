"""``lungseg train``: what it says, what it writes, how it ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from training_files import TINY, patient, write_case, write_cohort
from typer.testing import CliRunner

from LungSegmentationLib.cli import app
from LungSegmentationLib.cohort.paths import CohortPaths
from LungSegmentationLib.errors import ExitCode
from LungSegmentationLib.jobs.events import parse_event
from LungSegmentationLib.jobs.listing import JobStatus, list_jobs
from LungSegmentationLib.jobs.lock import RunLock
from LungSegmentationLib.jobs.stopping import write_stop_file
from LungSegmentationLib.networks.model_file import load_model, read_card
from LungSegmentationLib.training.segmentation import SegmentationTask
from LungSegmentationLib.training.trainer import Trainer

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def cohort(tmp_path: Path) -> CohortPaths:
    return write_cohort(tmp_path / "Kohorte für 肺")


def lungseg(*arguments: object) -> tuple[int, list[dict[str, Any]], str]:
    """Run the command with events; return its exit code, the events, and all that it wrote."""
    result = CliRunner().invoke(app, [str(argument) for argument in (*arguments, "--events")])
    lines = result.stdout.splitlines()
    return result.exit_code, [json.loads(line) for line in lines if line.startswith("{")], result.output


def sets(*settings: str) -> list[str]:
    return [part for setting in (*TINY, *settings) for part in ("--set", setting)]


def ends(said: list[dict[str, Any]]) -> dict[str, Any]:
    return next(event for event in said if event["event"] in {"failed", "cancelled", "result"})


def test_a_training_says_what_it_does_and_leaves_what_it_should(cohort: CohortPaths) -> None:
    code, said, _ = lungseg("train", cohort.root, "--run", "first", *sets())
    assert code == ExitCode.DONE
    kinds = [event["event"] for event in said]
    assert (kinds[0], kinds[-1], kinds.count("epoch")) == ("started", "finished", 2)
    assert {"progress", "log", "result"} <= set(kinds)
    assert said[0]["run"] == str(cohort.run("first").folder)
    files = {path.name for path in cohort.run("first").folder.iterdir()}
    assert files == {
        "config.json",
        "events.jsonl",
        "training_history.json",
        "training_history.png",
        "last.pt",
        "best_unet_multi_organ.safetensors",
    }
    written = (cohort.run("first").folder / "events.jsonl").read_text().splitlines()
    assert [json.loads(line)["event"] for line in written] == kinds
    assert all(parse_event(line) for line in written)
    assert ends(said)["paths"]["model"] == str(cohort.run("first").model)
    config = json.loads(cohort.run("first").config.read_text())
    assert (config["epochs"], config["network"]["widths"]) == (2, [4, 8])
    (job,) = list_jobs(cohort.root)
    assert (job.run, job.status) == ("first", JobStatus.FINISHED)


def test_the_device_is_said_before_the_first_step(cohort: CohortPaths) -> None:
    _, said, _ = lungseg("train", cohort.root, "--run", "first", *sets("epochs=1"))
    texts = [event.get("message", "") for event in said]
    place = next(n for n, text in enumerate(texts) if "run on the CPU" in text)
    assert place < next(n for n, event in enumerate(said) if event["event"] == "progress")


def test_flags_are_settings_too(cohort: CohortPaths) -> None:
    file = cohort.root / "settings.json"
    file.write_text(json.dumps({"epochs": 9, "seed": 7}), encoding="utf-8")
    code, _, _ = lungseg(
        "train", cohort.root, "--run", "a", "--config", file, *sets("epochs=1", "device=auto"), "--device", "cpu"
    )
    assert code == 0
    config = json.loads(cohort.run("a").config.read_text())
    assert (config["epochs"], config["seed"], config["device"]) == (1, 7, "cpu")


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--set", "epoch=2"], ExitCode.USAGE, "did you mean epochs"),
        (["--device", "cuda:77"], ExitCode.USAGE, "There is no device cuda:77"),
        (["--device", "toaster"], ExitCode.USAGE, "is no device"),
        (["--resume"], ExitCode.USAGE, "no run to resume"),
        (["--set", "structures=lung"], ExitCode.USAGE, "“lung” is not in the label set"),
        (["--set", "sampling.rare=foo"], ExitCode.USAGE, "sampling.rare: “foo” is not in the label set"),
        (["--run", "a/b"], ExitCode.USAGE, "cannot be the name"),
        (["--config", "nowhere.json"], ExitCode.USAGE, "There is no settings file"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_a_run_folder_is_made(
    cohort: CohortPaths, arguments: list[str], code: int, says: str
) -> None:
    found, said, _ = lungseg("train", cohort.root, *arguments)
    assert found == code
    assert says in ends(said)["message"] + ends(said)["hint"]
    assert ends(said)["traceback"] is None
    assert not cohort.runs.exists()


def test_a_folder_that_is_no_cohort_and_one_not_prepared_are_refused_with_the_command_that_helps(
    cohort: CohortPaths, tmp_path: Path
) -> None:
    code, said, _ = lungseg("train", tmp_path / "nothing")
    assert (code, ends(said)["hint"]) == (3, "Make one with: lungseg convert DICOM_DIR COHORT")
    for file in cohort.splits.iterdir():
        file.unlink()
    code, said, _ = lungseg("train", cohort.root)
    assert code == ExitCode.BAD_INPUT
    assert "lungseg prepare" in ends(said)["hint"]


def test_a_run_that_exists_is_not_touched(cohort: CohortPaths) -> None:
    lungseg("train", cohort.root, "--run", "one", *sets("epochs=1"))
    before = {path: path.read_bytes() for path in cohort.run("one").folder.iterdir()}
    code, said, _ = lungseg("train", cohort.root, "--run", "one", *sets())
    assert (code, "--resume" in ends(said)["hint"]) == (ExitCode.USAGE, True)
    assert {path: path.read_bytes() for path in cohort.run("one").folder.iterdir()} == before


def test_without_a_name_each_run_gets_its_own(cohort: CohortPaths) -> None:
    for _ in range(2):
        assert lungseg("train", cohort.root, *sets("epochs=1"))[0] == 0
    assert len(list(cohort.runs.iterdir())) == 2


def test_a_run_that_another_process_trains_is_refused(cohort: CohortPaths) -> None:
    folder = cohort.run("one").folder
    folder.mkdir(parents=True)
    script = (
        "import sys; from pathlib import Path; from LungSegmentationLib.jobs.lock import RunLock\n"
        "with RunLock(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(folder)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline().strip() == "held"
        code, said, _ = lungseg("train", cohort.root, "--run", "one", *sets())
        holder.communicate("")
    assert (code, ends(said)["kind"]) == (ExitCode.BAD_INPUT, "locked")
    assert not (folder / "events.jsonl").exists()
    with RunLock(folder):
        pass


def stopping_after(step: int, how: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let something happen in the training once it has made so many steps."""
    take = Trainer._next
    done = 0

    def taken(self: Any, batches: Any) -> Any:
        nonlocal done
        if done == step:
            how()
        done += 1
        return take(self, batches)

    monkeypatch.setattr(Trainer, "_next", taken)


def test_a_stop_file_ends_it_cleanly_and_resume_goes_on(cohort: CohortPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    from LungSegmentationLib.jobs import stopping

    monkeypatch.setattr(stopping, "CHECK_EVERY_S", 0.0)
    stopping_after(4, lambda: write_stop_file(cohort.run("one").folder, os.getpid()), monkeypatch)
    code, said, _ = lungseg("train", cohort.root, "--run", "one", *sets())
    assert (code, said[-1]["exit_code"]) == (ExitCode.CANCELLED, 4)
    assert "1 of 3 steps of epoch 2 are done and saved. Go on with --resume." in ends(said)["message"]
    assert not (cohort.run("one").folder / "stop").exists()
    assert list_jobs(cohort.root)[0].status == JobStatus.CANCELLED
    monkeypatch.undo()
    code, said, _ = lungseg("train", cohort.root, "--run", "one", "--resume")
    assert code == 0
    assert [event["epoch"] for event in said if event["event"] == "epoch"] == [2]
    assert list_jobs(cohort.root)[0].status == JobStatus.FINISHED


def test_a_cache_that_vanishes_ends_in_a_sentence_with_the_cure(
    cohort: CohortPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopping_after(3, cohort.cached("b").structures.unlink, monkeypatch)
    code, said, _ = lungseg("train", cohort.root, "--run", "one", *sets("epochs=3", "prefetch=1"))
    failed = ends(said)
    assert (code, failed["kind"], failed["traceback"]) == (ExitCode.BAD_INPUT, "storage", None)
    assert "b.structures.npy" in failed["message"]
    assert "--resume" in failed["hint"]


def test_a_full_disk_ends_in_a_sentence_and_the_checkpoint_stays(
    cohort: CohortPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    from LungSegmentationLib.training import checkpoint
    from LungSegmentationLib.training.checkpoint import load_checkpoint

    def full(content: object, sink: Any) -> None:
        sink.error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        raise RuntimeError("PytorchStreamWriter failed writing file")

    stopping_after(4, lambda: monkeypatch.setattr(checkpoint.torch, "save", full), monkeypatch)
    code, said, _ = lungseg("train", cohort.root, "--run", "one", *sets("epochs=3"))
    assert (code, ends(said)["kind"]) == (ExitCode.BAD_INPUT, "storage")
    assert "disk is full" in ends(said)["message"] + ends(said)["hint"]
    assert load_checkpoint(cohort.run("one").checkpoint).epoch == 1


def test_too_little_memory_ends_with_its_own_code(cohort: CohortPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    from LungSegmentationLib.networks.unet import UNet

    def forward(self: Any, images: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(UNet, "forward", forward)
    code, said, _ = lungseg("train", cohort.root, "--run", "one", *sets())
    assert (code, ends(said)["kind"]) == (ExitCode.OUT_OF_MEMORY, "out_of_memory")
    assert [event["event"] for event in said].count("warning") == 3  # what nobody drew, and two halvings


@pytest.mark.parametrize("place", ["build", "validate", "save"])
def test_too_little_memory_where_nothing_can_be_halved_has_the_same_code(
    cohort: CohortPaths, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """Another program may hold the memory of the GPU when the network is moved there, or later."""

    def short(*arguments: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(SegmentationTask, place, short)
    code, said, _ = lungseg("train", cohort.root, "--run", "one", *sets())
    assert (code, ends(said)["kind"]) == (ExitCode.OUT_OF_MEMORY, "out_of_memory")
    assert "other programs" in ends(said)["message"]
    assert ends(said)["traceback"] is None


def test_a_loss_that_is_no_number_ends_in_a_sentence(cohort: CohortPaths) -> None:
    ct, masks = patient(0)
    write_case(cohort, "b", ct, masks)
    record = json.loads(cohort.cached("b").record.read_text())
    cohort.cached("b").record.write_text(json.dumps(record | {"std": 1e-38, "mean": -1e38}))
    code, said, _ = lungseg("train", cohort.root, "--run", "one", *sets())
    assert code == ExitCode.BAD_INPUT
    assert "b slice" in ends(said)["message"]
    assert "learning rate" in ends(said)["hint"]


def test_tensorboard_that_is_not_installed_is_said(cohort: CohortPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    code, said, _ = lungseg("train", cohort.root, "--run", "one", "--tensorboard", *sets())
    assert code == ExitCode.FAULT
    assert "tensorboard" in ends(said)["message"]


@pytest.mark.slow
def test_sigterm_ends_a_real_job_cleanly(cohort: CohortPaths) -> None:
    command = [sys.executable, "-m", "LungSegmentationLib", "train", str(cohort.root), "--run", "one", "--events"]
    with subprocess.Popen(
        [*command, *sets("epochs=100000", "network.widths=[4,4]")],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    ) as job:
        assert job.stdout is not None
        lines = []
        for line in job.stdout:
            lines.append(json.loads(line))
            if lines[-1]["event"] == "epoch":
                job.terminate()
                break
        rest, _ = job.communicate(timeout=120)
    lines += [json.loads(line) for line in rest.splitlines()]
    assert job.returncode == (ExitCode.CANCELLED if os.name == "posix" else 1)
    assert [event["event"] for event in lines][-2:] == ["cancelled", "finished"]


@pytest.mark.slow
def test_from_dicom_to_a_model(tmp_path: Path) -> None:
    runner = CliRunner()
    dicom, cohort = tmp_path / "phantoms", CohortPaths(tmp_path / "cohort")
    for arguments in (
        ["phantom", dicom, "-n", "3", "--size", "256", "--slices", "40", "--complete"],
        ["convert", dicom / "dicom", cohort.root],
        ["prepare", cohort.root, "--slice-size", "32"],
    ):
        result = runner.invoke(app, [str(argument) for argument in arguments])
        assert result.exit_code == 0, result.output
    code, said, output = lungseg("train", cohort.root, "--run", "first", *sets("steps_per_epoch=3"))
    assert code == 0, output
    card = read_card(cohort.run("first").model)
    assert card.structures == ("gtv", "ptv", "lung_right", "lung_left", "heart", "esophagus", "spinal_cord")
    assert card.preprocessing.size == (32, 32)
    network, _ = load_model(cohort.run("first").model)
    assert network(torch.zeros(1, 1, 32, 32)).shape == (1, 8, 32, 32)
    assert [event["epoch"] for event in said if event["event"] == "epoch"] == [1, 2]


def test_weights_of_other_cases_than_the_split_names_are_not_used_but_said(cohort: CohortPaths) -> None:
    _, usual, _ = lungseg("train", cohort.root, "--run", "usual", *sets("epochs=1"))
    lines = cohort.split("train").read_text().split()
    cohort.split("train").write_text("\n".join(reversed(lines)) + "\n")
    code, said, _ = lungseg("train", cohort.root, "--run", "reordered", *sets("epochs=1"))
    assert code == ExitCode.DONE
    assert not [event for event in said if event["event"] == "warning" and "class_weights" in event["message"]]
    losses = [[event["train_loss"] for event in events if event["event"] == "epoch"] for events in (usual, said)]
    assert losses[0] == losses[1]
    cohort.split("train").write_text(f"{lines[0]}\n")
    code, said, _ = lungseg("train", cohort.root, "--run", "fewer", *sets("epochs=1"))
    assert code == ExitCode.DONE
    warnings = [event["message"] for event in said if event["event"] == "warning"]
    assert len([message for message in warnings if "class_weights.json" in message]) == 1


def test_a_ct_without_contrast_has_no_z_score_but_a_window(cohort: CohortPaths) -> None:
    record = cohort.cached("a").record
    content = json.loads(record.read_text(encoding="utf-8"))
    record.write_text(json.dumps(content | {"std": 0.0}), encoding="utf-8")
    code, said, _ = lungseg("train", cohort.root, "--run", "first", *sets("epochs=1"))
    assert code == ExitCode.BAD_INPUT
    assert "“a”" in ends(said)["message"]
    assert "normalization=window" in ends(said)["hint"]
    code, _, _ = lungseg("train", cohort.root, "--run", "second", *sets("epochs=1", "normalization=window"))
    assert code == ExitCode.DONE
