"""Who is champion: the alias of MLflow's registry that `models:/NAME@champion` resolves, read and moved over REST.

Over REST, because the API promotes too, and does not import MLflow (docs/decisions/0003).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

CHAMPION = "champion"
NO_SUCH_ALIAS = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
TIMEOUT_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class RegisteredVersion:
    """A version of a registered model."""

    name: str
    version: str
    tags: Mapping[str, str] = field(default_factory=dict, compare=False)


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
        if response.is_client_error and response.json().get("error_code") in NO_SUCH_ALIAS:
            return None
        found = response.raise_for_status().json()["model_version"]
        tags = {tag["key"]: tag["value"] for tag in found.get("tags", [])}
        return RegisteredVersion(name, found["version"], tags)

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
