"""Two small pods that show whether the cluster carries NetworkPolicies out.

The listener is under no policy of ours: first it tries to reach the API server and DNS itself, which shows what an open
pod can reach here, then it listens. The client is under the same policy as a run's trials and tries to reach the
listener, the API server and DNS. Only both answers together say something: a client that reaches nothing where an
open pod reaches nothing either proves nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from autoresearch_operator.manifests import network, small
from autoresearch_operator.manifests.names import LABEL_MANAGED_BY, MANAGER, Object
from autoresearch_operator.manifests.settings import Resources, TrialSettings
from autoresearch_operator.research.trialspec import MIB

NAME = "autoresearch-canary"
PORT = 18080
LISTENER, CONTROL, CLIENT = "listener", "control", "client"
SECONDS = 600
"""Longest life of a canary's Job, and of its pod on a node: nobody needs to clean up after who was killed, not even
pods that no node ever took."""
KEEP_SECONDS = 120
SETTLE_SECONDS = 15
"""How long the client goes on trying. Policies reach a new pod some time after its start in many networks; what is
still open after 15 seconds is open for a trial."""

_RESOURCES = Resources(cpu=0.1, memory=64 * MIB, storage=16 * MIB)

_CONNECT = """
import json, os, socket, struct, time

def tcp(host, port):
    try:
        socket.create_connection((host, int(port)), 2).close()
        return True
    except OSError:
        return False

def dns():
    ask = struct.pack(">6H", 7, 256, 1, 0, 0, 0) + b"\\nkubernetes\\7default\\3svc\\0" + struct.pack(">2H", 1, 1)
    try:
        with open("/etc/resolv.conf") as file:
            server = next(line.split()[1] for line in file if line.startswith("nameserver"))
        with socket.socket(socket.AF_INET6 if ":" in server else socket.AF_INET, socket.SOCK_DGRAM) as found:
            found.settimeout(2)
            found.sendto(ask, (server, 53))
            found.recv(512)
            return True
    except (OSError, StopIteration, IndexError):
        return False

def reached():
    found = {}
    if os.environ.get("LISTENER"):
        found["listener"] = tcp(os.environ["LISTENER"], os.environ["PORT"])
    found["apiServer"] = tcp(os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"])
    found["dns"] = dns()
    return sorted(name for name in found if found[name])

began = time.monotonic()
while True:
    names = reached()
    seconds = time.monotonic() - began
    if bool(names) == bool(os.environ.get("WANTED")) or seconds > float(os.environ["SETTLE"]):
        break
    time.sleep(0.5)
with open(os.environ.get("MESSAGE", "/dev/termination-log"), "w") as file:
    json.dump({"version": 1, "reached": names, "seconds": round(seconds, 1)}, file)
"""
"""Tries until what it sees is what is wanted (WANTED set: that something answers; else that nothing does) or the time
is over. A refused connection counts as not reached: some networks carry a policy out by refusing, and what is asked
here is known to listen."""

_LISTEN = """
import os, socket
with socket.create_server(("", int(os.environ["PORT"]))) as server:
    while True:
        server.accept()[0].close()
"""


def listener(
    namespace: str, settings: TrialSettings, *, name: str = NAME, tolerations: Sequence[Object] = ()
) -> Object:
    """The Job of the open pod. It is deleted 2 minutes after its end, with all that names it as its owner."""
    control = small.container(
        CONTROL, ["python", "-c", _CONNECT], settings, _RESOURCES, env={"SETTLE": "10", "WANTED": "1"}
    )
    listening = small.container(LISTENER, ["python", "-c", _LISTEN], settings, _RESOURCES, env={"PORT": str(PORT)})
    # Ready when it listens: the client must not start before. Asked from inside, because a policy of the lab's own may
    # keep the kubelet out.
    knock = f"import socket; socket.create_connection(('127.0.0.1', {PORT}), 1)"
    listening["readinessProbe"] = {
        "exec": {"command": ["python", "-c", knock]},
        "periodSeconds": 1,
        "timeoutSeconds": 10,
        "failureThreshold": SECONDS,
    }
    return _job(
        namespace,
        listener_name(name),
        labels(name, LISTENER),
        [listening],
        settings,
        before=[control],
        tolerations=tolerations,
    )


def policy(namespace: str, owner: Object, *, name: str = NAME) -> dict[str, Any]:
    """The policy of a run's trials, for the client; it goes with the listener's Job.

    The Job's UID is in its name: a policy that is left from an earlier Job is about to be collected, and would let go
    of the client in the middle of its attempt.
    """
    body = network.network_policy({"metadata": {"name": name, "namespace": namespace}})
    body["metadata"] = {
        "name": f"{name}-{owner['metadata']['uid'][:8]}",
        "namespace": namespace,
        "labels": labels(name, CLIENT),
        "ownerReferences": [
            {
                "apiVersion": "batch/v1",
                "kind": "Job",
                "name": owner["metadata"]["name"],
                "uid": owner["metadata"]["uid"],
            }
        ],
    }
    body["spec"] = {**body["spec"], "podSelector": {"matchLabels": labels(name, CLIENT)}}
    return body


def client(
    namespace: str, settings: TrialSettings, address: str, *, name: str = NAME, tolerations: Sequence[Object] = ()
) -> Object:
    """The Job of the pod under the policy; `address` is the listener's pod IP."""
    environment = {"LISTENER": address, "PORT": str(PORT), "SETTLE": str(SETTLE_SECONDS)}
    trying = small.container(CLIENT, ["python", "-c", _CONNECT], settings, _RESOURCES, env=environment)
    return _job(
        namespace, client_name(name), labels(name, CLIENT), [trying], settings, before=(), tolerations=tolerations
    )


def _job(
    namespace: str,
    name: str,
    marks: Mapping[str, str],
    containers: Sequence[Object],
    settings: TrialSettings,
    *,
    before: Sequence[Object],
    tolerations: Sequence[Object],
) -> dict[str, Any]:
    made = small.job(
        namespace,
        name,
        marks,
        containers,
        settings,
        seconds=SECONDS,
        keep_seconds=KEEP_SECONDS,
        before=before,
        tolerations=tolerations,
    )
    made["spec"]["activeDeadlineSeconds"] = SECONDS
    return made


def listener_name(name: str) -> str:
    return f"{name}-{LISTENER}"


def client_name(name: str) -> str:
    return f"{name}-{CLIENT}"


def labels(name: str, part: str) -> dict[str, str]:
    """Labels of one of the two; `selector` finds its pod."""
    return {LABEL_MANAGED_BY: MANAGER, small.LABEL_PART: f"{name}-{part}"}


def selector(name: str, part: str) -> str:
    return f"{small.LABEL_PART}={name}-{part}"


def reached(message: object) -> Mapping[str, Any] | None:
    """What a pod's termination message says: {"reached": [...], "seconds": x}; None: it is not of ours."""
    try:
        value = json.loads(message) if isinstance(message, str) else None
    except ValueError:
        return None
    if not isinstance(value, dict) or value.get("version") != 1 or not isinstance(value.get("reached"), list):
        return None
    return value
