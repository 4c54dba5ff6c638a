"""Runs a trial as its pod does: three real processes, `train` as PID 1 of a pid namespace where that is allowed."""

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import textwrap
import time
from pathlib import Path
from typing import Any

PROGRAM = [sys.executable, "-P", "-m", "autoresearch_trainer"]
KEPT = ("PATH", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "TMPDIR")


def can_unshare() -> bool:
    """Whether a process can be the first of a pid namespace here."""
    command = ["unshare", "--pid", "--mount-proc", "--fork", "true"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def pack(files: dict[str, str]) -> bytes:
    """An uncompressed ustar of files, as the operator makes it."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, text in sorted(files.items()):
            entry = tarfile.TarInfo(name)
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))
    return out.getvalue()


class Pod:
    """One trial's pod in a folder."""

    def __init__(self, folder: Path, train_part: Path, val_part: Path, script: str, **changes: Any) -> None:
        self.folder = folder
        for name in ("socket", "account", "source", "work"):
            (folder / name).mkdir()
        tar = changes.pop("tar", None) or pack({"train.py": textwrap.dedent(script), **changes.pop("files", {})})
        (folder / "source" / "source.tar").write_bytes(tar)
        limits = {
            "memoryBytes": 1 << 30,
            "diskBytes": 8 << 20,
            "processes": 8,
            "stdoutBytes": 1 << 16,
            "artifactBytes": 4 << 20,
        }
        self.trial = {
            "version": 1,
            "name": "cpu-s11-a1",
            "command": ["python", "train.py"],
            "evaluation": "Verified",
            "split": "val",
            "budget": {"steps": 3},
            "startupSeconds": 60,
            "seed": 11,
            "auditPairs": 8,
            "evalTokens": 512,
            "device": "cpu",
            "gpus": 0,
            "threads": 1,
            "env": {},
            "sourceSHA256": hashlib.sha256(tar).hexdigest(),
            **changes,
            "limits": limits | changes.get("limits", {}),
        }
        self.parts = {"gate": train_part, "judge": val_part}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, program: str) -> subprocess.Popen[bytes]:
        """Starts gate, train or judge; a second gate may be started after the first."""
        environment = {name: os.environ[name] for name in KEPT if name in os.environ}
        environment |= {
            "AUTORESEARCH_TRIAL": json.dumps(self.trial),
            "AUTORESEARCH_TERMINATION_LOG": str(self.folder / "termination-log"),
        }
        for name in ("socket", "account", "source", "work"):
            if name != "account" or program != "train":
                environment[f"AUTORESEARCH_{name.upper()}_DIR"] = str(self.folder / name)
        if program in self.parts:
            environment["AUTORESEARCH_DATA_DIR"] = str(self.parts[program])
        command = [*PROGRAM, program]
        if program == "train" and can_unshare():
            command = ["unshare", "--pid", "--mount-proc", "--fork", "--kill-child", *command]
        with (self.folder / f"{program}.log").open("ab") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd="/")
        self.processes[program] = process
        return process

    def wait_for(self, name: str, seconds: float = 30) -> None:
        """Waits for a file under the pod's folder."""
        deadline = time.monotonic() + seconds
        while not (self.folder / name).exists():
            assert time.monotonic() < deadline, f"{name} did not appear: {self.log('gate')}"
            time.sleep(0.02)

    def log(self, program: str) -> str:
        """What a container has printed."""
        path = self.folder / f"{program}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def start_training(self) -> None:
        """Gate, its startup probe, then train."""
        self.start("gate")
        self.wait_for("account/ready")
        self.start("train")

    def finish(self, timeout: float = 400) -> dict[str, Any]:
        """Waits for train, runs the judge, ends the gate; the result."""
        assert self.processes["train"].wait(timeout=timeout) == 0, self.log("train")
        assert self.start("judge").wait(timeout=timeout) == 0, self.log("judge")
        text = (self.folder / "termination-log").read_bytes()
        assert len(text) <= 2048
        self.end_gate()
        result: dict[str, Any] = json.loads(text)
        return result

    def run(self) -> dict[str, Any]:
        """The whole trial; the result."""
        self.start_training()
        return self.finish()

    def end_gate(self) -> float:
        """Sends the gate SIGTERM as a kubelet does; the seconds until it has ended."""
        gate = self.processes["gate"]
        began = time.monotonic()
        gate.send_signal(signal.SIGTERM)
        assert gate.wait(timeout=5) == 0, self.log("gate")
        return time.monotonic() - began

    def close(self) -> None:
        """Ends what still runs."""
        for process in self.processes.values():
            if process.poll() is None:
                process.kill()
                process.wait()
