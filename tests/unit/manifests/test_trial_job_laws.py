"""The Job of a trial: laws that hold for every request."""

from __future__ import annotations

import json
import re
from typing import Any

import podshapes as shapes
from autoresearch_operator.api.run import ResearchRun
from autoresearch_operator.manifests.job import trial_job
from autoresearch_operator.manifests.settings import Hardware
from autoresearch_operator.research.names import random_seed
from autoresearch_operator.research.records import Purpose, TrialKey, TrialStart
from autoresearch_trainer.pod import spec as pod_spec_of_the_trainer
from hypothesis import given, settings
from hypothesis import strategies as st
from podshapes import containers, pod_spec

GIB = 1 << 30
LABEL_KEY = re.compile(r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?")
DNS_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")

dns = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,18}[a-z0-9])?", fullmatch=True)
quantity = st.sampled_from(["1Gi", "64Gi", "1500M", "40Gi", "3000000000"])
tier = st.fixed_dictionaries(
    {"name": dns},
    optional={
        "gpus": st.integers(0, 16),
        "resourceName": st.sampled_from(
            ["nvidia.com/gpu", "amd.com/gpu", "nvidia.com/mig-3g.40gb", "gpu.intel.com/i915"]
        ),
        "product": st.sampled_from(["NVIDIA-H100-80GB-HBM3", "Instinct_MI300X"]),
        "budget": st.sampled_from([{"seconds": 300}, {"cpuSeconds": 20.5}, {"steps": 40}]),
        "runtimeClassName": dns,
        "priorityClassName": dns,
        "nodeSelector": st.dictionaries(dns, dns, max_size=2),
        "tolerations": st.lists(
            st.sampled_from([{"key": "a", "operator": "Exists"}, {"operator": "Exists"}]), max_size=2
        ),
    },
)
trainer = st.fixed_dictionaries(
    {},
    optional={
        "command": st.sampled_from([["python", "train.py"], ["bash", "-c", "echo $(HOME) $$"]]),
        "env": st.lists(
            st.builds(
                lambda n, v: {"name": n, "value": v},
                st.from_regex(r"X[A-Z]{1,5}", fullmatch=True),
                st.text('a$(){}"\\é', max_size=9),
            ),
            max_size=3,
            unique_by=lambda one: one["name"],
        ),
        "evaluation": st.sampled_from(["Verified", "SelfReported"]),
        "data": st.just({"claimName": "climbmix", "trainPath": "a/train", "valPath": "a/val"}),
        "imagePullSecrets": st.just([{"name": "reg"}]),
        "resources": st.fixed_dictionaries(
            {},
            optional={"cpu": st.sampled_from(["8", "500m", "0.3"]), "memory": quantity, "ephemeralStorage": quantity},
        ),
    },
)


@st.composite
def jobs(draw: st.DrawFn) -> tuple[ResearchRun, dict[str, Any], dict[str, Any]]:
    """A request, the arguments of its Job, and the Job."""
    spec = {"tiers": [draw(tier)], "trainer": draw(trainer)}
    if draw(st.booleans()):
        spec["queueName"] = draw(dns)
    run = ResearchRun.model_validate(
        {"metadata": {"name": draw(st.from_regex(r"[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?", fullmatch=True))}, "spec": spec}
    )
    key = TrialKey(draw(st.integers(0, 1_000_000)), draw(st.integers(0, 64_000_063)), draw(st.integers(1, 100)))
    arguments: dict[str, Any] = {
        "start": TrialStart(
            key,
            run.spec.tiers[0].name,
            draw(st.sampled_from(list(Purpose))),
            5,
            draw(st.sampled_from(["val", "test"])),
            64,
        ),
        "pinned": draw(st.sampled_from([None, Hardware("NVIDIA H100 80GB HBM3", "575", "id")])),
        "avoid_nodes": draw(st.sampled_from([(), ("n2", "n1")])),
    }
    return run, arguments, build(run, arguments)


def build(run: ResearchRun, arguments: dict[str, Any]) -> dict[str, Any]:
    more = dict(arguments)
    return trial_job(
        shapes.as_object(run),
        run.spec,
        more.pop("start"),
        shapes.RECORD,
        shapes.SHA,
        shapes.SETTINGS,
        now=1.78e9,
        **more,
    )


def every_value(part: Any) -> list[Any]:
    if isinstance(part, dict):
        return [found for key, value in part.items() for found in [key, *every_value(value)]]
    return [found for value in part for found in every_value(value)] if isinstance(part, list) else [part]


@settings(max_examples=80, deadline=None)
@given(jobs())
def test_every_job_obeys_the_rules(made: tuple[ResearchRun, dict[str, Any], dict[str, Any]]) -> None:
    run, arguments, job = made
    assert build(run, arguments) == job, "the same request gives the same Job"
    names_and_labels_are_valid(job)
    nothing_leads_to_a_secret_or_a_token(job)
    the_candidate_sees_its_own_files_only(job)
    everything_is_restricted(job)
    requests_equal_limits_and_volumes_are_bounded(job)
    the_three_are_told_the_same(job, run, arguments["start"])


def names_and_labels_are_valid(job: dict[str, Any]) -> None:
    metadata, template = job["metadata"], job["spec"]["template"]["metadata"]
    assert len(metadata["name"]) <= 63
    assert DNS_NAME.fullmatch(metadata["name"])
    for labels in (metadata["labels"], template["labels"]):
        for key, value in labels.items():
            assert LABEL_KEY.fullmatch(key)
            assert len(value) <= 63
            assert LABEL_VALUE.fullmatch(value)
    own = {key: value for key, value in metadata["labels"].items() if "kueue" not in key}
    assert own.items() <= template["labels"].items(), "one selector finds Jobs and pods"


def nothing_leads_to_a_secret_or_a_token(job: dict[str, Any]) -> None:
    spec = dict(pod_spec(job))
    spec.pop("imagePullSecrets", None)  # read by the kubelet, never mounted
    assert not [
        value for value in every_value(spec) if isinstance(value, str) and re.search("secret", value, re.IGNORECASE)
    ]
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False
    kinds = {kind for volume in spec["volumes"] for kind in volume if kind != "name"}
    assert kinds <= {"emptyDir", "configMap", "persistentVolumeClaim"}
    assert not any(
        "valueFrom" in variable or "envFrom" in one for one in containers(job).values() for variable in one["env"]
    )


def the_candidate_sees_its_own_files_only(job: dict[str, Any]) -> None:
    train = containers(job)["train"]
    mounts = {mount["name"]: mount for mount in train["volumeMounts"]}
    assert set(mounts) <= {"socket", "source", "work", "shm"}
    assert mounts["socket"]["readOnly"]
    assert mounts["source"]["readOnly"]
    assert {variable["name"] for variable in train["env"]} <= {"AUTORESEARCH_TRIAL", "NVIDIA_VISIBLE_DEVICES"}
    gate, judge = containers(job)["gate"], containers(job)["judge"]
    assert train["securityContext"]["runAsUser"] not in {one["securityContext"]["runAsUser"] for one in (gate, judge)}
    assert not [mount for mount in judge["volumeMounts"] if mount["name"] in ("work", "source", "socket")]
    data = [mount for one in (gate, judge) for mount in one["volumeMounts"] if mount["name"] == "data"]
    assert len({mount["subPath"] for mount in data}) == len(data), "training and validation data are apart"
    assert all(mount["readOnly"] for mount in data)


def everything_is_restricted(job: dict[str, Any]) -> None:
    assert pod_spec(job)["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    for one in containers(job).values():
        context = one["securityContext"]
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert context["readOnlyRootFilesystem"] is context["runAsNonRoot"] is True
        assert context["allowPrivilegeEscalation"] is False
        assert context["runAsUser"] >= 1000


def requests_equal_limits_and_volumes_are_bounded(job: dict[str, Any]) -> None:
    for one in containers(job).values():
        assert one["resources"]["requests"] == one["resources"]["limits"]
        assert {"cpu", "memory", "ephemeral-storage"} <= one["resources"]["limits"].keys()
    for volume in pod_spec(job)["volumes"]:
        assert "sizeLimit" in volume.get("emptyDir", {"sizeLimit": ""})
    assert job["spec"]["backoffLimit"] == 0
    assert "ttlSecondsAfterFinished" not in job["spec"]
    assert pod_spec(job)["activeDeadlineSeconds"] > 3600


def the_three_are_told_the_same(job: dict[str, Any], run: ResearchRun, start: TrialStart) -> None:
    texts = {
        variable["value"]
        for one in containers(job).values()
        for variable in one["env"]
        if variable["name"] == "AUTORESEARCH_TRIAL"
    }
    assert len(texts) == 1
    text = texts.pop()
    assert "$" not in text, "the kubelet would replace $(NAME)"
    document = json.loads(text)
    pod_spec_of_the_trainer.parse(document)
    assert document["command"] == list(run.spec.trainer.command)
    assert document["seed"] == random_seed(0, start.key.seed)
    assert document["sourceSHA256"] == shapes.SHA
    given_env = {variable.name: variable.value for variable in run.spec.trainer.env}
    assert given_env.items() <= document["env"].items()
