"""The files of deploy/ fit the program: their commands, their probes, their times, and Kubernetes' own schema."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import tomllib
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest

from codegen_edge import __version__
from codegen_edge.bundle import Bundle
from codegen_edge.cli.serve import serve

yaml: Any = pytest.importorskip("yaml")

REPOSITORY = Path(__file__).resolve().parents[3]
DEPLOY = REPOSITORY / "deploy"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
OBJECTS: dict[str, dict[str, Any]] = {
    each["kind"]: each for each in yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())
}
SERVICE = COMPOSE["services"]["codegen-edge"]
POD = OBJECTS["Deployment"]["spec"]["template"]
(CONTAINER,) = POD["spec"]["containers"]
PROBES = {name: CONTAINER[name]["httpGet"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
KUBERNETES_VERSIONS = ("1.27", "1.33")
KEY = "a-key"
LINGER_SECONDS = 2.0  # between the last answer and the end of the process
PATIENCE_SECONDS = 60.0


def instruction(name: str) -> list[str]:
    """The last instruction of the Dockerfile that begins a line with this name, in its JSON form."""
    words: list[str] = json.loads(re.findall(rf"^{name} (\[.*\])$", DOCKERFILE, re.MULTILINE)[-1])
    return words


COMMANDS = {"Dockerfile": instruction("CMD"), "compose.yaml": SERVICE["command"], "kubernetes.yaml": CONTAINER["args"]}


def parsed(arguments: list[str]) -> dict[str, Any]:
    return serve.make_context("serve", list(arguments)).params


@pytest.mark.parametrize("file", COMMANDS)
def test_every_option_is_one_of_the_program(file: str) -> None:
    assert all(isinstance(each, str) for each in COMMANDS[file])
    options = parsed(COMMANDS[file])
    assert options["bundles"] == (Path("/bundle"),)
    assert (options["host"], options["port"]) == ("0.0.0.0", 8080)
    assert options["api_key_file"] == Path("/run/secrets/api-keys")


def test_option_that_the_program_lacks_is_found() -> None:
    with pytest.raises(click.UsageError, match="No such option"):
        parsed([*COMMANDS["kubernetes.yaml"], "--drain", "60"])


@dataclass(frozen=True)
class Running:
    """A server that a manifest's command has started, with another bundle, key file and port."""

    process: subprocess.Popen[str]
    url: str

    def status(self, path: str, *, host: str, key: str | None = None, body: Any = None) -> int:
        headers = {"Host": host, "Content-Type": "application/json"}
        headers |= {} if key is None else {"Authorization": f"Bearer {key}"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as response:
                status: int = response.status
        except urllib.error.HTTPError as exc:
            with exc:
                return exc.code
        return status


@pytest.fixture(params=COMMANDS)
def running(request: pytest.FixtureRequest, tiny_bundle: Bundle, tmp_path: Path) -> Iterator[Running]:
    keys = tmp_path / "api-keys"
    keys.write_text(f"# of the test\n{KEY}\n")
    places = {"/bundle": str(tiny_bundle.path), "/run/secrets/api-keys": str(keys), "8080": "0"}
    arguments = [places.get(each, each) for each in COMMANDS[request.param]]
    with subprocess.Popen(
        [sys.executable, "-m", "codegen_edge.cli", "serve", *arguments, "--prefix-cache-mib", "1"],
        stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            yield Running(process, f"http://127.0.0.1:{port_of(process)}")
            process.terminate()
            process.communicate(timeout=PATIENCE_SECONDS)
        finally:
            process.kill()


def port_of(process: subprocess.Popen[str]) -> str:
    """Where it listens, as soon as it does."""
    assert process.stderr is not None
    told = []
    for line in process.stderr:
        told.append(line)
        found = re.search(r"listening on http://0\.0\.0\.0:(\d+)", line)
        if found is not None:
            return found[1]
    pytest.fail(f"the server did not start: {''.join(told)}")


def test_command_of_each_file_serves_is_probed_and_ends(running: Running, tiny_bundle: Bundle) -> None:
    for probe in PROBES.values():
        assert "httpHeaders" not in probe
        assert running.status(probe["path"], host="10.1.2.3:8080") == 200  # as the kubelet names a pod
    wanted = {"model": tiny_bundle.path.name, "prompt": "def", "max_tokens": 2}
    for host in ("localhost", OBJECTS["Service"]["metadata"]["name"]):
        assert running.status("/v1/completions", body=wanted, host=host) == 401
        assert running.status("/v1/completions", body=wanted, host=host, key=KEY) == 200
    healthy = instruction_of_health_check()
    assert healthy.count(":8080/ready") == 1
    for port, code in ((running.url.rpartition(":")[2], 0), ("1", 1)):
        program = healthy.replace(":8080/", f":{port}/")
        assert subprocess.run([sys.executable, "-c", program], capture_output=True, check=False).returncode == code
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(PATIENCE_SECONDS) == 0


def instruction_of_health_check() -> str:
    (words,) = re.findall(r"^HEALTHCHECK .*\\\n +CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)
    python, flag, program = json.loads(words)
    assert (python, flag) == ("python", "-c")
    assert isinstance(program, str)
    return program


def test_there_is_time_to_drain() -> None:
    assert SERVICE["stop_grace_period"].endswith("s")
    grace = float(SERVICE["stop_grace_period"].removesuffix("s"))
    assert parsed(SERVICE["command"])["drain_seconds"] + LINGER_SECONDS < grace
    sleep, before_stop = CONTAINER["lifecycle"]["preStop"]["exec"]["command"]
    assert sleep == "sleep"
    drain = parsed(CONTAINER["args"])["drain_seconds"]
    assert float(before_stop) + drain + LINGER_SECONDS < POD["spec"]["terminationGracePeriodSeconds"]


def test_nothing_runs_as_root_or_may_become_it() -> None:
    (user, group) = re.findall(r"^USER (\d+):(\d+)$", DOCKERFILE, re.MULTILINE)[-1]
    of_pod, of_container = POD["spec"]["securityContext"], CONTAINER["securityContext"]
    assert int(user) > 0
    assert (of_pod["runAsNonRoot"], of_pod["seccompProfile"]) == (True, {"type": "RuntimeDefault"})
    assert (of_pod["runAsUser"], of_pod["runAsGroup"], of_pod["fsGroup"]) == (int(user), int(group), int(group))
    assert of_container == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert POD["spec"]["automountServiceAccountToken"] is False
    assert (SERVICE["read_only"], SERVICE["cap_drop"]) == (True, ["ALL"])
    assert SERVICE["security_opt"] == ["no-new-privileges:true"]
    assert all(port.startswith("127.0.0.1:") for port in SERVICE["ports"])


def test_bundle_and_keys_are_mounted_where_the_command_looks_for_them() -> None:
    (bind,) = SERVICE["volumes"]
    assert (bind["target"], bind["read_only"]) == ("/bundle", True)
    assert SERVICE["secrets"] == list(COMPOSE["secrets"]) == ["api-keys"]  # mounted at /run/secrets/api-keys
    mounts = {each["mountPath"]: each for each in CONTAINER["volumeMounts"]}
    volumes = {each["name"]: each for each in POD["spec"]["volumes"]}
    assert {each["name"] for each in mounts.values()} == volumes.keys()
    assert all(each["readOnly"] for each in mounts.values())
    assert "persistentVolumeClaim" in volumes[mounts["/bundle"]["name"]]
    (item,) = volumes[mounts["/run/secrets"]["name"]]["secret"]["items"]
    assert f"/run/secrets/{item['path']}" == "/run/secrets/api-keys"


def test_objects_find_one_another() -> None:
    labels = POD["metadata"]["labels"]
    deployment = OBJECTS["Deployment"]
    assert deployment["spec"]["selector"]["matchLabels"] == labels
    assert OBJECTS["Service"]["spec"]["selector"] == labels
    assert OBJECTS["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    scaler = OBJECTS["HorizontalPodAutoscaler"]["spec"]
    assert scaler["scaleTargetRef"] == {
        **{key: deployment[key] for key in ("apiVersion", "kind")},
        "name": deployment["metadata"]["name"],
    }
    assert "replicas" not in deployment["spec"]  # each apply would undo what the scaler chose
    assert OBJECTS["PodDisruptionBudget"]["spec"]["minAvailable"] < scaler["minReplicas"]
    assert "cpu" in CONTAINER["resources"]["requests"]  # shares of it are what the scaler goes by
    (port,) = CONTAINER["ports"]
    assert port["containerPort"] == parsed(CONTAINER["args"])["port"]
    named = [OBJECTS["Service"]["spec"]["ports"][0]["targetPort"], *(probe["port"] for probe in PROBES.values())]
    assert set(named) == {port["name"]}


def test_image_has_the_version_and_every_folder_that_ships() -> None:
    assert SERVICE["image"] == CONTAINER["image"] == f"codegen-edge:{__version__}"
    assert f"--tag codegen-edge:{__version__} " in DOCKERFILE
    assert instruction("ENTRYPOINT") == ["codegen-edge", "serve"]
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    folders = {path.partition("/")[0] for path in project["tool"]["setuptools"]["package-dir"].values()}
    copied = [line.split()[:-1] for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.MULTILINE)]
    sources = {source.removesuffix("/") for line in copied for source in line}
    assert folders <= sources
    assert all((REPOSITORY / source).exists() for source in sources)
    files = {project["project"]["readme"], *project["project"]["license-files"], "pyproject.toml", "constraints.txt"}
    assert files <= sources
    context = (DEPLOY / SERVICE["build"]["context"]).resolve()
    assert context == REPOSITORY
    assert (context / SERVICE["build"]["dockerfile"]).samefile(DEPLOY / "Dockerfile")


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
@pytest.mark.parametrize("kind", OBJECTS)
def test_object_fits_the_schema_of_kubernetes(kind: str, version: str) -> None:
    schemas: Any = pytest.importorskip("kubernetes_validate", reason="the package kubernetes-validate is not installed")
    schemas.validate(OBJECTS[kind], version, strict=True)


def test_schema_of_kubernetes_finds_a_field_that_is_not_there() -> None:
    schemas: Any = pytest.importorskip("kubernetes_validate", reason="the package kubernetes-validate is not installed")
    wrong = json.loads(json.dumps(OBJECTS["Service"]))
    wrong["spec"]["port"] = wrong["spec"].pop("ports")
    with pytest.raises(schemas.ValidationError):
        schemas.validate(wrong, KUBERNETES_VERSIONS[-1], strict=True)
