"""What the chart makes: how pods start, live and end, what they may do, where secrets are and are not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.deploy.chart import ALERTS, CASES, DASHBOARD, Object, Rendered, filled, refusal, render

LEAST = {"database": {"existingSecret": "stepwell-database"}}
TLS = {"tls": {"enabled": True, "existingSecret": "stepwell-tls"}}
FULL = next(case for case in CASES if case.stem == "full-values")
PROBES = ("startupProbe", "livenessProbe", "readinessProbe")
each_case = pytest.mark.parametrize("case", CASES, ids=lambda path: path.stem)


def env(container: Object) -> dict[str, Any]:
    """A container's own variables: their values, or where they come from."""
    return {each["name"]: each.get("value", each.get("valueFrom")) for each in container.get("env", ())}


def settings(rendered: Rendered) -> dict[str, str]:
    """The variables of the service that are no secret."""
    return dict(rendered.one("ConfigMap", rendered.deployment()["metadata"]["name"])["data"])


def port_of(container: Object, name: str) -> int:
    """A named port."""
    return next(int(port["containerPort"]) for port in container["ports"] if port["name"] == name)


@each_case
def test_pods_are_restricted(case: Path) -> None:
    """As the Pod Security Standard of that name asks."""
    rendered = render(case)
    for _, pod in rendered.pods():
        context = pod["securityContext"]
        assert context["runAsNonRoot"] is True
        assert context["runAsUser"] == context["runAsGroup"] == 65532
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        assert all("hostPath" not in volume for volume in pod["volumes"])
        assert pod["automountServiceAccountToken"] is False
    for name, container in rendered.containers():
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False, name
        assert context["capabilities"] == {"drop": ["ALL"]}, name
        assert context["readOnlyRootFilesystem"] is True, name
        assert any(mount["mountPath"] == "/tmp" for mount in container["volumeMounts"]), name  # noqa: S108 - of the pod
        assert {"requests", "limits"} <= container["resources"].keys(), name


@each_case
def test_services_are_not_taken_for_settings(case: Path) -> None:
    """A service `stepwell-metrics` would put STEPWELL_METRICS_PORT=tcp://... into every container beside it."""
    assert [name for name, pod in render(case).pods() if pod["enableServiceLinks"] is not False] == []


@each_case
def test_accounts_mount_no_token(case: Path) -> None:
    assert all(account["automountServiceAccountToken"] is False for account in render(case).all("ServiceAccount"))


@each_case
def test_nothing_is_secret_in_what_is_rendered(case: Path) -> None:
    """No secret is made, and what is secret comes by reference: a secret's key, or a file of one."""
    rendered = render(case)
    assert rendered.all("Secret") == []
    for name, container in rendered.containers():
        for variable, value in env(container).items():
            is_secret = variable in {"STEPWELL_POOL_URL", "PGPASSWORD", "STEPWELL_API_KEY", "TEST_WORKER_KEY"}
            is_secret |= variable == "OTEL_EXPORTER_OTLP_HEADERS"
            assert not is_secret or "secretKeyRef" in value, (name, variable)
        address = env(container).get("STEPWELL_DATABASE_URL")
        if isinstance(address, str):
            assert ":" not in address.removeprefix("postgresql://").partition("@")[0], name
        assert all("://" not in each and "$(" not in each for each in container.get("args", ()))


@pytest.mark.parametrize(("values", "port"), [({}, "grpc"), (TLS, "health")], ids=["plain", "tls"])
def test_probes_ask_health_services(values: dict[str, Any], port: str) -> None:
    rendered = render(LEAST, values)
    container = rendered.server()
    asked = {name: container[name]["grpc"] for name in PROBES}
    number = port_of(container, port)
    assert asked["livenessProbe"] == {"port": number, "service": "liveness"}
    assert asked["readinessProbe"] == {"port": number, "service": "readiness"}
    # Who waits for the database or the schema is not to be killed for it.
    assert asked["startupProbe"] == {"port": number, "service": "liveness"}
    assert settings(rendered)["STEPWELL_PORT"] == str(port_of(container, "grpc"))
    assert settings(rendered)["STEPWELL_HOST"] == "0.0.0.0"  # noqa: S104 - in a pod


def test_with_tls_health_has_a_port_of_its_own() -> None:
    rendered = render(LEAST, TLS)
    told = settings(rendered)
    assert told["STEPWELL_HEALTH_PORT"] == "7235"
    assert told["STEPWELL_HEALTH_HOST"] == "0.0.0.0"  # noqa: S104 - in a pod
    assert told["STEPWELL_TLS_CERTIFICATE_FILE"] == "/etc/stepwell/tls/tls.crt"
    assert told["STEPWELL_TLS_KEY_FILE"] == "/etc/stepwell/tls/tls.key"
    assert "STEPWELL_TLS_CLIENT_CA_FILE" not in told
    mounts = {mount["mountPath"]: mount for mount in rendered.server()["volumeMounts"]}
    # The whole folder: a single file would stay as it was when the secret changes.
    assert "subPath" not in mounts["/etc/stepwell/tls"]
    assert rendered.one("Service")["spec"]["ports"][0]["appProtocol"] == "https"
    assert "7235" not in json.dumps(rendered.all("Service") + rendered.all("NetworkPolicy"))


def test_without_tls_there_is_no_other_port() -> None:
    rendered = render(LEAST)
    assert [port["name"] for port in rendered.server()["ports"]] == ["grpc", "metrics"]
    assert not any("TLS" in name or "HEALTH" in name for name in settings(rendered))
    assert rendered.one("Service")["spec"]["ports"][0]["appProtocol"] == "kubernetes.io/h2c"


def test_callers_certificates_are_asked_for() -> None:
    told = settings(render(FULL))
    assert told["STEPWELL_TLS_CLIENT_CA_FILE"] == "/etc/stepwell/client-ca/ca.crt"
    assert told["STEPWELL_TLS_CLIENT_CERTIFICATES"] == "require"
    assert "STEPWELL_TLS_CLIENT_PORT" not in told


def test_callers_certificates_may_have_a_port_of_their_own() -> None:
    rendered = render(LEAST, TLS, {"tls": {"clientCA": {"existingSecret": "ca"}, "clientCertificates": "optional"}})
    number = port_of(rendered.server(), "grpc-clients")
    assert settings(rendered)["STEPWELL_TLS_CLIENT_PORT"] == str(number) == "7234"
    assert [port["port"] for port in rendered.one("Service")["spec"]["ports"]] == [7233, number]
    (callers, _) = rendered.one("NetworkPolicy")["spec"]["ingress"]
    assert [port["port"] for port in callers["ports"]] == [7233, number]


def test_a_certificate_has_the_names_of_the_services() -> None:
    spec = render(FULL).one("Certificate")["spec"]
    assert spec["secretName"] == "stepwell-tls"
    assert {
        "stepwell",
        "stepwell.wells.svc",
        "stepwell.wells.svc.cluster.local",
        "stepwell-headless.wells.svc.cluster.local",
        "stepwell.example",
    } <= set(spec["dnsNames"])


@each_case
def test_pods_have_time_to_end(case: Path) -> None:
    rendered = render(case)
    pod, container = rendered.pod(), rendered.server()
    pause = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] >= pause + float(settings(rendered)["STEPWELL_SHUTDOWN_SECONDS"]) + 10


def test_the_grace_follows_the_shutdown() -> None:
    assert render(LEAST).pod()["terminationGracePeriodSeconds"] == 45
    assert render(LEAST, {"shutdownSeconds": 90.5}).pod()["terminationGracePeriodSeconds"] == 106
    assert render(LEAST, {"terminationGracePeriodSeconds": 300}).pod()["terminationGracePeriodSeconds"] == 300


def test_before_1_30_the_pause_is_a_command() -> None:
    command = render(LEAST, version="1.29.0").server()["lifecycle"]["preStop"]["exec"]["command"]
    assert command == ["python", "-c", "import time; time.sleep(5)"]


def test_no_moment_is_without_a_replica() -> None:
    spec = render(LEAST).deployment()["spec"]
    assert spec["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    assert spec["replicas"] == 2
    assert {each["whenUnsatisfiable"] for each in render(LEAST).pod()["topologySpreadConstraints"]} == {
        "ScheduleAnyway"
    }


def test_a_budget_is_for_more_than_one() -> None:
    assert render(LEAST).one("PodDisruptionBudget")["spec"]["maxUnavailable"] == 1
    assert render(LEAST, {"replicaCount": 1}).all("PodDisruptionBudget") == []
    scaled = {"replicaCount": 1, "autoscaling": {"enabled": True}}
    assert len(render(LEAST, scaled).all("PodDisruptionBudget")) == 1


def test_who_scales_sets_the_replicas() -> None:
    rendered = render(FULL)
    assert "replicas" not in rendered.deployment()["spec"]
    spec = rendered.one("HorizontalPodAutoscaler")["spec"]
    assert [metric["type"] for metric in spec["metrics"]] == ["Resource", "Pods"]
    assert spec["scaleTargetRef"]["name"] == rendered.deployment()["metadata"]["name"]


@each_case
def test_services_find_the_pods(case: Path) -> None:
    rendered = render(case)
    labels = rendered.deployment()["spec"]["template"]["metadata"]["labels"]
    names = {port["name"] for port in rendered.server()["ports"]}
    for service in rendered.all("Service"):
        assert service["spec"]["selector"].items() <= labels.items()
        assert all(port["targetPort"] in names for port in service["spec"]["ports"])
    for budget in rendered.all("PodDisruptionBudget"):
        assert budget["spec"]["selector"]["matchLabels"].items() <= labels.items()
    migrations = [job["spec"]["template"]["metadata"]["labels"] for job in rendered.all("Job")]
    selector = rendered.deployment()["spec"]["selector"]["matchLabels"]
    assert not any(selector.items() <= each.items() for each in migrations)


def test_there_is_a_headless_service() -> None:
    rendered = render(LEAST)
    assert rendered.one("Service", "stepwell-headless")["spec"]["clusterIP"] == "None"
    assert "clusterIP" not in rendered.one("Service")["spec"]


def test_changed_settings_make_new_pods() -> None:
    def checksum(values: dict[str, Any]) -> str:
        meta = render(LEAST, values).deployment()["spec"]["template"]["metadata"]
        return str(meta["annotations"]["checksum/config"])

    assert checksum({}) == checksum({"replicaCount": 5})
    assert checksum({}) != checksum({"settings": {"session_seconds": 45}})


def test_migrations_come_first() -> None:
    rendered = render(LEAST)
    job = rendered.one("Job", "stepwell-migrations")
    annotations = job["metadata"]["annotations"]
    assert annotations["helm.sh/hook"] == "pre-install,pre-upgrade"
    assert annotations["helm.sh/hook-delete-policy"] == "before-hook-creation"
    # All that it needs is there before it: an account, and a way to the database.
    account = rendered.one("ServiceAccount", job["spec"]["template"]["spec"]["serviceAccountName"])
    for early in (account, rendered.one("NetworkPolicy", "stepwell-migrations")):
        assert early["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
        assert int(early["metadata"]["annotations"]["helm.sh/hook-weight"]) < 0
    assert "envFrom" not in job["spec"]["template"]["spec"]["containers"][0]
    assert job["spec"]["backoffLimit"] == 3
    assert job["spec"]["activeDeadlineSeconds"] > 0
    assert job["spec"]["ttlSecondsAfterFinished"] > 0


def test_migrations_may_come_otherwise() -> None:
    one = render(LEAST, {"migrations": {"mode": "initContainer"}})
    assert one.all("Job") == []
    assert [each["args"] for each in one.pod()["initContainers"]] == [["migrate"]]
    none = render(LEAST, {"migrations": {"mode": "none"}})
    assert none.all("Job") == []
    assert "initContainers" not in none.pod()


def test_a_plain_job_has_another_name_for_another_migration() -> None:
    def name(values: dict[str, Any]) -> str:
        (job,) = render(LEAST, {"migrations": {"useHelmHooks": False}}, values).all("Job")
        assert "annotations" not in job["metadata"]
        return str(job["metadata"]["name"])

    assert name({}) == name({"replicaCount": 7})
    assert name({}) != name({"image": {"tag": "9"}})


def test_the_database_may_be_reached_three_ways() -> None:
    secret = render(LEAST, {"database": {"poolUrlKey": "pool"}}).server()
    assert env(secret)["STEPWELL_DATABASE_URL"] == {"secretKeyRef": {"name": "stepwell-database", "key": "url"}}
    assert env(secret)["STEPWELL_POOL_URL"] == {"secretKeyRef": {"name": "stepwell-database", "key": "pool"}}
    parts = render(LEAST, {"database": {"direct": {"host": "db.example", "user": "me@you"}}}).server()
    assert env(parts)["STEPWELL_DATABASE_URL"] == "postgresql://me%40you@db.example:5432/stepwell"
    assert env(parts)["PGPASSWORD"] == {"secretKeyRef": {"name": "stepwell-database", "key": "password"}}
    files = render(LEAST, {"database": {"asFiles": True, "poolUrlKey": "pool"}})
    assert env(files.server())["STEPWELL_DATABASE_URL_FILE"] == "/etc/stepwell/database/direct-url"
    assert env(files.server())["STEPWELL_POOL_URL_FILE"] == "/etc/stepwell/database/pool-url"
    assert not {"STEPWELL_DATABASE_URL", "STEPWELL_POOL_URL"} & env(files.server()).keys()
    (volume,) = (each for each in files.pod()["volumes"] if each["name"] == "database")
    assert [item["path"] for item in volume["secret"]["items"]] == ["direct-url", "pool-url"]


def test_the_network_is_closed_but_for_what_is_needed() -> None:
    spec = render(LEAST).one("NetworkPolicy")["spec"]
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    assert [[port["port"] for port in rule["ports"]] for rule in spec["ingress"]] == [[7233], [9464]]
    assert spec["ingress"][1]["from"]
    assert [[port["port"] for port in rule["ports"]] for rule in spec["egress"]] == [[53, 53], [5432, 6432]]
    more = {"database": {"direct": {"host": "h", "port": 15432}}, "auth": {"jwtIssuers": [{"issuer": "i"}]}}
    more |= {"otlp": {"endpoint": "http://collector:4317"}}
    egress = render(LEAST, more).one("NetworkPolicy")["spec"]["egress"]
    ports = [[port["port"] for port in rule["ports"]] for rule in egress]
    assert ports == [[53, 53], [5432, 6432, 15432], [4317, 4318], [443]]


def test_who_tests_may_call_where_callers_are_chosen() -> None:
    rendered = render(FULL)
    (test,) = rendered.all("Pod")
    senders = rendered.one("NetworkPolicy")["spec"]["ingress"][0]["from"]
    selectors = [sender["podSelector"]["matchLabels"] for sender in senders if "podSelector" in sender]
    assert any(selector.items() <= test["metadata"]["labels"].items() for selector in selectors)


def test_alerts_and_dashboards_are_taken_as_they_are(tmp_path: Path) -> None:
    rendered = render(FULL, chart=filled(tmp_path))
    rule = rendered.one("PrometheusRule")
    assert rule["spec"] == yaml.safe_load(ALERTS)
    assert rule["metadata"]["labels"]["release"] == "prometheus"
    (board,) = (each for each in rendered.all("ConfigMap") if "dashboard" in each["metadata"]["name"])
    assert board["metadata"]["name"] == "stepwell-dashboard-over-view"
    assert board["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert board["metadata"]["annotations"]["grafana_folder"] == "Stepwell"
    assert json.loads(board["data"]["Over_View.json"]) == json.loads(DASHBOARD)


def test_without_alerts_and_dashboards_there_are_none(tmp_path: Path) -> None:
    chart = filled(tmp_path)
    (chart / "alerts/leader.yaml").unlink()
    (chart / "dashboards/Over_View.json").unlink()
    rendered = render(FULL, chart=chart)
    assert rendered.all("PrometheusRule") == []
    assert not any("dashboard" in each["metadata"]["name"] for each in rendered.all("ConfigMap"))


def test_the_monitor_finds_the_metrics() -> None:
    rendered = render(FULL)
    spec = rendered.one("ServiceMonitor")["spec"]
    found = [
        service
        for service in rendered.all("Service")
        if spec["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    ]
    # One alone: else each pod would be scraped several times.
    assert [service["metadata"]["name"] for service in found] == ["stepwell-metrics"]
    assert spec["endpoints"][0]["port"] == found[0]["spec"]["ports"][0]["name"]
    assert settings(rendered)["STEPWELL_METRICS_PORT"] == str(port_of(rendered.server(), "metrics"))


def test_traces_are_exported_where_a_collector_is_named() -> None:
    assert not any(name.startswith("OTEL_") for name in env(render(LEAST).server()))
    told = env(render(FULL).server())
    assert told["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://collector.observability:4317"
    assert told["OTEL_TRACES_SAMPLER_ARG"] == "0.1"
    attributes = told["OTEL_RESOURCE_ATTRIBUTES"]
    assert "k8s.namespace.name=wells" in attributes
    assert "deployment.environment.name=production" in attributes
    names = list(told)
    assert names.index("POD_NAME") < names.index("OTEL_RESOURCE_ATTRIBUTES")


def test_routes_lead_to_the_service() -> None:
    rendered = render(FULL)
    (backend,) = rendered.one("GRPCRoute")["spec"]["rules"][0]["backendRefs"]
    assert backend == {"name": "stepwell", "port": 443}
    assert rendered.one("Service")["spec"]["ports"][0]["port"] == 443
    ingress = rendered.one("Ingress")
    assert ingress["metadata"]["annotations"]["nginx.ingress.kubernetes.io/proxy-read-timeout"] == "86400"
    assert ingress["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"]["port"] == {"name": "grpc"}


def test_issuers_are_json() -> None:
    assert json.loads(settings(render(FULL))["STEPWELL_JWT_ISSUERS"])[0]["issuer"] == "https://issuer.example"


def test_what_users_add_is_there() -> None:
    rendered = render(FULL)
    assert rendered.one("ConfigMap", "stepwell-more")["data"] == {"address": "stepwell.wells.svc.cluster.local:443"}
    assert rendered.one("ConfigMap", "stepwell-as-text")
    assert {each["metadata"]["labels"].get("team") for each in rendered.objects if "labels" in each["metadata"]} == {
        "platform"
    }
    assert env(rendered.server())["TZ"] == "UTC"
    assert any(mount["mountPath"] == "/var/lib/stepwell/archive" for mount in rendered.server()["volumeMounts"])
    assert rendered.server()["image"].startswith("registry.example/stepwell-server@sha256:")
    pod = rendered.pod()
    assert pod["priorityClassName"] == "platform"
    assert pod["nodeSelector"] == {"kubernetes.io/os": "linux"}
    assert pod["imagePullSecrets"] == [{"name": "registry"}]


def test_what_the_user_mounts_counts_last() -> None:
    values = {"extraEnv": [{"name": "STEPWELL_DATABASE_URL", "value": "postgresql://elsewhere/db"}]}
    assert env(render(LEAST, values).server())["STEPWELL_DATABASE_URL"] == "postgresql://elsewhere/db"


def test_a_test_needs_keys() -> None:
    assert render(LEAST).all("Pod") == []
    keys = {"helmTest": {"existingSecret": "keys"}}
    (pod,) = render(LEAST, keys).all("Pod")
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    mutual = {"tls": {"clientCA": {"existingSecret": "ca"}}}
    assert render(LEAST, TLS, keys, mutual).all("Pod") == []


def test_long_names_stay_short_enough() -> None:
    rendered = render(FULL, {"fullnameOverride": "a-release-with-a-very-long-name-as-some-people-like-them"})
    assert max(len(each["metadata"]["name"]) for each in rendered.objects) <= 63
    names = [(each["kind"], each["metadata"]["name"]) for each in rendered.objects]
    assert len(names) == len(set(names))


def test_old_clusters_are_refused() -> None:
    with pytest.raises(AssertionError, match="incompatible"):
        render(LEAST, version="1.26.0")
    assert "database.existingSecret" in refusal({})
