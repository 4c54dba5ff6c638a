"""Addresses of a test node, chosen so that two nodes on one machine and the machine's own networks never meet."""

from __future__ import annotations

import ipaddress
import json
import random
import subprocess
from dataclasses import dataclass, replace

from clusterlab.controlplane import Options
from clusterlab.processes import NotReady


@dataclass(frozen=True)
class Network:
    """One /16 of 10.0.0.0/8 cut into what a node needs."""

    octet: int

    @classmethod
    def pick(cls) -> Network:
        """A /16 that no route of this machine touches. Raises NotReady when all are taken."""
        listed = subprocess.run(["ip", "-json", "route", "show", "table", "all"], capture_output=True, check=True)
        taken = []
        for route in json.loads(listed.stdout):
            destination = route.get("dst", "default")
            if destination != "default" and ":" not in destination:
                taken.append(ipaddress.ip_network(destination, strict=False))
        free = [
            n for n in range(100, 250) if not any(ipaddress.ip_network(f"10.{n}.0.0/16").overlaps(t) for t in taken)
        ]
        if not free:
            raise NotReady("no 10.x.0.0/16 is free on this machine: `ip route` shows who has them")
        return cls(random.choice(free))

    @property
    def link(self) -> str:
        """Name of this machine's end of the cable to the node (15 characters at most)."""
        return f"arnode{self.octet}"

    @property
    def host_address(self) -> str:
        """This machine, as the node and its pods see it."""
        return f"10.{self.octet}.0.1"

    @property
    def node_address(self) -> str:
        return f"10.{self.octet}.0.2"

    @property
    def pods(self) -> str:
        return f"10.{self.octet}.1.0/24"

    @property
    def services(self) -> str:
        return f"10.{self.octet}.128.0/20"

    @property
    def dns_address(self) -> str:
        """The tenth address of the Services' range, as is customary."""
        return f"10.{self.octet}.128.10"

    def options(self, base: Options | None = None) -> Options:
        """The control plane's options for this node to join it; everything else as in `base`."""
        return replace(
            base or Options(),
            bind_address="0.0.0.0",  # noqa: S104 - the node and its pods reach it over the cable
            advertise_address=self.host_address,
            service_cidr=self.services,
        )
