"""Honest failures are told apart, honest work is scored, and the operator can stop or lose nothing."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
import warmdriver
from warmdriver import HONEST, MODEL, WarmProcess


@pytest.mark.parametrize(
    ("script", "reason", "detail"),
    [
        ("def f(:\n", "Crashed", "SyntaxError"),
        ("import a_module_that_is_not_there\n", "Crashed", "ModuleNotFoundError"),
        ("from torch import a_name_that_is_not_there\n", "Crashed", "ImportError"),
        ("import torch\ntorch.ones(3, 4) @ torch.ones(3, 4)\n", "Crashed", "ShapeError"),
        (MODEL + "gate.log(3, float('nan'))\nsys.exit('loss is NaN')\n", "NonFinite", "Loss"),
        ("raise MemoryError\n", "HostOutOfMemory", "MemoryError"),
        ("import torch\nraise torch.OutOfMemoryError('CUDA out of memory.')\n", "CUDAOutOfMemory", "OutOfMemoryError"),
        ("print('nothing to do')\n", "NoArtifact", "Exited"),
        ("import sys\nsys.exit(3)\n", "Crashed", "ExitCode3"),
        ("import ctypes\nctypes.string_at(0)\n", "Crashed", "SIGSEGV"),
    ],
)
def test_failures_are_told_apart(warm: WarmProcess, script: str, reason: str, detail: str) -> None:
    result = warm.run(script)
    assert (result["outcome"], result["reason"], result["detail"]) == ("Invalid", reason, detail), result
    assert len(json.dumps(result["message"])) < 500


def test_a_trial_in_steps_is_scored_and_repeats_bit_for_bit(warm: WarmProcess) -> None:
    first, second = (warm.run(HONEST, budget={"steps": 5}) for _ in range(2))
    assert first["outcome"] == "Scored", first
    assert first["steps"] == 5 and first["trainTokens"] == 5 * 4 * 32
    assert first["valBPB"] == second["valBPB"] and first["artifactSHA256"] == second["artifactSHA256"]
    assert first["sourceSHA256"] == second["sourceSHA256"]
    assert first["isolation"] == warm.ready["isolation"]
    assert [tokens for tokens, _ in first["curve"]] == sorted(tokens for tokens, _ in first["curve"])
    first.pop("output")
    assert len(json.dumps(first, separators=(",", ":")).encode()) <= 2048


@pytest.mark.parametrize("budget", [{"seconds": 0.6}, {"cpuSeconds": 0.6}])
def test_a_trial_in_seconds_ends_with_its_budget(warm: WarmProcess, budget: dict[str, float]) -> None:
    result = warm.run(HONEST, budget=budget)
    assert result["outcome"] == "Scored", result
    used = result["trainSeconds"] if "seconds" in budget else result["cpuSeconds"]
    assert 0.6 <= used <= 1.6
    assert result["steps"] > 3 and result["tokensPerSecond"] > 0


def test_weights_that_are_not_finite_are_named(warm: WarmProcess) -> None:
    result = warm.run(MODEL + "model[1].weight.data.fill_(float('nan'))\ngate.submit(model)\n")
    assert (result["outcome"], result["reason"]) == ("Invalid", "NonFinite"), result


def test_a_self_reported_score_is_marked(warm: WarmProcess) -> None:
    script = (
        MODEL
        + """
for batch in gate.batches(4, 32): step(batch)
assert gate.self_reported and gate.submit(model) is None
open(gate.data_dir / "val" / "00000.bin", "rb").read(8)
try: open(gate.data_dir / "test" / "00000.bin", "rb"); print("READ")
except PermissionError: pass
print("val_bpb: 1.75"); print("val_bpb: 1.5")
"""
    )
    result = warm.run(script, evaluation="SelfReported")
    assert (result["outcome"], result["valBPB"], result["selfReported"]) == ("Scored", 1.5, True), result
    assert "READ" not in result["output"]


def test_a_script_that_scores_itself_may_take_its_time_after_the_last_batch(warm: WarmProcess) -> None:
    script = (
        MODEL
        + """
for batch in gate.batches(4, 32): step(batch)
end = time.process_time() + 2.0
while time.process_time() < end: pass
print("val_bpb: 1.5")
"""
    )
    result = warm.run(script, evaluation="SelfReported", budget={"cpuSeconds": 0.3})
    assert (result["outcome"], result["valBPB"]) == ("Scored", 1.5), result


def test_other_files_of_the_candidate_can_be_imported(warm: WarmProcess) -> None:
    result = warm.run("import helper\nraise ValueError(helper.NAME)\n", files={"helper.py": "NAME = 'imported'\n"})
    assert result["message"] == "ValueError: imported"


def test_a_wrong_spec_gets_every_sentence_at_once(warm: WarmProcess) -> None:
    spec = warm.spec("pass") | {"budget": {"seconds": -1}, "seed": "7", "colour": "red"}
    warm.send({"command": "run", "trial": spec})
    result = warm.result(spec["name"])
    assert (result["outcome"], result["detail"]) == ("Lost", "Spec")
    for word in ("budget.seconds", "seed", "colour"):
        assert word in result["message"]


def test_nonsense_commands_get_a_sentence(warm: WarmProcess) -> None:
    for command in ("run away", 7, None):
        warm.send({"command": command})
        assert warm.next_event()["event"] == "error"


def test_a_trial_can_be_stopped(warm: WarmProcess) -> None:
    spec = warm.spec("import time\ntime.sleep(600)\n")
    warm.send({"command": "run", "trial": spec})
    assert warm.next_event()["event"] == "started"
    time.sleep(0.3)
    began = time.monotonic()
    warm.send({"command": "stop", "name": spec["name"]})
    result = warm.result(spec["name"])
    assert (result["outcome"], result["detail"]) == ("Lost", "Stopped")
    assert time.monotonic() - began < 2


def test_a_supervisor_that_is_killed_is_reported_as_lost(warm: WarmProcess) -> None:
    spec = warm.spec("import time\ntime.sleep(600)\n")
    warm.send({"command": "run", "trial": spec})
    os.kill(warm.next_event()["pid"], signal.SIGKILL)
    assert warm.result(spec["name"])["outcome"] == "Lost"


def test_two_trials_run_side_by_side(warm: WarmProcess) -> None:
    specs = [warm.spec(HONEST) for _ in range(2)]
    for spec in specs:
        warm.send({"command": "run", "trial": spec})
    outcomes = {}
    while len(outcomes) < 2:
        event = warm.next_event()
        if event["event"] == "result":
            outcomes[event["name"]] = event["result"]["outcome"]
    assert set(outcomes.values()) == {"Scored"}


def test_killing_the_warm_process_ends_everything_within_a_second(tmp_path: Path, data_dir: Path) -> None:
    process = warmdriver.WarmProcess(tmp_path, data_dir)
    tree = process.start_daemons()
    os.kill(process.pid, signal.SIGKILL)
    assert warmdriver.wait_until_gone(tree) < 1
    process.process.wait(timeout=5)
