"""The real node does what the operator will ask of it; every other end-to-end test stands on this."""

from __future__ import annotations

import time
from typing import Any

from clusterlab.node import Node
from clusterlab.node_pods import RESTRICTED, container, finished, pod

RESULT = '{"version":1,"outcome":"Scored"}'


def trial_shaped(name: str, gpus: int) -> dict[str, Any]:
    """Gate, train and judge with the probe in place of the trainer: what each may see is what a trial's may see."""
    gpu = {"nvidia.com/gpu": str(gpus)}
    limits = {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"cpu": "1", "memory": "64Mi", **gpu}}
    trusted = {**RESTRICTED, "runAsUser": 65533, "runAsGroup": 65533}
    account = {"name": "account", "mountPath": "/run/autoresearch/account"}
    work = {"name": "work", "mountPath": "/work"}
    gate = container(
        "gate",
        *("write", "/run/autoresearch/account/ready", RESULT, "then", "pause"),
        restartPolicy="Always",
        startupProbe={
            "exec": {"command": ["/probe", "print", "/run/autoresearch/account/ready"]},
            "periodSeconds": 1,
        },
        securityContext=trusted,
        volumeMounts=[account],
    )
    train = container(
        "train", "write", "/work/artifact", "data", "then", "say", "trained", volumeMounts=[work], resources=limits
    )
    judge = container(
        "judge",
        *(
            "wait",
            "/run/autoresearch/account/ready",
            "then",
            "write",
            "/dev/termination-log",
            RESULT,
            "then",
            "say",
            "judged",
        ),
        securityContext=trusted,
        volumeMounts=[{**account, "readOnly": True}],
        resources=limits,
    )
    volumes = [{"name": "account", "emptyDir": {}}, {"name": "work", "emptyDir": {"sizeLimit": "64Mi"}}]
    return pod(name, judge, init=(gate, train), volumes=volumes)


def test_a_pod_of_a_trials_shape_runs_to_its_end_and_its_result_arrives(real_node: Node, namespace: str) -> None:
    real_node.set_gpus(2, product="NVIDIA-L4")
    began = time.monotonic()
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "trial"},
        "spec": {"backoffLimit": 0, "template": trial_shaped("trial", gpus=1)},
    }
    api = real_node.plane.api
    base = f"/apis/batch/v1/namespaces/{namespace}/jobs"
    api.create(base, job)
    done = api.wait(
        lambda: (
            [
                c["type"]
                for c in api.get(f"{base}/trial").get("status", {}).get("conditions", [])
                if c["status"] == "True"
            ]
            or None
        ),
        "the Job ended",
        timeout_seconds=60,
    )
    seconds = time.monotonic() - began
    (found,) = api.list(f"/api/v1/namespaces/{namespace}/pods", labels="job-name=trial")
    assert "Complete" in done or "SuccessCriteriaMet" in done, (done, found["status"])
    (judge,) = found["status"]["containerStatuses"]
    assert judge["state"]["terminated"]["message"] == RESULT
    logs = real_node.plane.kubectl("logs", "-n", namespace, found["metadata"]["name"], "-c", "train")
    assert logs == "trained\n"
    # 7 s measured with both cores taken by other work: containers start one after the other.
    assert seconds < 40, f"{seconds:.1f} s"


def test_names_and_services_work_for_pods(real_node: Node, namespace: str) -> None:
    api = real_node.plane.api
    pods, services = f"/api/v1/namespaces/{namespace}/pods", f"/api/v1/namespaces/{namespace}/services"
    api.create(pods, pod("server", container("server", "serve", ":8080", "hello")))
    ports = [{"port": 80, "targetPort": 8080}]
    api.create(services, {"metadata": {"name": "hello"}, "spec": {"selector": {"app": "server"}, "ports": ports}})
    name = f"hello.{namespace}.svc.cluster.local"
    ask = ("resolve", "kubernetes.default.svc", "then", "resolve", name, "then", "get", f"http://{name}/")
    api.create(pods, pod("client", container("client", *ask)))
    finished(real_node, namespace, "client")
    first, second, answer = real_node.plane.kubectl("logs", "-n", namespace, "client").splitlines()
    assert first == api.get("/api/v1/namespaces/default/services/kubernetes")["spec"]["clusterIP"]
    assert second == api.get(f"{services}/hello")["spec"]["clusterIP"]
    assert answer == "200 hello"


def test_this_machine_reaches_pods_and_pods_reach_the_api_server(real_node: Node, namespace: str) -> None:
    api = real_node.plane.api
    pods = f"/api/v1/namespaces/{namespace}/pods"
    api.create(pods, pod("server", container("server", "serve", ":8080", "hello")))
    address = api.wait(
        lambda: api.get(f"{pods}/server")["status"].get("podIP"), "the pod's address", timeout_seconds=60
    )
    assert real_node.answers(f"http://{address}:8080/", seconds=20)
    # TLS refuses the probe, which knows no CA: the answer shows that it got there.
    probe = container("client", "get", "https://kubernetes.default.svc:443/version")
    api.create(pods, pod("client", probe))
    api.wait(lambda: api.get(f"{pods}/client")["status"]["phase"] == "Failed", "the client ended", timeout_seconds=60)
    assert "certificate" in real_node.plane.kubectl("logs", "-n", namespace, "client")


def test_the_restricted_level_is_enforced(real_node: Node, namespace: str) -> None:
    rooted = pod("rooted", container("rooted", "pause"))
    rooted["spec"]["securityContext"]["runAsNonRoot"] = False
    answer = real_node.plane.kubectl(
        "create", "-n", namespace, "-f", "-", input={"apiVersion": "v1", "kind": "Pod"} | rooted, check=False
    )
    assert "violates PodSecurity" in answer
