"""Two processes that train together learn what one does with the batch of both."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from training_files import TINY, Recorder, write_cohort

from LungSegmentationLib.cohort.paths import CohortPaths
from LungSegmentationLib.errors import ExitCode, UsageError
from LungSegmentationLib.networks.model_file import load_model
from LungSegmentationLib.training.checkpoint import load_checkpoint
from LungSegmentationLib.training.command import plan_training, train
from LungSegmentationLib.training.distributed import GradientExchange, Launch, Processes, launched

ROOT = Path(__file__).resolve().parents[2]

# Seven slices a case and three cases: steps of 8, 8 and 5 samples, shared unevenly; the norm does not mix samples.
SETTINGS = (*TINY, "epochs=3", "augmentation=default", "network.widths=[4,8,8]", "ema=0.9", "gradient_clip=5")


def together(root: Path, run: str, *settings: str, processes: int = 2) -> subprocess.CompletedProcess[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    chosen = [part for setting in settings for part in ("--set", setting)]
    command = ["torch.distributed.run", "--nproc-per-node", str(processes), "--master-port", str(port)]
    # Python 3.11 refuses --run here as an ambiguous abbreviation of torchrun's own options; -r it leaves alone.
    return subprocess.run(
        [sys.executable, "-m", *command, "-m", "LungSegmentationLib", "train", str(root), "-r", run, "--events"]
        + (chosen or ["--resume"]),
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUTF8": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def events(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def losses(said: list[dict[str, object]]) -> list[object]:
    return [value for event in said if event["event"] == "epoch" for value in (event["train_loss"], event["val_loss"])]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> CohortPaths:
    return write_cohort(tmp_path_factory.mktemp("two") / "cohort", ("a", "b", "d"), ("c", "e", "f"), slices=7)


@pytest.mark.slow
def test_two_processes_that_compute_in_parts_have_it_too(cohort: CohortPaths) -> None:
    alone = Recorder()
    settings = (*SETTINGS, "epochs=2")
    train(plan_training(cohort.root, "whole", settings=(*settings, "batch_size=8")), alone)
    done = together(cohort.root, "parts", *settings, "batch_size=4", "accumulation=2")
    assert done.returncode == 0, done.stderr[-2000:]
    assert losses(events(done.stdout)) == pytest.approx([loss for pair in alone.losses for loss in pair], abs=1e-4)


# Trains again and again in one process of two; memory is too short in one of them, each time at another place.
SHORT = """
import json, os, sys
import torch
from pathlib import Path
from training_files import Recorder
from LungSegmentationLib.errors import MemoryLimitError
from LungSegmentationLib.training.command import plan_training, train
from LungSegmentationLib.training.losses import ExclusiveLoss
from LungSegmentationLib.training.segmentation import SegmentationTask

torch.set_num_threads(1)
root, settings, ports = Path(sys.argv[1]), json.loads(sys.argv[2]), json.loads(sys.argv[3])
rank = int(os.environ["RANK"])
build, region, adam = SegmentationTask.build, ExclusiveLoss._region, torch.optim.Adam.step

def short(size):
    raise torch.OutOfMemoryError(f"CUDA out of memory for {size} samples")

class Identity(torch.autograd.Function):
    @staticmethod
    def forward(context, values):
        return values.clone()

    @staticmethod
    def backward(context, slope):
        return slope if len(slope) <= 2 or not torch.is_tensor(slope) else short(len(slope))

def failing(place, most):
    def before(network, inputs):
        if network.training and len(inputs[0]) > most:
            short(len(inputs[0]))

    def built(task):
        network = build(task)
        if place == "forward":
            network.register_forward_pre_hook(before)
        if place == "backward":
            network.register_forward_hook(lambda network, inputs, output: Identity.apply(output))
        return network

    def terms(loss, probabilities, *others):
        # Once: the second sum over processes of this step is never asked for here.
        if place == "loss" and loss.training and not done:
            done.append(True)
            short(len(probabilities))
        return region(loss, probabilities, *others)

    def step(optimizer, *others, **more):
        if place == "optimizer":
            short(0)
        return adam(optimizer, *others, **more)

    done = []
    SegmentationTask.build, ExclusiveLoss._region, torch.optim.Adam.step = built, terms, step

for (place, where, most), port in zip(
    [
        ("forward", 1, 2), ("backward", 0, 2), ("loss", 1, 2), ("forward", 1, 1), ("forward", 0, 0), ("optimizer", 1, 0)
    ],
    ports,
    strict=True,
):
    os.environ["MASTER_PORT"] = str(port)
    failing(place if rank == where else "", most)
    heard = Recorder()
    said = {"place": place}
    try:
        train(plan_training(root, f"{place}{most}", settings=settings), heard)
    except MemoryLimitError as error:
        said |= {"code": int(error.exit_code), "sentence": error.message}
    said |= {"losses": heard.losses, "warnings": [event.message for event in heard.of("warning")]}
    print(json.dumps(said), flush=True)
"""


# Trains again and again; the second of two processes fails, each time in another way.
FAILING = """
import json, os, signal, sys
import torch
from pathlib import Path
from training_files import Recorder
from LungSegmentationLib.errors import LungSegError, StorageError
from LungSegmentationLib.training.command import plan_training, train
from LungSegmentationLib.training.segmentation import SegmentationTask

torch.set_num_threads(1)
root, settings, ports = Path(sys.argv[1]), json.loads(sys.argv[2]), json.loads(sys.argv[3])
second = os.environ["RANK"] == "1"
build, validate = SegmentationTask.build, SegmentationTask.validate

def unreadable(*arguments):
    raise StorageError("The disk is away.", "Bring it back.")

def before(network, inputs):
    if network.training:
        steps.append(1)
        if second and len(steps) == 2 and place == "fault":
            raise RuntimeError("a fault in a step")
        if second and len(steps) == 2 and place == "killed":
            os.kill(os.getpid(), signal.SIGKILL)

def built(task):
    network = build(task)
    network.register_forward_pre_hook(before)
    return network

def validated(task, *others):
    if second and place == "validation":
        task.val.gather = unreadable
    if second and place == "late stop":
        steps.append("asked")
    return validate(task, *others)

SegmentationTask.build, SegmentationTask.validate = built, validated
for place, port in zip(["fault", "validation", "stop", "late stop", "killed"], ports, strict=True):
    os.environ["MASTER_PORT"] = str(port)
    steps = []
    heard = Recorder(lambda heard: second and (place == "stop" and len(steps) == 2 or "asked" in steps))
    try:
        train(plan_training(root, f"fails_{place[:4]}", settings=settings), heard)
    except (LungSegError, RuntimeError) as error:
        print(json.dumps({"kind": getattr(error, "kind", "fault"), "sentence": str(error)}), flush=True)
"""


def free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def side_by_side(script: str, cohort: CohortPaths, trainings: int) -> list[tuple[int, list[dict[str, Any]], str]]:
    """Run a script in two processes; code, what was said, and complaints of each."""
    told = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1"}
    paths = {"PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "Testing" / "Lib")))}
    settings = [*SETTINGS, "epochs=2", "batch_size=4"]
    arguments = [str(cohort.root), json.dumps(settings), json.dumps(free_ports(trainings))]
    both = [
        subprocess.Popen(
            [sys.executable, "-c", script, *arguments],
            env=os.environ | told | paths | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        ended = [process.communicate(timeout=120) for process in both]
    finally:
        for process in both:
            process.kill()
    return [
        (process.returncode, [json.loads(line) for line in out.splitlines()], complaints[-2000:])
        for process, (out, complaints) in zip(both, ended, strict=True)
    ]


@pytest.mark.slow
def test_all_go_on_with_smaller_parts_when_memory_is_short_in_one(cohort: CohortPaths) -> None:
    """Wherever in the step that is: nobody waits for ever, and the loss curve stays that of the whole batch."""
    alone = Recorder()
    train(plan_training(cohort.root, "roomy", settings=(*SETTINGS, "epochs=2", "batch_size=8")), alone)
    expected = [loss for pair in alone.losses for loss in pair]
    (code, first, complaints), (other_code, second, others) = side_by_side(SHORT, cohort, 6)
    assert (code, other_code) == (0, 0), complaints + others
    for said in first[:4]:
        assert [loss for pair in said["losses"] for loss in pair] == pytest.approx(expected, abs=1e-4), said["place"]
    for said in first[:3]:
        assert ["4 samples" in said["warnings"][-1], len(said["warnings"])] == [True, 2]
    # One at a time, also where a process has three of a step and the other has two.
    assert ["2 samples" in first[3]["warnings"][-1], len(first[3]["warnings"])] == [True, 3]
    for said in (*first[4:], *second[4:]):
        assert (said["code"], said["losses"]) == (ExitCode.OUT_OF_MEMORY, [])
    assert ["one sample" in said[4]["sentence"] for said in (first, second)] == [True, True]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGKILL")
def test_what_fails_in_one_process_ends_all_with_a_sentence_and_nobody_waits(cohort: CohortPaths) -> None:
    (code, first, complaints), (other_code, second, others) = side_by_side(FAILING, cohort, 5)
    assert (code, other_code) == (0, -9), (first, second, complaints, others)
    kinds = [said["kind"] for said in first], [said["kind"] for said in second]
    assert kinds == (
        ["bad_input", "bad_input", "cancelled", "cancelled", "bad_input"],
        ["fault", "storage", "cancelled", "cancelled"],
    )
    assert "a fault in a step" in first[0]["sentence"]
    assert "The disk is away. Bring it back." in first[1]["sentence"]
    assert "2 of 3 steps of epoch 1 are done and saved" in first[2]["sentence"]
    assert "3 of 3 steps of epoch 1 are done and saved" in first[3]["sentence"]
    assert "has ended" in first[4]["sentence"]
    assert "--resume" in first[4]["sentence"]
    done = [load_checkpoint(cohort.run(f"fails_{place}").checkpoint).step for place in ("faul", "stop", "late", "kill")]
    assert done == [0, 2, 3, 0]


@pytest.mark.slow
def test_two_processes_have_the_loss_curve_of_one_with_the_double_batch(cohort: CohortPaths) -> None:
    alone = Recorder()
    train(plan_training(cohort.root, "alone", settings=(*SETTINGS, "batch_size=8")), alone)
    done = together(cohort.root, "two", *SETTINGS, "batch_size=4")
    assert done.returncode == 0, done.stderr[-2000:]
    said = events(done.stdout)
    expected = [loss for pair in alone.losses for loss in pair]
    assert losses(said) == pytest.approx(expected, abs=1e-4)
    dice = [event["dice"] for event in said if event["event"] == "epoch"]
    assert dice[-1] == pytest.approx(alone.epochs[-1].dice, abs=2e-3)

    # One process reports and writes, once.
    assert [event["event"] for event in said].count("started") == 1
    assert [event["event"] for event in said][-1] == "finished"
    written = events((cohort.run("two").folder / "events.jsonl").read_text())
    assert losses(written) == losses(said)

    one, two = (load_model(cohort.run(name).model)[0].state_dict() for name in ("alone", "two"))
    assert all(torch.allclose(one[name], two[name], atol=1e-3) for name in one)

    # They can go on together, and one alone is told that it cannot.
    more = together(cohort.root, "two")
    assert more.returncode == 0, more.stderr[-2000:]
    refused = plan_training(cohort.root, "two", settings=["epochs=4"], resume=True)
    from LungSegmentationLib.errors import BadInputError

    with pytest.raises(BadInputError, match=r"2 process\(es\), now there are 1"):
        train(refused, Recorder())


@pytest.mark.parametrize(
    "words",
    [["LungSegmentationLib", "train", "C", "-r", "x"], ["--", "LungSegmentationLib", "train", "C", "--run", "x"]],
)
def test_the_documented_ways_to_name_a_run_reach_the_command(words: list[str]) -> None:
    from torch.distributed.run import get_args_parser

    seen = get_args_parser().parse_args(["--nproc-per-node", "2", "-m", *words])
    assert seen.module
    assert [seen.training_script, *seen.training_script_args] == [word for word in words if word != "--"]


def test_torchruns_variables_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert launched() == Launch(0, 1, 0)
    for name, value in (("RANK", "3"), ("WORLD_SIZE", "4"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    assert launched() == Launch(3, 4, 1)
    monkeypatch.setenv("RANK", "x")
    with pytest.raises(UsageError, match="torchrun"):
        launched()


def test_one_process_alone_needs_nobody() -> None:
    alone = Processes()
    network = torch.nn.Linear(1, 1)
    assert alone.first
    assert alone.largest(2) == 2
    assert alone.gathered("x") == ["x"]
    alone.agree()
    alone.agree(short=True)
    assert alone.add_up(network.weight) is network.weight
    alone.share_weights(network)
    GradientExchange(network, alone).average()
    assert network.weight.grad is None
