"""What KWOK plays on simulated nodes: it starts pods and deletes them, as a kubelet does. It never ends one.

Ends are the test's business (`simtrainer`), because only a test knows what a trial should come to; the Job controller,
scheduler, garbage collector and node lifecycle are the real ones.

A trial's pod is started as a kubelet starts it: while `train`, an init container, runs, the *pod* stays Pending with
`Initialized=False`, the native sidecar `gate` runs, and `judge` waits with PodInitializing.
"""

from __future__ import annotations

from clusterlab.api import Object

LABEL_ALIVE = "sim.autoresearch.dev/kubelet"
"""On nodes, value = id of the KWOK that is their kubelet. Taking it off ends heartbeats and every pod's news."""

UNPULLABLE = "registry.invalid"
"""Images whose name begins so cannot be pulled (RFC 2606: the host can never exist)."""

SLOW_PREFIX = "slow-"
"""On nodes whose name begins so, pods take SLOW_MILLISECONDS to start: a first pull of the trainer's image."""
SLOW_MILLISECONDS = 8_000

KILL_MILLISECONDS = 200
"""From a pod's deletion to its last status: the time containers take to heed SIGTERM."""

_TRIAL: Object = {"key": '.metadata.labels["autoresearch.dev/run"]', "operator": "Exists"}
_NO_TRIAL: Object = {"key": '.metadata.labels["autoresearch.dev/run"]', "operator": "DoesNotExist"}
_LIVE: Object = {"key": ".metadata.deletionTimestamp", "operator": "DoesNotExist"}
_DELETED: Object = {"key": ".metadata.deletionTimestamp", "operator": "Exists"}
_UNSTARTED: Object = {"key": ".status.startTime", "operator": "DoesNotExist"}
_PENDING: Object = {"key": ".status.phase", "operator": "In", "values": ["Pending"]}
_UNFINISHED: Object = {"key": ".status.phase", "operator": "In", "values": ["Pending", "Running"]}
_FINISHED: Object = {"key": ".status.phase", "operator": "In", "values": ["Succeeded", "Failed"]}
_FIRST_IMAGE = "(.spec.initContainers // []) + .spec.containers | .[0].image"
_PULLABLE: Object = {"key": f'{_FIRST_IMAGE} | startswith("{UNPULLABLE}")', "operator": "In", "values": ["false"]}
_NOT_PULLABLE = _PULLABLE | {"values": ["true"]}
_QUICK: Object = {"key": f'.spec.nodeName | startswith("{SLOW_PREFIX}")', "operator": "In", "values": ["false"]}
_SLOW = _QUICK | {"values": ["true"]}

_ADDRESSES = """\
{{ with NodeIPsWith .spec.nodeName }}
hostIP: {{ index . 0 | Quote }}
hostIPs:
{{ range . }}
- ip: {{ . | Quote }}
{{ end }}
{{ end }}
{{ $own := or .spec.hostNetwork false }}
{{ with PodIPsWith .spec.nodeName $own .metadata.uid .metadata.name .metadata.namespace }}
podIP: {{ index . 0 | Quote }}
podIPs:
{{ range . }}
- ip: {{ . | Quote }}
{{ end }}
{{ end }}
"""

_IDENTITY = """\
- name: {{ .name | Quote }}
  image: {{ .image | Quote }}
  imageID: {{ printf "%s@sha256:%s" .image (sha256sum .image) | Quote }}
  restartCount: 0
"""

_START_TRIAL = (
    """\
{{ $now := Now }}
{{ $training := false }}
{{ range .spec.initContainers }}
{{ if ne (or .restartPolicy "") "Always" }}{{ $training = true }}{{ end }}
{{ end }}
startTime: {{ $now | Quote }}
phase: {{ if $training }}Pending{{ else }}Running{{ end }}
conditions:
- {type: PodReadyToStartContainers, status: "True", lastTransitionTime: {{ $now | Quote }}}
{{ if $training }}
- {type: Initialized, status: "False", lastTransitionTime: {{ $now | Quote }}, reason: ContainersNotInitialized}
- {type: Ready, status: "False", lastTransitionTime: {{ $now | Quote }}, reason: ContainersNotReady}
- {type: ContainersReady, status: "False", lastTransitionTime: {{ $now | Quote }}, reason: ContainersNotReady}
{{ else }}
- {type: Initialized, status: "True", lastTransitionTime: {{ $now | Quote }}}
- {type: Ready, status: "True", lastTransitionTime: {{ $now | Quote }}}
- {type: ContainersReady, status: "True", lastTransitionTime: {{ $now | Quote }}}
{{ end }}
initContainerStatuses:
{{ range .spec.initContainers }}
"""
    + _IDENTITY
    + """\
  started: true
  ready: {{ eq (or .restartPolicy "") "Always" }}
  state: {running: {startedAt: {{ $now | Quote }}}}
{{ end }}
containerStatuses:
{{ range .spec.containers }}
"""
    + _IDENTITY
    + """\
  started: {{ not $training }}
  ready: {{ not $training }}
  {{ if $training }}
  state: {waiting: {reason: PodInitializing}}
  {{ else }}
  state: {running: {startedAt: {{ $now | Quote }}}}
  {{ end }}
{{ end }}
"""
    + _ADDRESSES
)

_START_OTHER = (
    """\
{{ $now := Now }}
startTime: {{ $now | Quote }}
phase: Running
conditions:
- {type: PodReadyToStartContainers, status: "True", lastTransitionTime: {{ $now | Quote }}}
- {type: Initialized, status: "True", lastTransitionTime: {{ $now | Quote }}}
- {type: Ready, status: "True", lastTransitionTime: {{ $now | Quote }}}
- {type: ContainersReady, status: "True", lastTransitionTime: {{ $now | Quote }}}
{{ range .spec.readinessGates }}
- {type: {{ .conditionType | Quote }}, status: "True", lastTransitionTime: {{ $now | Quote }}}
{{ end }}
initContainerStatuses:
{{ range .spec.initContainers }}
"""
    + _IDENTITY
    + """\
  ready: true
  {{ if eq (or .restartPolicy "") "Always" }}
  started: true
  state: {running: {startedAt: {{ $now | Quote }}}}
  {{ else }}
  state: {terminated: {exitCode: 0, reason: Completed, startedAt: {{ $now | Quote }}, finishedAt: {{ $now | Quote }}}}
  {{ end }}
{{ end }}
containerStatuses:
{{ range .spec.containers }}
"""
    + _IDENTITY
    + """\
  started: true
  ready: true
  state: {running: {startedAt: {{ $now | Quote }}}}
{{ end }}
"""
    + _ADDRESSES
)

_CANNOT_PULL = (
    """\
{{ $now := Now }}
startTime: {{ $now | Quote }}
phase: Pending
conditions:
- {type: PodReadyToStartContainers, status: "True", lastTransitionTime: {{ $now | Quote }}}
- {type: Initialized, status: "False", lastTransitionTime: {{ $now | Quote }}, reason: ContainersNotInitialized}
- {type: Ready, status: "False", lastTransitionTime: {{ $now | Quote }}, reason: ContainersNotReady}
- {type: ContainersReady, status: "False", lastTransitionTime: {{ $now | Quote }}, reason: ContainersNotReady}
initContainerStatuses:
{{ range $index, $container := .spec.initContainers }}
- name: {{ .name | Quote }}
  image: {{ .image | Quote }}
  imageID: ""
  restartCount: 0
  started: false
  ready: false
  {{ if eq $index 0 }}
  state: {waiting: {reason: ImagePullBackOff, message: {{ printf "Back-off pulling image %q" .image | Quote }}}}
  {{ else }}
  state: {waiting: {reason: PodInitializing}}
  {{ end }}
{{ end }}
{{ $initialises := .spec.initContainers }}
containerStatuses:
{{ range .spec.containers }}
- name: {{ .name | Quote }}
  image: {{ .image | Quote }}
  imageID: ""
  restartCount: 0
  started: false
  ready: false
  {{ if $initialises }}
  state: {waiting: {reason: PodInitializing}}
  {{ else }}
  state: {waiting: {reason: ImagePullBackOff, message: {{ printf "Back-off pulling image %q" .image | Quote }}}}
  {{ end }}
{{ end }}
"""
    + _ADDRESSES
)


def _ended(lists: tuple[str, ...], *, code: int, reason: str) -> str:
    """Every container that ran is terminated; one that was waiting stays so, as a kubelet leaves it."""
    parts = ["{{ $now := Now }}", "{{ $root := . }}"]
    for name in lists:
        parts.append(f"{name}:")
        parts.append(f"{{{{ range .status.{name} }}}}")
        parts.append(
            "- name: {{ .name | Quote }}\n"
            "  image: {{ .image | Quote }}\n"
            '  imageID: {{ or .imageID "" | Quote }}\n'
            "  restartCount: 0\n"
            "  started: false\n"
            "  ready: false\n"
            "  {{ if .state.running }}\n"
            "  state:\n"
            "    terminated:\n"
            f"      exitCode: {code}\n"
            f"      reason: {reason}\n"
            "      startedAt: {{ .state.running.startedAt | Quote }}\n"
            "      finishedAt: {{ $now | Quote }}\n"
            "  {{ else }}\n"
            "  state:\n"
            "    {{ YAML .state 2 }}\n"
            "  {{ end }}"
        )
        parts.append("{{ end }}")
    return "\n".join(parts) + "\n"


_BOTH = ("initContainerStatuses", "containerStatuses")
_KILLED = _ended(_BOTH, code=137, reason="Error") + "phase: Failed\n"
_COMPLETED = _ended(_BOTH, code=0, reason="Completed") + "phase: Succeeded\n"

_NODE_READY = """\
{{ $now := Now }}
conditions:
- type: Ready
  status: "True"
  reason: KubeletReady
  message: simulated
  lastHeartbeatTime: {{ $now | Quote }}
  lastTransitionTime: {{ $now | Quote }}
"""


def _stage(name: str, kind: str, expressions: list[Object], following: Object, milliseconds: int = 0) -> Object:
    return {
        "apiVersion": "kwok.x-k8s.io/v1alpha1",
        "kind": "Stage",
        "metadata": {"name": name},
        "spec": {
            "resourceRef": {"apiGroup": "v1", "kind": kind},
            "selector": {"matchExpressions": expressions},
            **({"delay": {"durationMilliseconds": milliseconds}} if milliseconds else {}),
            "next": following,
        },
    }


def configuration(keeper: str, lease_seconds: int) -> list[Object]:
    """KWOK's whole configuration file, as documents.

    keeper: id of this KWOK, value of LABEL_ALIVE on its nodes. lease_seconds: how long a node's heartbeat holds.
    """
    start = [_LIVE, _PENDING, _UNSTARTED]
    is_ready = '.status.conditions.[] | select(.type == "Ready") | .status'
    not_ready: Object = {"key": is_ready, "operator": "NotIn", "values": ["True"]}
    owned_by_job: Object = {"key": ".metadata.ownerReferences.[].kind", "operator": "In", "values": ["Job"]}
    options: Object = {
        "manageAllNodes": False,
        "manageNodesWithLabelSelector": f"{LABEL_ALIVE}={keeper}",
        "cidr": "10.250.0.0/16",
        "nodeIP": "10.255.0.1",
        "nodeLeaseDurationSeconds": lease_seconds,
        "podPlayStageParallelism": 16,
        "nodePlayStageParallelism": 4,
        "nodeLeaseParallelism": 4,
        "enableDebuggingHandlers": False,
    }
    return [
        {"apiVersion": "config.kwok.x-k8s.io/v1alpha1", "kind": "KwokConfiguration", "options": options},
        _stage("node-ready", "Node", [not_ready], {"statusTemplate": _NODE_READY}),
        _stage("trial-start", "Pod", [*start, _TRIAL, _PULLABLE, _QUICK], {"statusTemplate": _START_TRIAL}),
        _stage(
            "trial-slow-start",
            "Pod",
            [*start, _TRIAL, _PULLABLE, _SLOW],
            {"statusTemplate": _START_TRIAL},
            SLOW_MILLISECONDS,
        ),
        _stage("other-start", "Pod", [*start, _NO_TRIAL, _PULLABLE], {"statusTemplate": _START_OTHER}),
        _stage("cannot-pull", "Pod", [*start, _NOT_PULLABLE], {"statusTemplate": _CANNOT_PULL}),
        _stage(
            "other-complete",
            "Pod",
            [_LIVE, _NO_TRIAL, owned_by_job, {"key": ".status.phase", "operator": "In", "values": ["Running"]}],
            {"statusTemplate": _COMPLETED},
        ),
        _stage(
            "killed",
            "Pod",
            [_DELETED, _UNFINISHED, {"key": ".status.startTime", "operator": "Exists"}],
            {"statusTemplate": _KILLED},
            KILL_MILLISECONDS,
        ),
        _stage("gone", "Pod", [_DELETED, _FINISHED], {"delete": True}),
        _stage("gone-unstarted", "Pod", [_DELETED, _UNSTARTED], {"delete": True}),
    ]
