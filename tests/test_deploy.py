"""The files of deploy/: each is read by a parser, by its own program's check where that is installed, and every command
of tbps in them goes through the real parser of the command line."""

from __future__ import annotations

import configparser
import json
import os
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from support import commands

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "deploy"
PROXIES = ("nginx.conf", "Caddyfile")


def instructions() -> list[tuple[str, str]]:
    """(instruction, its text) of the Dockerfile, with lines joined and comments left out."""
    lines = [line for line in (DEPLOY / "Dockerfile").read_text("utf-8").splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in joined.splitlines() if line.strip()]


def of(name: str) -> list[str]:
    return [text for instruction, text in instructions() if instruction == name]


def unit() -> dict[str, dict[str, str]]:
    class Last(configparser.RawConfigParser):
        def optionxform(self, optionstr: str) -> str:
            return optionstr

    found = Last(strict=False, interpolation=None)
    found.read(DEPLOY / "tbps.service", "utf-8")
    return {name: dict(found[name]) for name in found.sections()}


def compose() -> dict[str, object]:
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))


def tool(name: str) -> str:
    """A program on the path, among those of this environment, or in sbin."""
    places = os.pathsep.join([os.environ["PATH"], str(ROOT / ".venv" / "bin"), "/usr/sbin", "/sbin"])
    found = shutil.which(name, path=places)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def test_the_container_starts_a_command_that_exists_as_an_ordinary_user_and_is_asked_how_it_is() -> None:
    (entry,), (words,), (health,) = of("ENTRYPOINT"), of("CMD"), of("HEALTHCHECK")
    commands.parse(json.loads(entry) + json.loads(words))
    assert "/healthz" in health
    ends = [text.split()[-1] for text in of("FROM")]
    assert ends[-1] == "lite" and "whole" in ends
    assert of("USER") == ["10001"] * 2 and of("VOLUME") == ["/cache"]
    assert any("TBPS_CACHE_DIR=/cache" in text for text in of("ENV"))
    # the healthcheck is Python that runs, against a port where nothing listens
    program = json.loads(health.partition("CMD ")[2])[2].replace("8080", "9")
    ended = subprocess.run([tool("python3"), "-c", program], capture_output=True, text=True, check=False)
    assert ended.returncode == 1 and "refused" in ended.stderr


def test_the_container_is_built_from_files_and_extras_that_exist() -> None:
    for text in of("COPY"):
        if not text.startswith("--from"):
            assert all((ROOT / name).exists() for name in text.split()[:-1]), text
    allowed = [line[1:] for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if line[:1] == "!"]
    copied = {name for text in of("COPY") if not text.startswith("--from") for name in text.split()[:-1]}
    assert copied == set(allowed)
    for where, folder in (("./lite", ROOT / "lite"), (".", ROOT)):
        project = tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))["project"]
        (extras,) = re.findall(rf'"{re.escape(where)}\[([a-z,]+)\]"', " ".join(of("RUN")))
        assert set(extras.split(",")) <= set(project["optional-dependencies"])


def test_the_dockerfile_has_no_faults_that_hadolint_finds() -> None:
    done = subprocess.run([tool("hadolint"), DEPLOY / "Dockerfile"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_every_service_of_tbps_in_compose_runs_a_command_that_exists() -> None:
    services = compose()["services"]
    ours = {name: service for name, service in services.items() if service["image"] == "tbps"}
    assert set(ours) == {"serve", "serve-database", "index", "search"}
    # what index wrote as this machine's is found by the others, and by the next container
    assert len({service["hostname"] for service in ours.values()}) == 1
    for service in ours.values():
        commands.parse([*service.get("entrypoint", ["tbps"]), *service["command"]])
        assert service["read_only"] and service["cap_drop"] == ["ALL"]
    urls = [word for service in ours.values() for word in service["command"] + service.get("entrypoint", [])]
    assert len({word for word in urls if word.startswith("postgresql://")}) == 1
    pages = [service for service in ours.values() if service["command"][0] == "serve"]
    assert len(pages) == 2
    for page in pages:
        assert page["ports"] == ["127.0.0.1:8080:8080"] and "TBPS_TOKEN" in page["environment"]
    assert services["database"]["image"].startswith("pgvector/pgvector:0.8.4")  # older ones damage their indexes
    assert set(compose()["volumes"]) == {"cache", "database"}


def test_every_variable_of_compose_stands_in_the_example_and_no_secret_has_a_value() -> None:
    text = (DEPLOY / "compose.yaml").read_text("utf-8")
    example = dict(
        line.split("=", 1) for line in (DEPLOY / "example.env").read_text().splitlines() if line and line[0] != "#"
    )
    assert set(re.findall(r"\$\{(\w+)", text)) == set(example)
    assert example["TBPS_TOKEN"] == example["DATABASE_PASSWORD"] == ""


def test_compose_follows_its_schema() -> None:
    check = tool("check-jsonschema")
    words = [check, "--builtin-schema", "vendor.compose-spec", DEPLOY / "compose.yaml"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_service_runs_a_command_that_exists_and_is_shut_in() -> None:
    service = unit()["Service"]
    commands.parse(shlex.split(service["ExecStart"]))
    assert not service["EnvironmentFile"].startswith("-")  # behind a proxy it must not run without its token
    for name in ("DynamicUser", "NoNewPrivileges", "ProtectHome", "PrivateTmp", "PrivateDevices"):
        assert service[name] == "yes", name
    assert service["ProtectSystem"] == "strict"
    assert "TBPS_CACHE_DIR=/var/cache/" + service["CacheDirectory"] in service["Environment"]


def test_systemd_takes_the_unit_and_finds_it_little_exposed(tmp_path: Path) -> None:
    analyze = tool("systemd-analyze")
    tried = tmp_path / "tbps.service"
    text = (DEPLOY / "tbps.service").read_text("utf-8")
    tried.write_text(text.replace("/opt/tbps/bin/tbps ", f"{tool('python3')} "))
    done = subprocess.run([analyze, "verify", tried], capture_output=True, text=True, check=False)
    if "Failed to initialize" in done.stderr:
        pytest.skip("systemd cannot be asked here")
    assert (done.returncode, done.stderr) == (0, "")
    asked = [analyze, "security", "--offline=yes", tried]
    said = subprocess.run(asked, capture_output=True, text=True, check=False).stdout
    (exposure,) = re.findall(r"Overall exposure level for \S+: ([\d.]+)", said)
    assert float(exposure) < 2


@pytest.mark.parametrize("name", PROXIES)
def test_a_proxy_hands_alerts_on_at_once_and_names_the_server_and_its_port(name: str) -> None:
    text = (DEPLOY / name).read_text("utf-8")
    assert "/v1/watch/events" in text and "127.0.0.1:8080" in text and "search.example.org" in text
    assert ("proxy_buffering off" in text) or ("flush_interval -1" in text)
    assert "/metrics" in text and "21m" in text.lower()
    assert text.count("{") == text.count("}")
    from tbps_cli.serving import app

    assert '"/v1/watch/events"' in Path(app.__file__).read_text("utf-8")


def test_nginx_takes_its_file(tmp_path: Path) -> None:
    nginx, openssl = tool("nginx"), tool("openssl")
    key, certificate = tmp_path / "search.example.org.key", tmp_path / "search.example.org.pem"
    made = [
        openssl,
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-subj",
        "/CN=x",
        "-keyout",
        key,
        "-out",
        certificate,
    ]
    subprocess.run(made, check=True, capture_output=True)
    text = (DEPLOY / "nginx.conf").read_text("utf-8").replace("/etc/nginx/tls", str(tmp_path))
    text = re.sub(r"listen (\[::\]:)?(\d+)", lambda found: f"listen {found[1] or ''}{int(found[2]) + 20000}", text)
    (tmp_path / "site.conf").write_text(text)
    temporary = "".join(
        f"{kind}_temp_path {tmp_path}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    whole = (
        f"pid {tmp_path}/pid; error_log stderr; events {{}} http {{ access_log off; {temporary} include site.conf; }}"
    )
    (tmp_path / "nginx.conf").write_text(whole)
    done = subprocess.run([nginx, "-t", "-c", tmp_path / "nginx.conf"], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "warn" not in done.stderr, done.stderr


def test_caddy_takes_its_file(tmp_path: Path) -> None:
    words = [tool("caddy"), "adapt", "--adapter", "caddyfile", "--config", str(DEPLOY / "Caddyfile"), "--validate"]
    env = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=env, timeout=60)
    assert done.returncode == 0 and '"warn"' not in done.stderr, done.stderr
    assert json.loads(done.stdout)["apps"]["http"]
