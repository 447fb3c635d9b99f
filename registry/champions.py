"""Who is champion: the alias of MLflow's registry that `models:/NAME@champion` resolves, read and moved over REST.

Over REST, because the API promotes too, and does not import MLflow (docs/decisions/0003).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

CHAMPION = "champion"
NOT_FOUND = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
TIMEOUT_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class RegisteredVersion:
    """A version of a registered model."""

    name: str
    version: str
    tags: Mapping[str, str] = field(default_factory=dict, compare=False)
    run_id: str | None = field(default=None, compare=False)
    """The MLflow run that made it: versions are numbered anew when a registered model is deleted and made again."""


class Champions:
    """The alias of each registered model; every method raises `httpx.HTTPError` if MLflow does not answer."""

    def __init__(self, tracking_uri: str, login: tuple[str, str] | None = None) -> None:
        """`login` is a user name and a password, for a server that asks for them."""
        self._login = login
        self._base_url = f"{tracking_uri}/api/2.0/mlflow"

    def of(self, name: str) -> RegisteredVersion | None:
        """Return the champion among the versions of a registered model, with its tags; None if there is none."""
        query = {"name": name, "alias": CHAMPION}
        response = self._send("GET", "/registered-models/alias", params=query)
        if response.is_client_error and response.json().get("error_code") in NOT_FOUND:
            return None
        return _parse(response.raise_for_status().json()["model_version"])

    def find(self, name: str, version: str, run_id: str) -> RegisteredVersion | None:
        """Return the version that a run made, under the name that it has by now; None if it was deleted.

        `name` and `version` are what it had when it was made.
        """
        response = self._send("GET", "/model-versions/get", params={"name": name, "version": version})
        if not (response.is_client_error and response.json().get("error_code") in NOT_FOUND):
            found = _parse(response.raise_for_status().json()["model_version"])
            if found.run_id == run_id:
                return found
        query = {"filter": f"run_id = '{run_id}'"}
        versions = self._send("GET", "/model-versions/search", params=query).raise_for_status().json()
        renamed = [_parse(one) for one in versions.get("model_versions", [])]
        return renamed[0] if renamed else None

    def dethrone(self, version: RegisteredVersion) -> bool:
        """Take the alias from a version; return whether it had it."""
        if self.of(version.name) != version:
            return False
        body = {"name": version.name, "alias": CHAMPION}
        self._send("DELETE", "/registered-models/alias", json=body).raise_for_status()
        return True

    def crown(self, version: RegisteredVersion) -> None:
        """Make a version the champion."""
        body = {"name": version.name, "alias": CHAMPION, "version": version.version}
        self._send("POST", "/registered-models/alias", json=body).raise_for_status()

    def tag(self, version: RegisteredVersion, tags: Mapping[str, str]) -> None:
        """Set tags on a version, which MLflow's UI shows beside it."""
        for key, value in tags.items():
            body = {"name": version.name, "version": version.version, "key": key, "value": value}
            self._send("POST", "/model-versions/set-tag", json=body).raise_for_status()

    def _send(self, method: str, path: str, **content: Any) -> httpx.Response:
        with httpx.Client(base_url=self._base_url, auth=self._login, timeout=TIMEOUT_SECONDS, trust_env=False) as http:
            return http.request(method, path, **content)


def _parse(body: Mapping[str, Any]) -> RegisteredVersion:
    tags = {tag["key"]: tag["value"] for tag in body.get("tags", [])}
    return RegisteredVersion(body["name"], body["version"], tags, body.get("run_id"))
