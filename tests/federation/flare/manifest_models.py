# ruff: noqa: N815 -- the names are those of Kubernetes
"""Pydantic models of the parts of Kubernetes' objects and of Compose that are used.

A field that is not in a model is refused.

Compose's published schema is in no package that can be installed beside ours: its part stands here
as models.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

Label = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
Port = Annotated[int, Field(ge=1, le=65535)]
Quantity = Annotated[str, Field(pattern=r"^[0-9]+(m|Ki|Mi|Gi)?$")]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Metadata(Strict):
    name: Label
    labels: dict[str, Label] = {}
    annotations: dict[str, str] = {}


class Mount(Strict):
    name: Label
    mountPath: str


class Address(Strict):
    path: str
    port: Port


class Socket(Strict):
    port: Port


class Probe(Strict):
    httpGet: Address | None = None
    tcpSocket: Socket | None = None
    periodSeconds: int
    timeoutSeconds: int = 1
    failureThreshold: int = 3


class Dropped(Strict):
    drop: list[Literal["ALL"]]


class ContainerSecurity(Strict):
    allowPrivilegeEscalation: Literal[False]
    readOnlyRootFilesystem: Literal[True]
    capabilities: Dropped


class Resources(Strict):
    requests: dict[Literal["cpu", "memory", "storage"], Quantity]
    limits: dict[Literal["cpu", "memory"], Quantity] = {}


class ContainerPort(Strict):
    name: Annotated[str, Field(max_length=15)]
    containerPort: Port


class Container(Strict):
    name: Label
    image: str
    command: list[str] = []
    args: list[str] = []
    ports: list[ContainerPort] = []
    startupProbe: Probe | None = None
    livenessProbe: Probe | None = None
    readinessProbe: Probe | None = None
    securityContext: ContainerSecurity
    resources: Resources
    volumeMounts: list[Mount]


class SecretSource(Strict):
    secretName: Label
    defaultMode: int


class Volume(Strict):
    name: Label
    emptyDir: dict[str, str] | None = None
    secret: SecretSource | None = None


class Seccomp(Strict):
    type: Literal["RuntimeDefault"]


class PodSecurity(Strict):
    runAsNonRoot: Literal[True]
    runAsUser: Annotated[int, Field(gt=0)]
    runAsGroup: Annotated[int, Field(gt=0)]
    fsGroup: int
    seccompProfile: Seccomp


class Pod(Strict):
    automountServiceAccountToken: Literal[False]
    enableServiceLinks: bool
    terminationGracePeriodSeconds: int
    securityContext: PodSecurity
    initContainers: list[Container]
    containers: list[Container]
    volumes: list[Volume]


class Template(Strict):
    class Labels(Strict):
        labels: dict[str, Label]

    metadata: Labels
    spec: Pod


class Selector(Strict):
    matchLabels: dict[str, Label]


class Claim(Strict):
    class Spec(Strict):
        accessModes: list[Literal["ReadWriteOnce"]]
        resources: Resources

    metadata: Metadata
    spec: Spec


class StatefulSet(Strict):
    class Spec(Strict):
        serviceName: Label
        replicas: Literal[1]
        selector: Selector
        template: Template
        volumeClaimTemplates: list[Claim]

    apiVersion: Literal["apps/v1"]
    kind: Literal["StatefulSet"]
    metadata: Metadata
    spec: Spec


class Service(Strict):
    class Spec(Strict):
        class Port(Strict):
            name: Label
            port: Port
            targetPort: Port
            protocol: Literal["TCP"]

        type: Literal["ClusterIP", "LoadBalancer"]
        selector: dict[str, Label]
        publishNotReadyAddresses: bool
        ports: list[Port]

    apiVersion: Literal["v1"]
    kind: Literal["Service"]
    metadata: Metadata
    spec: Spec


class NetworkPolicy(Strict):
    class Spec(Strict):
        class Rule(Strict):
            class Port(Strict):
                port: Port
                protocol: Literal["TCP", "UDP"]

            ports: list[Port]

        podSelector: Selector
        policyTypes: list[Literal["Ingress", "Egress"]]
        ingress: list[Rule]
        egress: list[Rule] = []

    apiVersion: Literal["networking.k8s.io/v1"]
    kind: Literal["NetworkPolicy"]
    metadata: Metadata
    spec: Spec


Kubernetes = TypeAdapter(
    Annotated[StatefulSet | Service | NetworkPolicy, Field(discriminator="kind")]
)


class Compose(Strict):
    class Service(Strict):
        class Healthcheck(Strict):
            test: list[str]
            interval: Annotated[str, Field(pattern=r"^\d+s$")]
            timeout: Annotated[str, Field(pattern=r"^\d+s$")]
            retries: int

        class Bind(Strict):
            type: Literal["bind"]
            source: str
            target: str

        class Attached(Strict):
            aliases: list[str]

        image: str
        user: str
        restart: Literal["unless-stopped"]
        read_only: Literal[True]
        tmpfs: list[str]
        cap_drop: list[Literal["ALL"]]
        security_opt: list[str]
        init: bool
        command: list[str]
        volumes: list[Bind]
        networks: list[str] | dict[str, Attached] = []
        network_mode: str | None = None
        depends_on: list[str] = []
        healthcheck: Healthcheck | None = None

    class Network(Strict):
        internal: bool

    name: Label
    services: dict[Label, Service]
    networks: dict[Label, Network]
