# ruff: noqa: ARG002 - the stand-ins have the signatures of what they stand for
"""What the watches told, and the slow comparison that mends it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from autoresearch_operator.cluster.seen import Key
from autoresearch_operator.handlers.comparison import Comparison
from autoresearch_operator.handlers.view import View
from autoresearch_operator.handlers.written import Written
from faketime import Run

RUN = Key("lab", "first")


def thing(kind: str, name: str, version: int, *, uid: str = "", run: str = "first", **body: Any) -> dict[str, Any]:
    metadata: dict[str, Any] = {
        "namespace": "lab",
        "name": name,
        "uid": uid or f"uid-{name}",
        "resourceVersion": str(version),
        "managedFields": [{"manager": "x"}],
    }
    if kind != "researchruns":
        metadata["labels"] = {"autoresearch.dev/run": run}
    return {"apiVersion": "v1", "kind": kind, "metadata": metadata, **body}


def test_a_run_is_seen_with_all_that_belongs_to_it() -> None:
    changed: list[Key] = []
    view = View(changed.append)
    view.put("researchruns", thing("researchruns", "first", 1, spec={"suspend": True}))
    view.put("experiments", thing("experiments", "first-1", 2))
    view.put("jobs", thing("jobs", "first-1-s1-a1", 3))
    view.put("pods", thing("pods", "first-1-s1-a1-x", 4))
    view.put("configmaps", thing("configmaps", "first-1", 5, data={"source.tar": "x" * 1000}))
    seen = view.seen(RUN)
    assert seen.run is not None
    assert seen.run["spec"] == {"suspend": True}
    assert list(seen.experiments) == ["first-1"]
    assert list(seen.jobs) == ["first-1-s1-a1"]
    assert list(seen.pods) == ["first-1-s1-a1-x"]
    assert seen.config_maps == {"first-1"}
    assert changed == [RUN] * 5
    assert view.seen(Key("lab", "other")).run is None


def test_an_older_version_changes_nothing_and_wakes_nobody() -> None:
    changed: list[Key] = []
    view = View(changed.append)
    assert view.put("jobs", thing("jobs", "j", 10, status={"active": 1}))
    assert not view.put("jobs", thing("jobs", "j", 10))
    assert not view.put("jobs", thing("jobs", "j", 9, status={}))
    assert view.seen(RUN).jobs["j"]["status"] == {"active": 1}
    assert len(changed) == 1


def test_the_news_of_a_deletion_is_not_undone_by_what_comes_late() -> None:
    view = View()
    view.put("jobs", thing("jobs", "j", 10))
    view.drop("jobs", "lab", "j", "uid-j", 12)
    assert not view.put("jobs", thing("jobs", "j", 11))
    assert view.runs() == []
    assert view.put("jobs", thing("jobs", "j", 13, uid="another"))
    assert not view.drop("jobs", "lab", "j", "uid-j", 12), "an object of the same name that was made since stays"
    assert list(view.seen(RUN).jobs) == ["j"]


def test_an_object_that_moves_to_another_run_leaves_the_first() -> None:
    changed: list[Key] = []
    view = View(changed.append)
    view.put("pods", thing("pods", "p", 1))
    view.put("pods", thing("pods", "p", 2, run="second"))
    assert view.runs() == [Key("lab", "second")]
    assert changed == [RUN, RUN, Key("lab", "second")]


def test_an_experiment_without_its_label_is_known_by_its_owner() -> None:
    view = View()
    experiment = thing("experiments", "first-1", 1)
    del experiment["metadata"]["labels"]
    assert not view.put("experiments", experiment)
    experiment["metadata"]["ownerReferences"] = [{"kind": "ResearchRun", "name": "first"}]
    assert view.put("experiments", experiment)
    assert list(view.seen(RUN).experiments) == ["first-1"]


def test_only_what_is_needed_is_kept() -> None:
    view = View()
    template = {"spec": {"containers": [{"name": "train"}]}}
    view.put("jobs", thing("jobs", "j", 1, spec={"suspend": True, "template": template}))
    container = {"name": "train", "image": "x", "resources": {"limits": {"nvidia.com/gpu": "1"}}, "env": []}
    view.put("pods", thing("pods", "p", 2, spec={"nodeName": "n", "volumes": [1], "containers": [container]}))
    seen = view.seen(RUN)
    assert seen.jobs["j"]["spec"] == {"suspend": True}
    assert "managedFields" not in seen.jobs["j"]["metadata"]
    assert seen.pods["p"]["spec"] == {
        "nodeName": "n",
        "containers": [{"name": "train", "resources": {"limits": {"nvidia.com/gpu": "1"}}}],
    }


class Truth:
    """An API server's objects, by kind."""

    def __init__(self, **objects: list[dict[str, Any]]) -> None:
        self.objects = objects
        self.lists = 0

    async def pages(
        self, kind: str, namespace: str | None, selector: str = "", *, metadata_only: bool = False
    ) -> AsyncIterator[Sequence[Mapping[str, Any]]]:
        self.lists += 1
        for item in self.objects.get(kind, []):
            yield [{"metadata": item["metadata"]}] if metadata_only else [item]

    async def get(self, kind: str, namespace: str, name: str) -> Mapping[str, Any] | None:
        return next((item for item in self.objects.get(kind, []) if item["metadata"]["name"] == name), None)


def test_the_first_list_fills_the_view(instantly: Run) -> None:
    view = View()
    truth = Truth(
        researchruns=[thing("researchruns", "first", 1)],
        experiments=[thing("experiments", "first-1", 2, spec={"number": 1})],
        configmaps=[thing("configmaps", "first-1", 3)],
    )
    instantly(Comparison(truth, view, ["lab"]).fill())
    assert view.counts() == {"researchruns": 1, "experiments": 1, "jobs": 0, "pods": 0, "configmaps": 1}
    assert view.seen(RUN).experiments["first-1"]["spec"] == {"number": 1}


def test_a_lost_event_a_vanished_object_and_an_old_version_are_mended(instantly: Run) -> None:
    view = View()
    view.put("jobs", thing("jobs", "old", 1))
    view.put("jobs", thing("jobs", "vanished", 2))
    view.put("jobs", thing("jobs", "same", 3))
    truth = Truth(jobs=[thing("jobs", "old", 9), thing("jobs", "same", 3), thing("jobs", "untold", 8)])
    comparison = Comparison(truth, view, ["lab"])
    assert instantly(comparison.mend()) == 3
    assert {name: job["metadata"]["resourceVersion"] for name, job in view.seen(RUN).jobs.items()} == {
        "old": "9",
        "same": "3",
        "untold": "8",
    }
    assert instantly(comparison.mend()) == 0


def test_what_the_watches_tell_meanwhile_is_not_counted_against_them(instantly: Run) -> None:
    view = View()
    view.put("jobs", thing("jobs", "going", 1))
    truth = Truth(jobs=[thing("jobs", "coming", 5)])

    async def story() -> int:
        loop = asyncio.get_running_loop()
        loop.call_later(1, view.put, "jobs", thing("jobs", "coming", 5))
        loop.call_later(1, view.drop, "jobs", "lab", "going", "uid-going", 2)
        return await Comparison(truth, view, ["lab"]).mend()

    assert instantly(story()) == 0


def test_objects_of_other_namespaces_are_not_taken_for_vanished(instantly: Run) -> None:
    view = View()
    view.put("jobs", thing("jobs", "j", 1))
    assert instantly(Comparison(Truth(), view, ["elsewhere"]).mend()) == 0
    assert list(view.seen(RUN).jobs) == ["j"]


def test_the_answer_to_a_write_is_seen_by_the_next_pass(instantly: Run) -> None:
    view = View()

    class Writes(Truth):
        async def create(self, kind: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
            return thing(kind, body["metadata"]["name"], 7)

        async def delete(self, kind: str, namespace: str, name: str) -> None:
            return None

    cluster = Written(Writes(), view)  # type: ignore[arg-type]  # the methods that this test calls

    async def story() -> None:
        await cluster.create("jobs", {"metadata": {"name": "j"}})
        await cluster.create("configmaps", {"metadata": {"name": "first-1"}})
        await cluster.create("networkpolicies", {"metadata": {"name": "first-trials"}})
        assert list(view.seen(RUN).jobs) == ["j"]
        assert view.seen(RUN).config_maps == {"first-1"}
        await cluster.delete("jobs", "lab", "j")
        await cluster.delete("configmaps", "lab", "first-1")
        assert list(view.seen(RUN).jobs) == ["j"], "only its watch knows when it is really gone"
        assert view.seen(RUN).config_maps == frozenset()

    instantly(story())
