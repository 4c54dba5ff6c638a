"""A cluster that stays: `scripts/cluster up` leaves it running in the background, `scripts/cluster down` ends it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from clusterlab import tools
from clusterlab.controlplane import GROUPS, ControlPlane
from clusterlab.kwok import Kwok
from clusterlab.reaper import start_time
from clusterlab.simtrainer import SimTrainer

NAMESPACE = "research"
"""Exists, enforces the restricted level, and has a simulated trainer: runs applied there advance without a GPU."""

CRDS = Path(__file__).resolve().parents[2] / "crds"
UP_SECONDS = 120


class Trouble(Exception):
    """The cluster did not come up or go down; the message says why."""


def _folder() -> Path:
    return tools.cache().parent / "cluster"


def _state() -> dict[str, str] | None:
    """What `serve` wrote, if its process still runs."""
    try:
        state: dict[str, str] = json.loads((_folder() / "state.json").read_text())
    except FileNotFoundError:
        return None
    return state if start_time(int(state["pid"])) == state["started"] else None


def up(nodes: int, gpus: int, product: str) -> None:
    """Starts the cluster unless it runs, and prints what to do next.

    Raises ToolsMissing, and Trouble with the end of the log when the cluster does not come up.
    """
    tools.build((*GROUPS, "kwok"))
    state = _state()
    if state is None:
        _folder().mkdir(parents=True, exist_ok=True)
        log = _folder() / "log"
        with log.open("wb") as output:
            serving = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "clusterlab",
                    "serve",
                    f"--nodes={nodes}",
                    f"--gpus={gpus}",
                    f"--product={product}",
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                env=os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parent.parent)},
            )
        deadline = time.monotonic() + UP_SECONDS
        while (state := _state()) is None:
            if serving.poll() is not None or time.monotonic() > deadline:
                serving.terminate()
                raise Trouble(f"the cluster did not come up; end of {log}:\n{log.read_text()[-2000:]}")
            time.sleep(0.1)
    kubectl = tools.program("kubectl")
    print(
        f"The cluster is up: {state['nodes']}.\n\n"
        f"  export KUBECONFIG={state['kubeconfig']} PATH={kubectl.parent}:$PATH\n"
        "  kubectl get nodes -L nvidia.com/gpu.product\n"
        f"  kubectl get pods -n {NAMESPACE}    # trials of runs there end by themselves, with made-up scores\n"
        "  make cluster-down"
    )


def serve(nodes: int, gpus: int, product: str) -> None:
    """Runs the cluster until SIGTERM or SIGINT. This is the background process."""
    # Blocked in every thread and inherited by none that matters: the one that waits below takes the signal.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    with ControlPlane.start_new() as plane, Kwok(plane, plane.reaper) as kwok:
        kwok.add(nodes, gpus=gpus, product=product)
        plane.create_namespace(NAMESPACE)
        if CRDS.is_dir():
            plane.install_crds(sorted(CRDS.glob("*.yaml")))
        with SimTrainer(plane, namespace=NAMESPACE):
            kubeconfig = _folder() / "kubeconfig"
            kubeconfig.write_text(plane.kubeconfig.read_text())
            kubeconfig.chmod(0o600)
            what = f"{nodes} nodes with {gpus} simulated {product} each" if gpus else f"{nodes} simulated CPU nodes"
            made = {
                "pid": str(os.getpid()),
                "started": str(start_time(os.getpid())),
                "kubeconfig": str(kubeconfig),
                "nodes": what,
            }
            scratch = _folder() / "state.json.tmp"
            scratch.write_text(json.dumps(made))
            scratch.replace(_folder() / "state.json")
            signal.sigwait({signal.SIGTERM, signal.SIGINT})
    for name in ("state.json", "kubeconfig"):
        (_folder() / name).unlink(missing_ok=True)


def down() -> None:
    """Ends the cluster; none is fine. Raises Trouble when it does not end."""
    state = _state()
    if state is None:
        print("No cluster is up.")
        return
    pid = int(state["pid"])
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + 60
    while _state() is not None:
        if time.monotonic() > deadline:
            raise Trouble(f"process {pid} did not end within 60 s; see {_folder() / 'log'}")
        time.sleep(0.1)
    print("The cluster is down.")
