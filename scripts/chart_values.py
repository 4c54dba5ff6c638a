"""The values of the Helm chart: names, types, defaults and what they mean. values.yaml and its schema are made from it.

Defaults that are the operator's own settings are taken from there, so that each has one home.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from autoresearch_operator.operator_settings import OperatorSettings
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

_SETTINGS = OperatorSettings.model_fields
_NAME = r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?)?$"
_QUANTITY = r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$"

OptionalName = Annotated[str, Field(pattern=_NAME, max_length=253)]
Namespace = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)]
Strings = dict[str, str]
Object = dict[str, Any]


def camel(name: str) -> str:
    """camelCase with the initialisms that Kubernetes writes in capitals."""
    return to_camel(name).replace("Url", "URL")


class Values(BaseModel):
    """What all parts share."""

    model_config = ConfigDict(
        extra="forbid", alias_generator=camel, populate_by_name=True, use_attribute_docstrings=True
    )


class Image(Values):
    """A container image."""

    repository: Annotated[str, Field(min_length=1, pattern=r"^[a-z0-9][a-zA-Z0-9._:/-]*$")]
    """Name, without registry and tag."""
    tag: Annotated[str, Field(pattern=r"^([A-Za-z0-9_][A-Za-z0-9._-]{0,127})?$")] = ""
    """Tag. Empty: the chart's appVersion."""
    digest: Annotated[str, Field(pattern=r"^(sha256:[0-9a-f]{64})?$")] = ""
    """Digest, sha256:…; it wins over the tag and keeps the image from moving. Empty: the tag counts."""
    pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    """When a node pulls it."""


class Images(Values):
    """Both images, as `make images` builds them."""

    registry: Annotated[str, Field(pattern=r"^([a-z0-9][a-zA-Z0-9._:/-]*[a-zA-Z0-9])?$")] = ""
    """What comes before both names, such as reg.lab.example/ml. Empty: images that the nodes have already."""
    operator: Image = Image(repository="autoresearch-operator")
    """The operator's image."""
    trainer: Image = Image(repository="autoresearch-trainer")
    """The image of trials whose run names none; torch and the demo corpus are in it, about 5 GB."""


class Crds(Values):
    """The CustomResourceDefinitions."""

    install: bool = True
    """Install and upgrade them with the chart. false: somebody else does (`kubectl apply --server-side -f crds/`), as
    for a second installation in the same cluster."""
    keep: bool = True
    """Keep them at `helm uninstall`. false deletes them, and with them EVERY ResearchRun and Experiment of the
    cluster."""


class Rbac(Values):
    """What the operator may do."""

    create: bool = True
    """Make the roles and their bindings. false: bind your own to the service account; the chart's template
    role.yaml lists what is needed."""
    nodes: bool = False
    """Let it list nodes, by a ClusterRole, so that a tier that fits no node is told so before anything is queued."""
    aggregate: bool = False
    """Add ResearchRuns and Experiments to the cluster's own roles view, edit and admin."""


class ServiceAccount(Values):
    """The operator's identity. Trials have none: their pods mount no token."""

    create: bool = True
    """Make it."""
    name: OptionalName = ""
    """Its name. Empty: the installation's full name (with create: false, "default")."""
    annotations: Strings = {}
    """Its annotations, as some clouds want them."""


class Trials(Values):
    """Trials whose run says nothing else."""

    pull_secrets: list[OptionalName] = []
    """Names of Secrets to pull the trainer's image with; they have to be in the namespace of the run."""
    priority_class_name: OptionalName = ""
    """PriorityClass of trials whose tier names none. Empty: the cluster's default. With priorityClass.create,
    name that one here to have all trials give way to other work."""


class PriorityClass(Values):
    """A PriorityClass for trials on GPUs that nobody else wants: others evict them, they evict nobody."""

    create: bool = False
    """Make it (an object of the whole cluster)."""
    name: Annotated[str, Field(pattern=_NAME, min_length=1)] = "autoresearch-scavenging"
    """Its name, for `tiers[].priorityClassName` of a run or `trials.priorityClassName` above."""
    value: Annotated[int, Field(ge=-2_147_483_648, le=1_000_000_000)] = -10
    """Its value; pods without a class have 0. Under -10 the cluster-autoscaler makes no node for such pods."""


class Settings(Values):
    """The operator's own settings. docs/reference/settings.md lists all of them; others can be given in extraEnv."""

    log_level: Literal["debug", "info", "warning", "error"] = _SETTINGS["log_level"].default
    """Least severe lines that are logged."""
    log_format: Literal["json", "text"] = _SETTINGS["log_format"].default
    """One JSON object a line, or text."""
    lease_name: Annotated[str, Field(pattern=_NAME, min_length=1)] = _SETTINGS["lease_name"].default
    """Name of the Lease: of the operators that share one, a single one works."""
    resync_seconds: Annotated[float, Field(ge=1, le=86400)] = _SETTINGS["resync_seconds"].default
    """Seconds between two comparisons of what the watches told with what the API server has."""
    status_seconds: Annotated[float, Field(ge=0, le=3600)] = _SETTINGS["status_seconds"].default
    """Seconds at least between two writes of one run's status while only its counts change."""
    pushes_per_minute: Annotated[float, Field(gt=0, le=600)] = _SETTINGS["pushes_per_minute"].default
    """Pushes a minute to one remote repository at most."""


class Git(Values):
    """The read-only git server for runs without source.url."""

    base_url: Annotated[str, Field(pattern=r"^(https?://[^\s@]+)?$", max_length=500)] = ""
    """What people put before /NAMESPACE/NAME.git to clone, as a run's status shows it. Empty: http://localhost:8081,
    what they see after `kubectl port-forward`."""


class Persistence(Values):
    """The volume with the repositories of runs: their ledgers are the record of everything that was measured."""

    enabled: bool = True
    """Use a PersistentVolumeClaim. false: an emptyDir, and runs without source.url are lost with the pod."""
    existing_claim: OptionalName = ""
    """A claim of yours. Empty: the chart makes one."""
    keep: bool = True
    """Keep the claim, and all results, at `helm uninstall`."""
    storage_class_name: str = ""
    """StorageClass of the claim; "-" for none at all. Empty: the cluster's default."""
    access_mode: Literal["ReadWriteOnce", "ReadWriteOncePod", "ReadWriteMany"] = "ReadWriteOnce"
    """One operator writes, on one node at a time."""
    size: Annotated[str, Field(pattern=_QUANTITY)] = "10Gi"
    """Size of the claim (and limit of the emptyDir). A run of 1,000 candidates takes about 20 MiB."""
    annotations: Strings = {}
    """Annotations of the claim."""


class Service(Values):
    """The Service in front of the operator: metrics on 8080, git on 8081."""

    type: Literal["ClusterIP", "NodePort", "LoadBalancer"] = "ClusterIP"
    """How it is reached. Anybody who reaches it can read the repositories: put authentication in front."""
    annotations: Strings = {}
    """Annotations of the Service."""


class ServiceMonitor(Values):
    """A ServiceMonitor, for clusters where the Prometheus Operator runs."""

    create: bool = False
    """Make it; the cluster needs the definition servicemonitors.monitoring.coreos.com."""
    namespace: Annotated[str, Field(pattern=r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?)?$", max_length=63)] = ""
    """Its namespace. Empty: the release's."""
    labels: Strings = Field(default={}, examples=[{"release": "kube-prometheus-stack"}])
    """Labels for a Prometheus that selects by them: kube-prometheus-stack looks only at its own release's label, unless
    told otherwise."""
    interval: Annotated[str, Field(pattern=r"^([0-9]+(ms|s|m))?$")] = "30s"
    """Time between two scrapes. Empty: Prometheus' own."""


class Metrics(Values):
    """How the operator's metrics are found. They are always served, on 8080 of the Service."""

    service_monitor: ServiceMonitor = ServiceMonitor()
    """A ServiceMonitor, for clusters where the Prometheus Operator runs."""


class NetworkPolicy(Values):
    """Who may talk to the operator, and to whom it may talk. (Trials have a policy of their own that denies all.)"""

    enabled: bool = True
    """Make one."""
    metrics_from: list[Object] = []
    """Peers that may read metrics on 8080, as Kubernetes spells them. Empty: every pod of the cluster."""
    git_from: list[Object] = []
    """Peers that may clone on 8081. Empty: every pod of the cluster. A port-forward comes from the node, not from a
    pod, and is let in."""
    egress: list[Object] = []
    """Egress rules. Empty: it may talk to all, as git and model servers can be anywhere. Otherwise these, and DNS; list
    the API server among them."""


class CaBundle(Values):
    """Certificates of your own authority, for git and model servers behind it."""

    config_map_name: OptionalName = ""
    """A ConfigMap of yours with a PEM bundle; it replaces the system's. Empty: the image's bundle."""
    key: str = "ca.crt"
    """Its key."""


class Requests(Values):
    """Compute resources of the operator's container."""

    requests: Object = {"cpu": "100m", "memory": "256Mi"}
    """What it is sure to get."""
    limits: Object = {"memory": "1Gi"}
    """What it may take. There is no CPU limit: throttled seconds of the operator are idle seconds of GPUs."""


class Tests(Values):
    """`helm test`."""

    enabled: bool = True
    """Make the test pod: it asks the operator's ports and the API server whether all is there."""


class ChartValues(Values):
    """All values."""

    name_override: OptionalName = ""
    """Replaces the chart's name in the names of objects."""
    fullname_override: OptionalName = ""
    """Replaces release and chart name in the names of objects."""
    common_labels: Strings = {}
    """Labels of every object."""
    common_annotations: Strings = {}
    """Annotations of every object."""
    image: Images = Images()
    """Images."""
    image_pull_secrets: list[Object] = Field(default=[], examples=[[{"name": "registry"}]])
    """Secrets to pull the operator's image with."""
    watch_namespaces: list[Namespace] = Field(default=[], examples=[["team-a", "team-b"]])
    """Namespaces whose ResearchRuns are served, each with a Role of its own; they have to exist. Empty: the
    release's."""
    cluster_wide: bool = False
    """Serve all namespaces, by a ClusterRole. The operator may read every Secret of the cluster then (it uses none
    that is not labelled autoresearch.dev/usable=true, but RBAC cannot say that)."""
    rbac: Rbac = Rbac()
    """Rights."""
    service_account: ServiceAccount = ServiceAccount()
    """Identity."""
    crds: Crds = Crds()
    """CustomResourceDefinitions."""
    trials: Trials = Trials()
    """Trials."""
    priority_class: PriorityClass = PriorityClass()
    """PriorityClass for scavenging."""
    settings: Settings = Settings()
    """The operator's settings."""
    git: Git = Git()
    """The git server."""
    persistence: Persistence = Persistence()
    """The volume."""
    service: Service = Service()
    """The Service."""
    metrics: Metrics = Metrics()
    """Metrics."""
    network_policy: NetworkPolicy = NetworkPolicy()
    """The NetworkPolicy."""
    ca_bundle: CaBundle = CaBundle()
    """Certificates."""
    resources: Requests = Requests()
    """Compute resources."""
    pod_security_context: Object = {
        "runAsNonRoot": True,
        "runAsUser": 65532,
        "runAsGroup": 65532,
        "fsGroup": 65532,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    """Security context of the pod. On OpenShift set runAsUser, runAsGroup and fsGroup to null."""
    security_context: Object = {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    """Security context of the container."""
    pod_labels: Strings = {}
    """More labels of the pod."""
    pod_annotations: Strings = {}
    """More annotations of the pod."""
    node_selector: Strings = {}
    """Labels of the nodes that it may run on."""
    affinity: Object = {}
    """Its affinity, as Kubernetes spells it."""
    tolerations: list[Object] = []
    """Taints that it tolerates."""
    priority_class_name: OptionalName = ""
    """PriorityClass of the operator itself. Empty: the cluster's default."""
    termination_grace_period_seconds: Annotated[int, Field(ge=10, le=600)] = 30
    """Seconds to finish what it writes; it needs about 10."""
    extra_env: list[Object] = Field(default=[], examples=[[{"name": "HTTPS_PROXY", "value": "http://proxy.lab:3128"}]])
    """More environment variables, such as a proxy or any AUTORESEARCH_ setting."""
    extra_volumes: list[Object] = []
    """More volumes."""
    extra_volume_mounts: list[Object] = []
    """Where the container mounts them."""
    tests: Tests = Tests()
    """`helm test`."""
