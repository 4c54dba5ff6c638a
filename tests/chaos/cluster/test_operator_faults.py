"""Whatever happens to a cluster while a run is under way, it ends with the ledger of one that nothing happened to."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from clusterlab.controlplane import ControlPlane
from clusterlab.kwok import Kwok
from clusterlab.wire import Wire
from controlledruns import behaviour
from disturbed import OPERATORS, Disturbed, Operator, script
from gitservers import GitServer, http_server

ROOT = Path(__file__).resolve().parents[3]
FULL = bool(os.environ.get("AUTORESEARCH_FULL"))
KILLS = 100 if FULL else 8

pytestmark = pytest.mark.timeout(3600 if FULL else 600)


@pytest.fixture
def cluster(components: ControlPlane, kwok_nodes: Callable[..., list[str]]) -> ControlPlane:
    components.install_crds(sorted((ROOT / "crds").glob("*.yaml")))
    if components.api.find(f"/api/v1/namespaces/{OPERATORS}") is None:
        components.create_namespace(OPERATORS)
    kwok_nodes(1, gpus=8, product="simulated", driver="1")
    return components


Begin = Callable[..., Disturbed]


@pytest.fixture
def prepare(
    cluster: ControlPlane, namespace: str, sim_trainer: Callable[..., Any], tmp_path: Path
) -> Iterator[Callable[..., Disturbed]]:
    """`prepare(seconds=0.5, server=…, **spec)`: a run whose trials take so long, and its operator, not yet started."""
    made: list[Disturbed] = []

    def make(*, seconds: float = 0.5, server: GitServer | None = None, **spec: Any) -> Disturbed:
        sim_trainer(behaviour(seconds))
        made.append(Disturbed(cluster, namespace, tmp_path, server=server, **spec))
        return made[-1]

    yield make
    for one in made:
        if one.operator.process is not None:
            one.operator.kill()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[GitServer]:
    with http_server(tmp_path, tls=True) as git_server:
        yield script(git_server)


@pytest.mark.parametrize("where", ["volume", "server"])
def test_an_operator_killed_at_random_instants(
    where: str, prepare: Begin, server: GitServer, capsys: pytest.CaptureFixture[str]
) -> None:
    kills = KILLS if where == "volume" else KILLS // 4
    one = prepare(server=server if where == "server" else None, limits={"experiments": 4 + kills})
    one.operator.start()
    one.apply()
    draw, at_work = random.Random(11), 0
    while one.operator.kills < kills and not one.over():
        # Some of them at the start, which is recovery; the others once it works.
        if draw.random() < 0.7:
            one.operator.wait_at_work(one.operator.at_work() + (one.operator.kills > at_work))
            at_work += 1
        time.sleep(draw.uniform(0.0, 2.0))
        one.operator.kill()
        one.operator.start()
    one.check(600 if FULL else 300)
    with capsys.disabled():
        print(f"\n{one.operator.kills} kills, {at_work} of them at work")


def test_the_api_server_is_restarted_three_times(prepare: Begin, cluster: ControlPlane) -> None:
    one = prepare()
    one.begin()
    for done in (1, 3, 5):
        one.wait_done(done)
        cluster.restart("kube-apiserver", away_seconds=1.0)
    one.check()


def test_etcd_is_restarted(prepare: Begin, cluster: ControlPlane) -> None:
    one = prepare()
    one.begin()
    for done in (1, 4):
        one.wait_done(done)
        cluster.restart("etcd", away_seconds=2.0)
    one.check()


def test_watches_are_dropped_again_and_again_and_one_is_silent_for_long(prepare: Begin, cluster: ControlPlane) -> None:
    one = prepare(seconds=0.3)
    with Wire(cluster) as wire:
        one.operator = Operator(
            cluster, one.namespace, one.folder, kubeconfig=str(wire.kubeconfig_like(cluster.kubeconfig))
        )
        one.begin()
        draw = random.Random(5)
        for _ in range(12):
            time.sleep(draw.uniform(0.1, 1.0))
            wire.cut()
        wire.unplug()
        time.sleep(5.0)
        wire.plug_in()
        wire.cut()
        one.check()


def test_the_git_server_is_away_and_answers_are_lost_after_pushes(prepare: Begin, server: GitServer) -> None:
    one = prepare(server=server)
    one.begin()
    server.broken = True
    one.run.wait_complete(240)
    one.run.wait(lambda: one.run.condition("BranchUpdated").get("status") == "False", "BranchUpdated=False", 60)
    assert one.server_head() != one.expected[1]
    one.operator.kill()
    server.broken, server.drop_answers = False, 1
    one.operator.start()
    one.check()
    assert server.drop_answers == 0


def test_everything_in_the_namespace_is_deleted_again_and_again(prepare: Begin) -> None:
    one = prepare(limits={"experiments": 6})
    one.begin()
    for kinds in ("jobs", "experiments", "pods", "configmaps,jobs", "experiments,jobs,pods"):
        one.wait_done(min(one.done() + 1, 5))
        labels = "autoresearch.dev/run"
        one.cluster.kubectl("delete", kinds, "-l", labels, "-n", one.namespace, "--wait=false")
    one.check()


@pytest.mark.parametrize("volume", ["kept", "lost"])
def test_the_namespace_is_deleted_and_applied_again(volume: str, prepare: Begin, server: GitServer) -> None:
    one = prepare(server=server)
    one.begin()
    one.wait_done(4)
    one.run.wait(lambda: one.server_head() is not None, "an edit on the server", 120)
    one.cluster.delete_namespace(one.namespace, wait_seconds=90)
    if volume == "lost":
        one.operator.kill()
        one.operator = Operator(one.cluster, one.namespace, one.folder, name="another")
        one.operator.start()
    one.cluster.create_namespace(one.namespace)
    one.apply()
    one.check()


def test_a_node_is_lost_and_its_pods_terminate_for_ever(
    prepare: Begin, cluster: ControlPlane, kwok: Kwok, kwok_nodes: Callable[..., list[str]]
) -> None:
    one = prepare(seconds=2.0)
    one.begin()
    one.wait_done(1)
    lost = next(name for name in kwok.nodes if name.startswith("gpu-"))
    kwok_nodes(1, gpus=8, product="simulated", driver="1")
    kwok.lose(lost)
    # What the taint manager does after a minute: they stay, because nobody is there to say that they ended.
    one.cluster.kubectl(
        "delete", "pods", "-n", one.namespace, "--field-selector", f"spec.nodeName={lost}", "--wait=false"
    )
    one.check()


@pytest.mark.parametrize("where", ["volume", "server"])
def test_two_operators_with_volumes_of_their_own_work_at_once(
    where: str, prepare: Begin, server: GitServer, cluster: ControlPlane
) -> None:
    one = prepare(server=server if where == "server" else None)
    with Operator(cluster, one.namespace, one.folder, name="second") as second:
        one.begin()
        one.wait_done(4)
        assert second.process is not None
        assert second.process.poll() is None
        one.run.wait_complete(240)
        if where == "server":
            # Either of the two may be the one that goes on.
            one.wait_for_the_servers_ledger()
        second.stop()
    # With a git server its ledger is the one that counts: the volume whose push came second says so, and stops.
    one.check(volume=one.folder / "from-the-server" if where == "server" else None)


def test_two_operators_with_one_lease_and_the_first_is_killed(prepare: Begin, cluster: ControlPlane) -> None:
    one = prepare()
    one.begin()
    name = {"lease_name": f"operator-{one.namespace}", "data_folder": str(one.operator.volume)}
    with Operator(cluster, one.namespace, one.folder, name="second", **name) as second:
        one.wait_done(2)
        assert second.at_work() == 0
        one.operator.kill()
        second.wait_at_work()
        second.volume = one.operator.volume
        one.operator = second
        one.check()
