"""The chart of deploy/helm, by helm itself, Kubernetes' schemas and our own command line; and deploy/Containerfile."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from smartedge.cli.app import parse
from smartedge.errors import FleetError
from smartedge.fleet.authority import Authority
from smartedge.fleet.broker import write_broker
from smartedge.fleet.credentials import cloud_credentials, ingest_credentials
from smartedge.fleet.guarded import read_guarded
from smartedge.fleet.register import Register
from smartedge.wire.credentials import Credentials

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "helm" / "smartedge"
PROJECT = (ROOT / "pyproject.toml").read_text()
EXTRAS = re.findall(r"^(\w+) = ", re.split(r"\[project\.(?:optional-dependencies|scripts)\]", PROJECT)[1], re.MULTILINE)
KUBERNETES = ("1.29", "1.33", "1.36")
HELM = shutil.which("helm", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
needs_helm = pytest.mark.skipif(HELM is None, reason="helm is not installed: scripts/install-helm puts it into .venv")
CASES = {
    "as it is": [],
    "the run is over": ["ingest.enabled=false", "trainer.enabled=false"],
    "several machines": ["store.accessMode=ReadWriteMany", "store.storageClass=nfs", "trainer.workers=4"],
    "a broker": ["broker.url=nats://broker:4222/frames/4", "broker.ingest=3"],
    "GPUs, and a volume that is there": ["trainer.gpus=2", "trainer.workers=2", "store.existingClaim=faces"],
}


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    assert HELM is not None
    return subprocess.run([HELM, *arguments], capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    file = tmp_path / "run.yaml"
    file.write_text("data: {path: drawn}\nfleet: {expect: null}\n")
    return file


def rendered(settings: Path, *values: str) -> dict[str, dict[str, Any]]:
    """Kind → manifest, of what the chart makes."""
    sets = [text for value in values for text in ("--set", value)]
    done = helm("template", "faces", str(CHART), "--set-file", f"settings={settings}", *sets)
    assert done.returncode == 0, done.stderr
    found = [manifest for manifest in yaml.safe_load_all(done.stdout) if manifest]
    assert len({manifest["kind"] for manifest in found}) == len(found)
    return {manifest["kind"]: manifest for manifest in found}


def pods(manifests: dict[str, dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for kind in ("Deployment", "Job"):
        if kind in manifests:
            yield manifests[kind]["spec"]["template"]["spec"]


def test_its_defaults_keep_to_its_own_schema() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())
    jsonschema.validate(values, schema)
    assert set(schema["properties"]) - {"global"} == set(values), "each value is described, and each described is there"


def test_it_is_of_this_version() -> None:
    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"] == version("smartedge")


def test_the_image_installs_what_there_is_and_runs_as_the_charts_user() -> None:
    text = (ROOT / "deploy" / "Containerfile").read_text()
    extras = re.search(r"'\.\[(.*)\]'", text)
    assert extras and set(extras[1].split(",")) <= set(EXTRAS)
    assert 'ENTRYPOINT ["smartedge"]' in text and "smartedge" in entry_points(group="console_scripts").names
    user = re.search(r"^USER (\d+):(\d+)$", text, re.MULTILINE)
    assert user and f"runAsUser: {user[1]}\n" in (CHART / "templates" / "_helpers.tpl").read_text()
    copied = [word for line in text.splitlines() if line.startswith("COPY") for word in line.split()[1:-1]]
    kept = {line[1:] for line in (ROOT / ".containerignore").read_text().splitlines() if line.startswith("!")}
    assert set(copied) == kept and all((ROOT / name).exists() for name in copied)


@pytest.mark.slow
@needs_helm
def test_helm_accepts_it(settings: Path) -> None:
    done = helm("lint", "--strict", str(CHART), "--set-file", f"settings={settings}")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@needs_helm
@pytest.mark.parametrize("values", CASES.values(), ids=CASES)
def test_kubernetes_schemas_accept_what_it_makes(settings: Path, values: list[str]) -> None:
    for manifest in rendered(settings, *values).values():
        for each in KUBERNETES:
            kubernetes_validate.validate(manifest, each, strict=True)


@pytest.mark.slow
@needs_helm
@pytest.mark.parametrize("values", CASES.values(), ids=CASES)
def test_no_pod_has_rights_that_it_does_not_need(settings: Path, values: list[str]) -> None:
    for pod in pods(rendered(settings, *values)):
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in (*pod["initContainers"], *pod["containers"]):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["requests"] and container["resources"]["limits"]["memory"]
            mounts = {mount["name"] for mount in container["volumeMounts"]}
            assert mounts <= {volume["name"] for volume in pod["volumes"]}


@pytest.mark.slow
@needs_helm
def test_ingest_is_a_command_of_ours_and_trains_nothing(settings: Path) -> None:
    manifests = rendered(settings)
    pod = manifests["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    args = parse(container["args"])
    assert args.resume and "cloud.workers=0" in args.overrides
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert (args.listen, args.metrics) == (f"0.0.0.0:{ports['link']}", f"0.0.0.0:{ports['metrics']}")
    assert manifests["Service"]["spec"]["ports"][0]["targetPort"] == "link"
    assert manifests["Service"]["spec"]["selector"].items() <= (
        manifests["Deployment"]["spec"]["template"]["metadata"]["labels"].items()
    )
    for probe in ("startupProbe", "livenessProbe"):  # /healthz would restart a cloud because one edge is in quarantine
        assert container[probe]["httpGet"] == {"path": "/livez", "port": "metrics"}


@pytest.mark.slow
@needs_helm
def test_with_a_broker_several_pods_take_frames_out_of_it(settings: Path) -> None:
    manifests = rendered(settings, *CASES["a broker"])
    assert "Service" not in manifests and manifests["Deployment"]["spec"]["replicas"] == 3
    (container,) = manifests["Deployment"]["spec"]["template"]["spec"]["containers"]
    args = parse(container["args"])
    assert (args.location, args.fleet) == ("nats://broker:4222/frames/4", Path("/fleet"))
    assert "run_dir=/var/lib/smartedge/faces" in args.overrides and "ports" not in container


@pytest.mark.slow
@needs_helm
def test_the_trainer_is_a_command_of_torchrun(settings: Path) -> None:
    from torch.distributed.run import get_args_parser

    from smartedge.cloud.workers.launcher import ENVIRONMENT

    manifests = rendered(settings, "trainer.workers=4", "trainer.gpus=4")
    (container,) = manifests["Job"]["spec"]["template"]["spec"]["containers"]
    args = get_args_parser().parse_args(container["args"])
    assert (args.nproc_per_node, args.module, args.training_script) == ("4", True, "smartedge.cloud.worker")
    ingest = parse(manifests["Deployment"]["spec"]["template"]["spec"]["containers"][0]["args"])
    assert f"run_dir={args.training_script_args[0]}" in ingest.overrides
    assert container["resources"]["limits"] == {"memory": "4Gi", "nvidia.com/gpu": 4}
    assert ENVIRONMENT.items() <= {each["name"]: each["value"] for each in container["env"]}.items()


@pytest.mark.slow
@needs_helm
def test_another_trainer_is_another_job_and_other_values_leave_it_alone(settings: Path) -> None:
    """Kubernetes refuses to change the template of a job, so 'helm upgrade' would fail."""
    usual, others, same = (
        rendered(settings, *values)["Job"]
        for values in ((), ("trainer.workers=4", "ingest.enabled=false"), ("ingest.resources.limits.memory=4Gi",))
    )
    assert usual == same and usual["spec"] != others["spec"]
    assert usual["metadata"]["name"] != others["metadata"]["name"]
    long = helm("template", 53 * "a", str(CHART), "--set", "settings=x", "--show-only", "templates/trainer.yaml")
    name = yaml.safe_load(long.stdout)["metadata"]["name"]
    assert len(name) <= 63 and name != f"{45 * 'a'}-trainer", "a pod's label has no room for more"


def test_a_trainer_that_starts_again_does_not_meet_where_the_one_before_has_closed(tmp_path: Path) -> None:
    """Its own command, with 'echo' in place of Python. /tmp outlives a container of the pod."""
    template = (CHART / "templates" / "trainer.yaml").read_text()
    (line,) = re.findall(r"^ *command: (\[/bin/sh, .*torchrun\])$", template, re.MULTILINE)
    (place,) = re.findall("--rdzv-endpoint=(.*)", template)
    closed = tmp_path / "rendezvous"
    closed.write_text("closed")
    command = [word.replace(place, str(closed)).replace("exec python", "exec echo") for word in yaml.safe_load(line)]
    done = subprocess.run([*command, "--nnodes=1"], capture_output=True, text=True, check=True)
    assert done.stdout == "-m torch.distributed.run --nnodes=1\n" and not closed.exists()


@pytest.mark.slow
@needs_helm
def test_pods_share_a_machine_where_they_share_its_volume(settings: Path) -> None:
    def bound(*values: str) -> dict[str, bool]:
        found = rendered(settings, *values)
        return {
            kind: "affinity" in found[kind]["spec"]["template"]["spec"]
            for kind in ("Deployment", "Job")
            if kind in found
        }

    broker, shared = CASES["a broker"], "store.accessMode=ReadWriteMany"
    assert bound() == {"Deployment": False, "Job": True}
    assert bound(*broker) == {"Deployment": True, "Job": True}
    assert bound(*broker, shared) == {"Deployment": False, "Job": False}
    assert bound("ingest.enabled=false") == {"Job": False}, "there is no pod beside which it could run"


@pytest.mark.slow
@needs_helm
@pytest.mark.parametrize(
    ("values", "read"), [((), cloud_credentials), (CASES["a broker"], ingest_credentials)], ids=["service", "broker"]
)
def test_the_fleet_of_a_secret_is_accepted(
    settings: Path, tmp_path: Path, values: Sequence[str], read: Callable[[Path], Credentials]
) -> None:
    """The init container's own script. A Secret is readable for the pod's group, which smartedge refuses."""
    secret, fleet = tmp_path / "secret", tmp_path / "fleet"
    authority = Authority.create(secret, days=1)
    write_broker(authority, days=1)
    fleet.mkdir(mode=0o770)
    for file in secret.iterdir():
        file.chmod(0o550 if file.is_dir() else 0o440)
    with pytest.raises(FleetError, match="other than its owner"):
        read(secret)
    container = rendered(settings, *values)["Deployment"]["spec"]["template"]["spec"]["initContainers"][0]
    script = container["args"][0].replace("/secret/", f"{secret}/").replace("/fleet/", f"{fleet}/")
    for _ in range(2):  # Kubernetes runs it again where it makes the pod's sandbox anew
        subprocess.run([*container["command"], script], check=True)
    key = "ingest.key" if values else "cloud.key"
    assert read(fleet).key == read_guarded(secret / key, "").encode()
    assert Register(fleet).refusal("door", 1) is not None  # read, and the fleet has no edge yet
    assert {file.name for file in fleet.iterdir() if file.suffix == ".key"} == {key}


@pytest.mark.slow
@needs_helm
@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([], "settings is empty"),
        (["settings=x", "ingest.replicas=2"], "replicas"),
        (["settings=x", "trainer.workers=0"], "trainer"),
        (["settings=x", "store.accessMode=ReadOnlyMany"], "accessMode"),
    ],
)
def test_wrong_values_are_refused(values: list[str], said: str) -> None:
    done = helm("template", "faces", str(CHART), *(text for value in values for text in ("--set", value)))
    assert done.returncode != 0 and said in done.stderr


def test_the_page_names_the_secrets_files() -> None:
    text = (ROOT / "docs" / "operation.md").read_text()
    commands = [
        shlex.split(line) for line in text.replace("\\\n", " ").splitlines() if line.startswith("kubectl create")
    ]
    files = {word.rpartition("/")[2] for command in commands for word in command if word.startswith("--from-file")}
    assert files == {"authority.pem", "cloud.pem", "cloud.key", "edges.json"}
