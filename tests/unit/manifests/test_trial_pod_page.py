"""docs/reference/trial-pod.md says what the pod is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from podshapes import containers, job_of, pod_spec

PAGE = Path(__file__).resolve().parents[3] / "docs" / "reference" / "trial-pod.md"
WITH_CLAIM = job_of("{trainer: {data: {claimName: climbmix}}}")


def section(title: str) -> str:
    return PAGE.read_text(encoding="utf-8").split(f"\n## {title}\n")[1].split("\n## ")[0]


@pytest.mark.parametrize("name", ["gate", "train", "judge"])
def test_each_containers_table_has_its_mounts_user_and_command(name: str) -> None:
    container, told = containers(WITH_CLAIM)[name], section(name)
    rows = {row[0]: row[1] for row in re.findall(r"^\| `(/[^`]+)` \| (.*) \|$", told, re.MULTILINE)}
    assert set(rows) == {mount["mountPath"] for mount in container["volumeMounts"]}
    for mount in container["volumeMounts"]:
        assert ("read-only" in rows[mount["mountPath"]]) is mount.get("readOnly", False)
    assert f"| {container['securityContext']['runAsUser']} |" in told
    assert f"`{' '.join(container['command'])}`" in told


def test_the_defaults_on_the_page_are_the_defaults() -> None:
    told = section("Resources")
    gpu, cpu = containers(job_of()), containers(job_of("{tiers: [{name: gpu, gpus: 0}]}"))
    assert gpu["train"]["resources"]["limits"] == {
        "cpu": "2", "memory": "10Gi", "ephemeral-storage": "10Gi", "nvidia.com/gpu": "1",
    }  # fmt: skip
    assert "unset: 2 cores and 10Gi memory for each GPU, 10Gi disk" in told
    assert list(cpu["train"]["resources"]["limits"].values()) == ["1", "2Gi", "2Gi"]
    assert "unset: 1 core, 2Gi memory, 2Gi disk" in told
    assert [made["gate"]["resources"]["limits"]["cpu"] for made in (gpu, cpu)] == ["500m", "250m"]
    assert [made["gate"]["resources"]["limits"]["memory"] for made in (gpu, cpu)] == ["1Gi", "512Mi"]
    assert pod_spec(job_of())["terminationGracePeriodSeconds"] == 3
    assert "grace period is 3 s" in section("Time")
