"""What `helm test` runs in the cluster: every part answers, and the operator may read its API."""

import http.client
import os
import socket
import ssl
import sys
import time
from pathlib import Path

IDENTITY = Path("/var/run/secrets/kubernetes.io/serviceaccount")
HOST = os.environ["OPERATOR"]
SECONDS = 120


def ask(connection: http.client.HTTPConnection, path: str, token: str = "") -> None:
    try:
        connection.request("GET", path, headers={"Authorization": f"Bearer {token}"} if token else {})
        answer = connection.getresponse()
        text = answer.read(300).decode(errors="replace")
        if answer.status != http.HTTPStatus.OK:
            raise OSError(f"{path} answered {answer.status}: {text}")
    finally:
        connection.close()


def operator_is_ready() -> None:
    ask(http.client.HTTPConnection(HOST, 8080, timeout=5), "/readyz")


def git_server_answers() -> None:
    with socket.create_connection((HOST, 8081), timeout=5):
        pass


def api_is_installed() -> None:
    context = ssl.create_default_context(cafile=str(IDENTITY / "ca.crt"))
    server, port = os.environ["KUBERNETES_SERVICE_HOST"], int(os.environ["KUBERNETES_SERVICE_PORT"])
    base = f"/apis/autoresearch.dev/v1alpha1/namespaces/{os.environ['NAMESPACE']}"
    for plural in ("researchruns", "experiments"):
        connection = http.client.HTTPSConnection(server, port, timeout=5, context=context)
        ask(connection, f"{base}/{plural}?limit=1", (IDENTITY / "token").read_text())


def main() -> int:
    deadline = time.monotonic() + SECONDS
    for check in (operator_is_ready, git_server_answers, api_is_installed):
        name = check.__name__.replace("_", " ")
        while True:
            try:
                check()
                print(f"ok: {name}", flush=True)
                break
            except (OSError, http.client.HTTPException) as error:
                if time.monotonic() > deadline:
                    print(f"failed: {name}: {error}", flush=True)
                    return 1
                time.sleep(2)
    return 0


sys.exit(main())
