"""A trial in its pod: honest work gets the score that local mode gives it, and every failure its own name."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import warmdriver
from poddriver import Pod, can_unshare

MakePod = Callable[..., Pod]
TEMPLATE = Path(__file__).parents[3] / "trainer" / "autoresearch_trainer" / "templates" / "tiny-gpt"
BARE = [sys.executable, "train.py"]
"""Runs the file without the runner that seeds PyTorch, so that tests which need no PyTorch do not wait for it."""

SLOW_IMPORTS = pytest.mark.timeout(1200)
"""Each process of a pod imports PyTorch and its export for itself: seconds on a free core, minutes on a busy one."""


@pytest.fixture
def template_files() -> dict[str, str]:
    """The template with a small model, quick to train on a busy core."""
    train = (TEMPLATE / "train.py").read_text()
    for wide, narrow in (
        ("DEPTH = 4 ", "DEPTH = 2 "),
        ("DIM = 128 ", "DIM = 64 "),
        ("TOTAL_BATCH = 1024 ", "TOTAL_BATCH = 256 "),
    ):
        assert wide in train
        train = train.replace(wide, narrow)
    return {"train.py": train, "prepare.py": (TEMPLATE / "prepare.py").read_text()}


@SLOW_IMPORTS
def test_a_pod_gives_the_score_of_local_mode(
    make_pod: MakePod, template_files: dict[str, str], tmp_path: Path, data_parts: Path
) -> None:
    limits = {"memoryBytes": 2 << 30, "artifactBytes": 64 << 20}
    files = {"prepare.py": template_files["prepare.py"]}
    pod = make_pod(template_files["train.py"], files=files, limits=limits, startupSeconds=600)
    result = pod.run()
    assert result["outcome"] == "Scored", (result, pod.log("train"))

    whole = tmp_path / "whole"
    shutil.copytree(data_parts / "train", whole)
    shutil.copytree(data_parts / "val", whole, dirs_exist_ok=True)
    (tmp_path / "local").mkdir()
    warm = warmdriver.WarmProcess(tmp_path / "local", whole)
    try:
        local = warm.run(template_files["train.py"], files=files, limits=limits, startupSeconds=600)
    finally:
        warm.close()
    for field in ("valBPB", "nats", "bytes", "tokens", "steps", "trainTokens", "artifactSHA256", "parameters", "seed"):
        assert result[field] == local[field], field
    assert result["sourceSHA256"] == pod.trial["sourceSHA256"]
    assert result["referenceSeconds"] > 0 and result["peakMemoryBytes"] > 0 and result["cpuSeconds"] > 0
    assert set(result["hardware"]) >= {"product", "torch", "python"}
    if can_unshare():
        assert result["isolation"]["processes"] == "pid-namespace"
    assert "parameters, torch.float32" in pod.log("train")  # kubectl logs shows what the candidate printed


@SLOW_IMPORTS
def test_two_ranks_share_one_order_and_train_one_model(make_pod: MakePod, template_files: dict[str, str]) -> None:
    files = {"prepare.py": template_files["prepare.py"]}
    pod = make_pod(
        template_files["train.py"].replace("SEQUENCE = 128", "SEQUENCE = 32"),
        files=files,
        gpus=2,
        budget={"steps": 6},
        limits={"memoryBytes": 3 << 30, "artifactBytes": 64 << 20, "processes": 16},
        startupSeconds=600,
    )
    result = pod.run()
    assert result["outcome"] == "Scored", (result, pod.log("train"))
    assert result["steps"] == 6 and result["trainTokens"] == 2 * 6 * 128  # both ranks' batches, half a step each
    assert result["isolation"]["network"] == "networkpolicy"


@pytest.mark.parametrize(
    ("script", "reason", "detail"),
    [
        ("def f(:\n", "Crashed", "SyntaxError"),
        ("raise ValueError('no')\n", "Crashed", "ValueError"),
        ("import sys\nsys.exit(3)\n", "Crashed", "ExitCode3"),
        ("import os\nos.kill(os.getpid(), 9)\n", "Crashed", "SIGKILL"),
        ("import ctypes\nctypes.string_at(0)\n", "Crashed", "SIGSEGV"),
        ("print('nothing to do')\n", "NoArtifact", "Exited"),
        (
            "from autoresearch_trainer import client\nclient.connect().log(3, float('nan'))\nraise SystemExit('NaN')\n",
            "NonFinite",
            "Loss",
        ),
        ("x = bytearray(700 << 20)\nimport time\ntime.sleep(60)\n", "HostOutOfMemory", "Memory"),
        ("import time\ntime.sleep(60)\n", "Timeout", "Startup"),
    ],
)
def test_failures_are_told_apart(make_pod: MakePod, script: str, reason: str, detail: str) -> None:
    allowed = 1 if reason == "Timeout" else 60
    pod = make_pod(script, command=BARE, limits={"memoryBytes": 512 << 20}, startupSeconds=allowed)
    result = pod.run()
    assert (result["outcome"], result["reason"], result["detail"]) == ("Invalid", reason, detail), result


@SLOW_IMPORTS
def test_weights_that_are_not_finite_are_named(make_pod: MakePod) -> None:
    script = warmdriver.MODEL + "model[1].weight.data.fill_(float('nan'))\ngate.submit(model)\n"
    result = make_pod(script, startupSeconds=600).run()
    assert (result["outcome"], result["reason"]) == ("Invalid", "NonFinite"), result


@pytest.mark.parametrize("kind", ["seconds", "cpuSeconds"])
def test_working_on_past_the_budget_is_a_timeout(make_pod: MakePod, kind: str) -> None:
    script = """
        from autoresearch_trainer import client, wire
        gate = client.connect()
        number, ring = gate._layout(4, 32)
        for _ in range(3):
            gate._send(wire.BATCH + bytes([number])); gate._expect_ok()
        while True: pass
    """
    result = make_pod(script, command=BARE, budget={kind: 0.5}).run()
    assert (result["outcome"], result["reason"], result["detail"]) == ("Invalid", "Timeout", "Budget"), result
    used = result["trainSeconds"] if kind == "seconds" else result["cpuSeconds"]
    assert 1.5 <= used < 4


def test_a_budget_in_cpu_seconds_is_read_where_the_candidate_runs(make_pod: MakePod) -> None:
    script = """
        import time
        from autoresearch_trainer import client, wire
        gate = client.connect()
        number, ring = gate._layout(4, 32)
        served = 0
        while True:
            gate._send(wire.BATCH + bytes([number]))
            if gate._read(1) == wire.END: break
            served += 1
            end = time.process_time() + 0.02
            while time.process_time() < end: pass
        print("served", served)
    """
    pod = make_pod(script, command=BARE, budget={"cpuSeconds": 0.5})
    result = pod.run()
    assert result["reason"] == "NoArtifact", result
    assert 0.5 <= result["cpuSeconds"] <= 0.8
    assert 15 <= result["steps"] <= 26


def test_a_self_reported_score_is_marked(make_pod: MakePod) -> None:
    pod = make_pod("print('val_bpb: 1.75'); print('val_bpb: 1.5')\n", command=BARE, evaluation="SelfReported")
    result = pod.run()
    assert (result["outcome"], result["valBPB"], result["selfReported"]) == ("Scored", 1.5, True), result
    assert not (pod.folder / "account" / "artifact" / "graph.json").exists()


def test_a_command_that_is_not_there_is_the_candidates_fault(make_pod: MakePod) -> None:
    result = make_pod("pass\n", command=["no-such-program"]).run()
    assert (result["outcome"], result["detail"]) == ("Invalid", "Command"), result
    assert "no-such-program cannot be started" in result["message"]


def test_the_gate_ends_within_a_second_of_sigterm_in_the_middle_of_a_trial(make_pod: MakePod) -> None:
    pod = make_pod("import time\nprint('up', flush=True)\ntime.sleep(600)\n", command=BARE)
    pod.start_training()
    _await_text(pod, "up")
    assert pod.end_gate() < 1
    assert pod.processes["train"].wait(timeout=5) == 0  # the candidate does not outlive its gate


def test_a_killed_gate_is_reported_as_lost_and_its_successor_serves_nothing(make_pod: MakePod) -> None:
    pod = make_pod("import time\nprint('up', flush=True)\ntime.sleep(600)\n", command=BARE)
    pod.start_training()
    _await_text(pod, "up")
    pod.processes["gate"].kill()
    pod.processes["gate"].wait()
    assert pod.processes["train"].wait(timeout=5) == 0
    pod.start("gate")
    pod.wait_for("account/account.json")
    began = time.monotonic()
    assert pod.start("train").wait(timeout=20) == 0  # as a kubelet does that makes the pod's sandbox anew
    assert time.monotonic() - began < 10, "train waited for a gate that serves nothing"
    result = pod.finish()
    assert (result["outcome"], result["detail"]) == ("Lost", "GateRestarted"), result


def test_train_that_is_killed_is_reported_as_lost(make_pod: MakePod) -> None:
    pod = make_pod("import time\nprint('up', flush=True)\ntime.sleep(600)\n", command=BARE)
    pod.start_training()
    _await_text(pod, "up")
    pod.processes["train"].kill()
    pod.processes["train"].wait()
    assert pod.start("judge").wait(timeout=60) == 0
    result = json.loads((pod.folder / "termination-log").read_text())
    assert (result["outcome"], result["detail"]) == ("Lost", "Launcher"), result


@pytest.mark.skipif(not can_unshare(), reason="needs the right to make a pid namespace")
def test_train_ends_when_its_kubelet_says_so(make_pod: MakePod) -> None:
    pod = make_pod("import time\nprint('up', flush=True)\ntime.sleep(600)\n", command=BARE)
    pod.start_training()
    _await_text(pod, "up")
    children = subprocess.run(
        ["pgrep", "-P", str(pod.processes["train"].pid)], capture_output=True, text=True, check=True
    )
    began = time.monotonic()
    subprocess.run(["kill", f"-{signal.SIGTERM.value}", children.stdout.strip()], check=True)
    result = pod.finish(timeout=60)
    assert pod.processes["train"].returncode == 0 and time.monotonic() - began < 30
    assert (result["outcome"], result["detail"]) == ("Lost", "Stopped"), result


def test_data_that_are_the_wrong_part_are_lost_with_a_sentence(make_pod: MakePod, data_parts: Path) -> None:
    pod = make_pod("pass\n", command=BARE)
    pod.parts["gate"] = data_parts / "val"
    result = pod.run()
    assert (result["outcome"], result["detail"]) == ("Lost", "Data"), result
    assert "does not hold its train split" in result["message"]
    assert "the gate serves nothing" in pod.log("train")


def test_another_source_than_the_one_asked_for_is_lost(make_pod: MakePod) -> None:
    result = make_pod("pass\n", command=BARE, sourceSHA256="0" * 64).run()
    assert (result["outcome"], result["detail"]) == ("Lost", "Source"), result


def test_a_missing_account_is_lost(make_pod: MakePod, monkeypatch: pytest.MonkeyPatch) -> None:
    from autoresearch_trainer.pod import judge

    pod = make_pod("pass\n")
    monkeypatch.setattr(judge, "ACCOUNT_SECONDS", 0.1)
    monkeypatch.setattr(judge.signal, "signal", lambda *_: None)  # this process is no container
    monkeypatch.setenv("AUTORESEARCH_TRIAL", json.dumps(pod.trial))
    monkeypatch.setenv("AUTORESEARCH_ACCOUNT_DIR", str(pod.folder / "account"))
    monkeypatch.setenv("AUTORESEARCH_TERMINATION_LOG", str(pod.folder / "termination-log"))
    assert judge.main() == 0
    assert json.loads((pod.folder / "termination-log").read_text())["detail"] == "NoAccount"
    (pod.folder / "account" / "account.json").write_text('{"version": 1, "result"')
    assert judge.main() == 0
    assert json.loads((pod.folder / "termination-log").read_text())["detail"] == "Account"


def _await_text(pod: Pod, text: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while text not in pod.log("train"):
        assert time.monotonic() < deadline, (pod.log("train"), pod.log("gate"))
        time.sleep(0.05)
