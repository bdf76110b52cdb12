"""deploy/kubernetes as kustomize makes it, held against the schemas of Kubernetes."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
BASE = ROOT / "deploy" / "kubernetes"
MONITORING = BASE / "monitoring"
VERSION = "1.32"
"""Of Kubernetes; what is used here is older."""


def _documents(path: Path) -> list[Any]:
    return [one for one in yaml.safe_load_all(path.read_text()) if one]


def _resources(folder: Path) -> dict[str, dict[str, Any]]:
    """What a kustomization lists, by kind."""
    [kustomization] = _documents(folder / "kustomization.yaml")
    return {d["kind"]: d for name in kustomization["resources"] for d in _documents(folder / name)}


def _pod() -> Any:
    return _resources(BASE)["Deployment"]["spec"]["template"]


@pytest.mark.parametrize("kind", sorted(_resources(BASE)))
def test_every_object_satisfies_its_schema_strictly(kind: str) -> None:
    kubernetes_validate.validate(_resources(BASE)[kind], VERSION, strict=True)
    wrong = json.loads(json.dumps(_resources(BASE)[kind]))
    wrong["spec"]["selektor"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSION, strict=True)


def test_every_file_of_the_folder_is_part_of_it() -> None:
    for folder in (BASE, MONITORING):
        [kustomization] = _documents(folder / "kustomization.yaml")
        listed = {*kustomization["resources"]}
        listed.update(patch["path"] for patch in kustomization.get("patches", []))
        assert {path.name for path in folder.glob("*.yaml")} - {"kustomization.yaml"} == listed


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl")
def test_kustomize_builds_the_base_and_the_component(tmp_path: Path) -> None:
    for name, body in {
        "base": {"resources": ["../deploy"]},
        "over": {"resources": ["../deploy"], "components": ["../deploy/monitoring"]},
    }.items():
        (tmp_path / name).mkdir()
        kind = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization"}
        (tmp_path / name / "kustomization.yaml").write_text(yaml.safe_dump(kind | body))
    shutil.copytree(BASE, tmp_path / "deploy")
    base, over = (_built(tmp_path / name) for name in ("base", "over"))
    assert set(base) == set(_resources(BASE))
    assert set(over) == {*base, "PodMonitor"}
    for kind, made in over.items():
        if kind != "PodMonitor":
            kubernetes_validate.validate(made, VERSION, strict=True)
    [devices] = base["NetworkPolicy"]["spec"]["ingress"]
    assert over["NetworkPolicy"]["spec"]["ingress"][0] == devices
    assert len(over["NetworkPolicy"]["spec"]["ingress"]) == 2


def _built(folder: Path) -> dict[str, Any]:
    command = ["kubectl", "kustomize", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return {one["kind"]: one for one in yaml.safe_load_all(done.stdout)}


def test_the_policy_is_of_these_pods_and_lets_devices_in_and_nothing_out() -> None:
    policy = _resources(BASE)["NetworkPolicy"]["spec"]
    assert policy["podSelector"]["matchLabels"] == _pod()["metadata"]["labels"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert policy["egress"] == []
    ports = {port["name"] for port in _pod()["spec"]["containers"][0]["ports"]}
    assert {p["port"] for rule in policy["ingress"] for p in rule["ports"]} <= ports


def test_the_monitor_scrapes_these_pods_where_their_metrics_are() -> None:
    monitor = _resources(MONITORING)["PodMonitor"]["spec"]
    assert monitor["selector"]["matchLabels"] == _pod()["metadata"]["labels"]
    ports = {port["name"] for port in _pod()["spec"]["containers"][0]["ports"]}
    [endpoint] = monitor["podMetricsEndpoints"]
    assert endpoint["port"] in ports
    assert endpoint["path"] == "/metrics"
    [[patch]] = _documents(MONITORING / "scraper.yaml")
    assert patch["path"] == "/spec/ingress/-"
    assert endpoint["port"] in [port["port"] for port in patch["value"]["ports"]]


def test_every_container_and_every_folder_that_is_written_has_limits() -> None:
    spec = _pod()["spec"]
    for container in (*spec["containers"], *spec["initContainers"]):
        limits, requests = container["resources"]["limits"], container["resources"]["requests"]
        assert {"cpu", "memory", "ephemeral-storage"} <= set(limits)
        assert {"cpu", "memory", "ephemeral-storage"} <= set(requests)
    for volume in spec["volumes"]:
        if "emptyDir" in volume:
            assert "sizeLimit" in volume["emptyDir"], volume["name"]
