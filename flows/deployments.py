"""Register the deployments of `prefect.yaml` with the Prefect server, once per change."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml
from prefect import Flow
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.schedules import Schedule

DEPLOYMENTS_FILE = Path(__file__).resolve().parents[1] / "prefect.yaml"
"""The same file that `prefect deploy --all` reads."""


@dataclass(frozen=True)
class DeploymentSpec:
    """One deployment of `prefect.yaml`."""

    name: str
    entrypoint: str
    """Dotted path of the flow (`flows.finetune.finetune`): found from any working directory."""
    work_pool: str
    parameters: dict[str, Any] = field(default_factory=dict)
    description: str | None = None
    tags: list[str] = field(default_factory=list)
    schedules: list[dict[str, Any]] = field(default_factory=list)

    @property
    def module(self) -> str:
        """The module that defines the flow."""
        return self.entrypoint.rpartition(".")[0]

    @property
    def flow_name(self) -> str:
        """A flow is named like its function here."""
        return self.entrypoint.rpartition(".")[2]

    @property
    def full_name(self) -> str:
        """`FLOW/DEPLOYMENT`."""
        return f"{self.flow_name}/{self.name}"

    def fingerprint(self) -> str:
        """Hash of all that a registration is made from, without importing the flow.

        It is kept as the deployment's version, so that what a person changed in the UI (a schedule switched
        on, a default parameter) survives a restart, and is replaced when the platform itself changed.
        """
        digest = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode())
        for module in (self.module, "configs.recipe"):
            spec = find_spec(module)
            if spec is None or spec.origin is None:
                raise ModuleNotFoundError(f"prefect.yaml names the module {module}, which can't be found.")
            digest.update(Path(spec.origin).read_bytes())
        return digest.hexdigest()[:12]


def read_specs(file: Path) -> list[DeploymentSpec]:
    """Return the deployments that a `prefect.yaml` lists."""
    entries = yaml.safe_load(file.read_text())["deployments"]
    return [
        DeploymentSpec(
            name=entry["name"],
            entrypoint=entry["entrypoint"],
            work_pool=entry["work_pool"]["name"],
            parameters=entry.get("parameters") or {},
            description=entry.get("description"),
            tags=entry.get("tags") or [],
            schedules=entry.get("schedules") or [],
        )
        for entry in entries
    ]


async def ensure_work_pools(client: PrefectClient, specs: list[DeploymentSpec]) -> None:
    """Create the work pools that the deployments name, where missing."""
    for name in sorted({spec.work_pool for spec in specs}):
        try:
            await client.read_work_pool(name)
        except ObjectNotFound:
            try:
                await client.create_work_pool(WorkPoolCreate(name=name, type="process"))
            except ObjectAlreadyExists:
                continue  # somebody was quicker


async def outdated(client: PrefectClient, specs: list[DeploymentSpec]) -> bool:
    """Tell whether any deployment is missing on the server or was registered from other sources."""
    for spec in specs:
        try:
            deployment = await client.read_deployment_by_name(spec.full_name)
        except ObjectNotFound:
            return True
        if deployment.version != spec.fingerprint():
            return True
    return False


async def incomplete(client: PrefectClient, specs: list[DeploymentSpec]) -> bool:
    """Tell whether somebody has deleted a deployment, or the work pool under one.

    Asked for ever, so they are counted: to read their schedules Prefect walks through all time zones' files.
    """
    wanted = {
        "deployments": {"name": {"any_": [spec.name for spec in specs]}},
        "flows": {"name": {"any_": [spec.flow_name for spec in specs]}},
        "work_pools": {"name": {"any_": [spec.work_pool for spec in specs]}},
    }
    response = await client.request("POST", "/deployments/count", json=wanted)
    return int(response.json()) < len(specs)


async def apply_deployments(specs: list[DeploymentSpec]) -> None:
    """Register every deployment, replacing what is there."""
    for spec in specs:
        flow: Flow[..., Any] = getattr(import_module(spec.module), spec.flow_name)
        deployment: RunnerDeployment = RunnerDeployment.from_flow(
            flow,
            name=spec.name,
            work_pool_name=spec.work_pool,
            parameters=spec.parameters,
            description=spec.description or flow.description,
            tags=spec.tags,
            version=spec.fingerprint(),
            schedules=[Schedule(**schedule) for schedule in spec.schedules],
        )
        deployment.entrypoint = spec.entrypoint
        await deployment.aapply()
