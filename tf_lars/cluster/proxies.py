"""Keeps the traffic between workers away from HTTP proxies.

gRPC, over which TensorFlow's workers communicate, sends everything through the proxy in grpc_proxy,
https_proxy or http_proxy, and ignores these variables in capitals. A proxy seldom reaches workers,
and TensorFlow then only says "Deadline Exceeded". gRPC exempts the hosts in no_grpc_proxy, or where
that variable does not exist, in no_proxy (grpc/grpc doc/environment_variables.md and
src/core/handshaker/http_connect/http_proxy_mapper.cc): a host that ends with an entry of the list,
IPv6 addresses without brackets.
"""

import os
from collections.abc import Iterable, MutableMapping

_PROXIES = ("grpc_proxy", "https_proxy", "http_proxy")
_EXEMPT, _EXEMPT_FROM_ALL = "no_grpc_proxy", "no_proxy"


def bypass(hosts: Iterable[str], environment: MutableMapping[str, str] = os.environ) -> None:
    """Exempts workers from gRPC's proxy, in addition to the hosts that are exempt already.

    Only no_grpc_proxy changes, so that other libraries use the proxy as before. Must be called
    before TensorFlow connects to the workers.

    Args:
      hosts: Names or IP addresses of the workers' hosts.
      environment: Environment variables of the process.
    """
    if not any(environment.get(name) for name in _PROXIES):
        return
    text = environment.get(_EXEMPT, environment.get(_EXEMPT_FROM_ALL, ""))
    exempt = [entry.strip() for entry in text.split(",") if entry.strip()]
    environment[_EXEMPT] = ",".join(dict.fromkeys([*exempt, *hosts]))
