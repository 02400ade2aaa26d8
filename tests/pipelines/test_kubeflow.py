"""Versions, schedules and refusals, against a server that speaks Kubeflow's protocol."""

import base64
import http.server
import json
import os
import re
import signal
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kfp_server_api as kfp
import pytest

from pipelines import submission
from pipelines.api import ApiError
from pipelines.client import Client, Trigger
from pipelines.connection import Connection, Credential
from pipelines.submission import Package
from simipu_core.errors import SimipuError
from tests.kfp_backend import specification
from tests.kfp_server import LOGIN_PAGE, KfpServer, kfp_server
from tests.pipelines.kubeflow import ROOT, SCRATCH, cli

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
SECRET = "right-token"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KfpServer]:
    for name in os.environ:
        if name.startswith(("KFP_", "KF_PIPELINES_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "200")
    with kfp_server(tmp_path / "kfp") as served:
        monkeypatch.setenv("KFP_ENDPOINT", served.url)
        yield served


@pytest.fixture(scope="module")
def package() -> Package:
    from simipu_core.experiment import load_experiment

    return submission.pack(load_experiment(ROOT / "params.yaml", ["finetune.init=kaiming_zero_gamma"]))


def changed(package: Package) -> Package:
    return Package(package.text + "# changed\n")


def with_token(server: KfpServer, token: str, **more: Any) -> Connection:
    return Connection(server.url, credential=Credential("token", "KFP_TOKEN", lambda: token), **more)


def answering(status: int, body: bytes, kind: str, **headers: str) -> Callable[[Any], bool]:
    """A fault: always this answer."""

    def answer(handler: Any) -> bool:
        handler.send(status, body, kind, **headers)
        return True

    return answer


def refusal(connection: Connection) -> str:
    """What a client is told, in one line."""
    with pytest.raises(ApiError) as caught:
        Client(connection).runs(1)
    assert "\n" not in str(caught.value)
    return str(caught.value)


class TestCredentials:
    def test_the_right_token_is_let_in(self, server: KfpServer, monkeypatch: pytest.MonkeyPatch) -> None:
        server.token = SECRET
        monkeypatch.setenv("KFP_TOKEN", SECRET)
        done = cli("status")
        assert (done.code, done.error) == (0, "")
        assert "started" in done.out

    @pytest.mark.parametrize(("token", "why"), [("wrong-token", "invalid"), ("old-token", "has expired")])
    def test_others_are_told_at_once(
        self, server: KfpServer, token: str, why: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        server.token, server.expired = SECRET, {"old-token"}
        monkeypatch.setenv("KFP_TOKEN", token)
        done = cli("status")
        assert done.code == 1
        assert re.search(rf"asks who you are \(401: .*{why}.*\); KFP_TOKEN is wrong or has expired", done.error)
        assert token not in done.out + done.error  # though the server has repeated it
        assert len(server.requests) == 1

    def test_a_renewed_file_is_used(self, server: KfpServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        server.token = SECRET
        (tmp_path / "token").write_text("old")
        monkeypatch.setenv("KFP_TOKEN_FILE", str(tmp_path / "token"))
        assert "KFP_TOKEN_FILE is wrong" in cli("status").error
        (tmp_path / "token").write_text(SECRET)
        assert cli("status").code == 0

    def test_without_any_the_ways_are_named(self, server: KfpServer) -> None:
        server.token = SECRET
        assert "set KFP_TOKEN (bearer token), KFP_COOKIE" in cli("status").error

    def test_a_login_page_asks_for_a_cookie(self, server: KfpServer, monkeypatch: pytest.MonkeyPatch) -> None:
        server.cookie = "authservice_session=abc"
        done = cli("status")
        assert re.search(r"sends you to a login page \(302 to \S+/dex/auth\); set KFP_TOKEN .*KFP_COOKIE", done.error)
        monkeypatch.setenv("KFP_COOKIE", "authservice_session=old")
        assert "KFP_COOKIE is wrong or has expired" in cli("status").error
        monkeypatch.setenv("KFP_COOKIE", "authservice_session=abc")
        assert cli("status").code == 0

    def test_a_page_instead_of_an_answer_is_seen(self, server: KfpServer) -> None:
        server.fault = answering(200, LOGIN_PAGE.encode(), "text/html")
        assert "answers with a web page, not as Kubeflow Pipelines: it is a login page" in cli("status").error


class TestServers:
    def test_nothing_there(self, server: KfpServer) -> None:
        server.stop()
        assert "nothing listens there; check --host" in refusal(Connection(server.url))
        server.start()

    def test_no_such_host(self) -> None:
        assert "there is no such host" in refusal(Connection("http://kubeflow.invalid"))

    def test_no_answer(self, server: KfpServer) -> None:
        server.fault = server.hang
        assert "does not answer within 0.2 s" in refusal(Connection(server.url, read_timeout_s=0.2))

    def test_an_answer_that_takes_too_long_as_a_whole(self, server: KfpServer) -> None:
        server.fault = server.hang
        assert "does not answer in full within 0.1 s" in refusal(Connection(server.url, longest_s=0.1))

    def test_a_broken_answer(self, server: KfpServer) -> None:
        def cut(handler: Any) -> bool:
            handler.connection.shutdown(socket.SHUT_RDWR)
            return True

        server.fault = cut
        assert "broke the connection off" in refusal(Connection(server.url))

    def test_trouble(self, server: KfpServer) -> None:
        server.fault = answering(503, b"upstream connect error", "text/plain")
        assert "is in trouble (503: upstream connect error)" in refusal(Connection(server.url))

    @pytest.mark.parametrize(
        ("body", "match"),
        [
            (b'{"ok": true}', "is a server, but not of Kubeflow Pipelines"),
            (b"[]", "answers in a way this client does not know"),
            (b"{", "its answer is cut off or no JSON"),
        ],
    )
    def test_another_server(self, server: KfpServer, body: bytes, match: str) -> None:
        server.fault = answering(200, body, "application/json")
        assert re.search(match, refusal(Connection(server.url)))

    @pytest.mark.parametrize(
        ("body", "kind", "match", "transient"),
        [
            (b'{"runs":[{"run_id"', "application/json", "is cut off or no JSON", True),
            (b"", "application/json", "is cut off or no JSON", True),
            (b"\x1f\x8b\xff", "application/json", "is cut off or no JSON", True),
            (b"[" * 100_000 + b"]" * 100_000, "application/json", "nested too deeply", True),
            (b"[]", "application/json", "with no JSON object", False),
            (b"{}", "application/json; charset=bogus", "does not know", False),
            (b'{"runs": [{}]}', "application/json", "it lacks run_id", False),
            (b'{"runs": [null]}', "application/json", "it lacks a row of a list", False),
            (b'{"runs": 1}', "application/json", "does not know", False),
            (b'{"runs": [{"run_id": "1", "created_at": "?"}]}', "application/json", "does not know", False),
            (b'{"next_page_token": "again"}', "application/json", "its list never ends", False),
        ],
    )
    def test_what_does_not_tell_is_no_answer(
        self, server: KfpServer, body: bytes, kind: str, match: str, transient: bool
    ) -> None:
        client = Client(Connection(server.url))
        server.backend.create_experiment(kfp.V2beta1Experiment(display_name="simipu"))
        whole = answering(200, body, kind)
        server.fault = lambda handler: "/runs" in handler.path and whole(handler)
        with pytest.raises(ApiError, match=match) as caught:
            client.runs(1)
        assert caught.value.transient == transient

    @pytest.mark.parametrize("command", ["status", "cancel"])
    def test_an_answer_without_an_id_is_none(self, server: KfpServer, command: str) -> None:
        empty = answering(200, b"{}", "application/json")
        server.fault = lambda handler: "/runs" in handler.path and empty(handler)
        done = cli(command, "1")
        assert (done.code, done.out) == (1, "")
        assert "it lacks run_id" in done.error

    def test_another_path(self, server: KfpServer) -> None:
        assert "there is no Kubeflow Pipelines API below this address" in refusal(Connection(f"{server.url}/pipeline"))

    def test_a_move_to_tls(self, server: KfpServer) -> None:
        secure = f"{server.url.replace('http', 'https')}/apis"
        server.fault = answering(301, b"", "text/html", Location=secure)
        assert "has moved to https://; give that address" in refusal(Connection(server.url))

    def test_tls_where_there_is_none(self, server: KfpServer) -> None:
        assert "does not speak TLS" in refusal(Connection(server.url.replace("http", "https")))

    def test_a_certificate_that_nobody_vouches_for(self, tmp_path: Path) -> None:
        certificate = self_signed(tmp_path)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        served = http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
        served.socket = context.wrap_socket(served.socket, server_side=True)
        threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        host = f"https://127.0.0.1:{served.server_address[1]}"
        try:
            assert "its certificate is not trusted (self-signed certificate); set KFP_CA_FILE" in refusal(
                Connection(host)
            )
            assert "not trusted" not in refusal(Connection(host, ca_file=certificate))  # it has other faults
        finally:
            served.shutdown()
            served.server_close()


class TestProxies:
    @pytest.fixture(autouse=True)
    def no_other(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in os.environ:
            if name.lower().endswith("_proxy"):
                monkeypatch.delenv(name)

    @pytest.mark.parametrize("form", ["127.0.0.1:{}", "http://127.0.0.1:{}", "http://ada:p%40ss@127.0.0.1:{}"])
    def test_one_is_shown_its_login(self, server: KfpServer, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
        asked = []

        def pass_on(handler: Any) -> bool:
            asked.append((handler.path, handler.headers.get("Proxy-Authorization")))
            handler.send_json(200, {"multi_user": False})
            return True

        server.fault = pass_on
        monkeypatch.setenv("http_proxy", form.format(server.port))
        Client(Connection("http://kfp.example"))
        login = "Basic " + base64.b64encode(b"ada:p@ss").decode() if "@" in form else None
        assert asked == [("http://kfp.example/apis/v2beta1/healthz", login)]

    def test_one_that_is_away_is_named_without_its_login(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("http_proxy", "http://ada:secret@proxy.invalid:3128")
        assert "the proxy proxy.invalid:3128 does not pass" in refusal(Connection("http://kfp.example"))

    @pytest.mark.parametrize("given", ["socks5://proxy:1080", "http://[::1", "http://", "proxy:99999"])
    def test_what_is_none_is_refused(self, given: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("http_proxy", given)
        with pytest.raises(SimipuError, match="http_proxy: it names no HTTP proxy"):
            Client(Connection("http://kfp.example"))


def self_signed(folder: Path) -> Path:
    import datetime
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "kubeflow")])
    now = datetime.datetime.now(datetime.UTC)
    alternative = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(alternative, critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file = folder / "server.pem"
    file.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return file


def test_the_sdks_own_client_is_served_alike(server: KfpServer, package: Package, tmp_path: Path) -> None:
    import kfp

    server.token = SECRET
    file = tmp_path / "pipeline.yaml"
    file.write_text(package.text)
    sdk = kfp.Client(host=server.url, existing_token=SECRET)
    group = sdk.create_experiment("simipu").experiment_id
    pipeline = sdk.upload_pipeline(str(file), "simipu").pipeline_id
    version = sdk.upload_pipeline_version(str(file), "second", pipeline_id=pipeline).pipeline_version_id
    given = {"params": {"data_depth": "s3://bucket/a#1"}, "pipeline_id": pipeline, "version_id": version}
    made = sdk.create_recurring_run(group, "nightly", cron_expression="0 0 3 * * *", **given)

    ours = Client(with_token(server, SECRET))
    assert [schedule.recurring_run_id for schedule in ours.schedules()] == [made.recurring_run_id]
    assert ours.upload(package, "third").pipeline_id == pipeline
    names = [one.display_name for one in sdk.list_pipeline_versions(pipeline).pipeline_versions]
    assert names == ["simipu", "second", "third"]


class TestNamespaces:
    @pytest.fixture
    def shared(self, server: KfpServer) -> KfpServer:
        server.backend.namespaces = {"team-a"}
        return server

    def test_a_server_of_several_users_asks_for_one(self, shared: KfpServer) -> None:
        assert "serves several users: give --namespace" in cli("status").error
        done = cli("status", "--namespace", "team-b")
        assert re.search(
            r"does not allow this \(403, namespace team-b: PermissionDenied.*check --namespace", done.error
        )
        assert cli("status", "--namespace", "team-a").code == 0

    def test_it_is_sent_along(self, shared: KfpServer, package: Package) -> None:
        client = Client(Connection(shared.url, "team-a"))
        client.upload(package, "demo")
        client.schedule(
            client.upload(package, "demo"), "nightly", {"data_depth": "s3://bucket/a#1"}, Trigger(every_s=60)
        )
        (group,) = shared.backend.experiments.values()
        (pipeline,) = shared.backend.pipelines.values()
        (schedule,) = shared.backend.recurring.values()
        assert {group.namespace, pipeline.namespace, schedule.namespace} == {"team-a"}

    def test_the_dashboard_shows_the_run_in_it(self, shared: KfpServer) -> None:
        client = Client(Connection(shared.url, "team-a"))
        assert client.url("runs", "1") == f"{shared.url}/#/runs/details/1"
        client._connection = Connection("https://kubeflow/pipeline", "team-a")
        assert client.url("runs", "1") == "https://kubeflow/_/pipeline/?ns=team-a#/runs/details/1"

    def test_a_server_of_one_user_is_not_sent_any(self, server: KfpServer) -> None:
        assert cli("status", "--namespace", "team-a").code == 0


class TestVersionsOfTheServer:
    """A server drops settings of the cluster without a word where it does not know one of them."""

    @pytest.fixture
    def placed(self, monkeypatch: pytest.MonkeyPatch) -> Package:
        monkeypatch.setattr(submission, "code_revision", lambda: "0" * 40)
        from pipelines.cluster import Cluster
        from simipu_core.experiment import load_experiment

        rows = load_experiment(ROOT / "params.yaml", ["finetune.init=kaiming_zero_gamma"])
        return submission.pack(rows, cluster=Cluster(image=f"registry.example/simipu@sha256:{'0' * 64}"))

    @pytest.mark.parametrize("version", [(2, 15), (2, 16), (2, 17)])
    def test_settings_of_the_cluster_arrive(self, server: KfpServer, placed: Package, version: tuple[int, int]) -> None:
        server.backend.version = version
        client = Client(Connection(server.url))
        assert client.version == version
        fitted, lacks = client.fitted(placed)
        _, understood = specification(fitted.specification, version)
        executors = understood["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
        assert all("activeDeadlineSeconds" in executor for executor in executors.values())
        said = " ".join(lacks)
        assert ("keep_finished is left out" in said) == (version < (2, 17))
        assert ("run_as is left out" in said) == (version < (2, 16))
        assert (fitted == placed) == (version == (2, 17))
        if version == (2, 16):
            assert specification(placed.specification, version)[1] == {}  # as it would be without

    @pytest.mark.parametrize("version", [(2, 15), (2, 16)])
    def test_a_choice_of_values_is_left_out_where_it_is_refused(
        self, server: KfpServer, package: Package, version: tuple[int, int]
    ) -> None:
        assert package.parameters["promotion"]["literals"] == ["off", "report", "promote"]
        server.backend.version = version
        client = Client(Connection(server.url))
        fitted, lacks = client.fitted(package)
        assert client.upload(fitted, "demo").is_new
        assert [("no choices" in lack) for lack in lacks] == [True] * (version < (2, 16))
        assert ("literals" in fitted.text) == (version >= (2, 16))
        if version < (2, 16):
            with pytest.raises(ApiError, match='unknown field "literals"'):
                client.upload(package, "other")

    def test_another_value_than_the_choices_starts_no_run(self, server: KfpServer, package: Package) -> None:
        values = {"data_depth": "s3://data", "promotion": "bogus"}
        with pytest.raises(ApiError, match='"promotion" value does not match any of the allowed literal values'):
            Client(Connection(server.url)).submit(package, "demo", values)
        assert server.backend.runs == {}

    def test_the_user_is_told_what_is_missing(
        self, server: KfpServer, placed: Package, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(submission, "pack", lambda *_: placed)
        server.backend.version = (2, 15)
        done = cli("upload", *SCRATCH)
        assert done.code == 0
        assert "note: Kubeflow Pipelines 2.15: keep_finished is left out" in done.error
        assert "(as of 2.17 it is known)" in done.error
        server.backend.version = (2, 17)
        assert cli("upload", *SCRATCH).error == ""

    def test_older_ones_are_refused_at_once(self, server: KfpServer) -> None:
        server.backend.version = (2, 14)
        assert "is Kubeflow Pipelines 2.14; 2.15 or newer is needed" in refusal(Connection(server.url))
        assert len(server.requests) == 1

    def test_through_the_ui_it_is_known_too(self, server: KfpServer) -> None:
        server.is_ui, server.backend.version = True, (2, 16)
        assert Client(Connection(server.url)).version == (2, 16)

    def test_one_that_is_not_told_counts_as_the_oldest(self, server: KfpServer, placed: Package) -> None:
        server.fault = answering(200, b'{"multi_user": false, "tag_name": "dev"}', "application/json")
        client = Client(Connection(server.url))
        assert client.version is None
        assert client.fitted(placed)[1][0].startswith("A server that does not tell its version: keep_finished")


class TestVersions:
    def test_the_same_content_is_one_version(self, server: KfpServer, package: Package) -> None:
        client = Client(Connection(server.url))
        first = client.upload(package, "demo-1")
        assert (first.name, first.is_new) == ("demo-1", True)
        assert client.upload(package, "demo-2") == first._replace(is_new=False)
        (pipeline,) = server.backend.pipelines.values()
        assert pipeline.display_name == "simipu"
        (version,) = server.backend.versions.values()
        assert version.pipeline_spec == package.specification

    def test_another_content_is_a_new_version_of_the_same_pipeline(self, server: KfpServer, package: Package) -> None:
        client = Client(Connection(server.url))
        first, other = client.upload(package, "demo-1"), client.upload(changed(package), "demo-1")
        assert other.pipeline_id == first.pipeline_id
        assert other.name == f"demo-1-{changed(package).digest[:8]}"
        assert [one.display_name for one in server.backend.versions.values()] == ["demo-1", other.name]

    def test_it_is_found_among_many(self, server: KfpServer, package: Package, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("pipelines.client._PAGE", 2)
        client = Client(Connection(server.url))
        contents = [Package(f"{package.text}# {number}\n") for number in range(5)]
        made = [client.upload(content, f"demo-{number}") for number, content in enumerate(contents)]
        assert client.upload(contents[4], "again") == made[4]._replace(is_new=False)

    def test_two_first_uploads_make_one_pipeline(self, server: KfpServer, package: Package) -> None:
        def make_first(handler: Any) -> bool:
            if handler.command == "POST" and handler.path.endswith("/pipelines") and not server.backend.pipelines:
                import kfp_server_api as kfp

                server.backend.create_pipeline(kfp.V2beta1Pipeline(name="simipu", display_name="simipu"))
            return False

        server.fault = make_first
        assert Client(Connection(server.url)).upload(package, "demo-1").is_new
        assert len(server.backend.pipelines) == 1

    def test_the_command_says_what_it_did(self, server: KfpServer) -> None:
        first = cli("upload", *SCRATCH)
        assert first.code == 0, first.error
        (version,) = server.backend.versions.values()
        assert re.fullmatch(r"demo-([0-9a-f]{12}(-dirty)?|unknown)", version.display_name)
        assert first.out.splitlines() == [
            f"Version  {version.pipeline_version_id}  {version.display_name}",
            f"See      {server.url}/#/pipelines/details/{version.pipeline_id}/version/{version.pipeline_version_id}",
        ]
        assert re.fullmatch(
            r"demo, revision \w+( with uncommitted changes)?\. sha256:[0-9a-f]{64}", version.description
        )
        assert "the same content is there already" in cli("upload", *SCRATCH, "--version", "other").out
        cli("upload", *SCRATCH, "--no-cache", "--version", "uncached")
        assert [one.display_name for one in server.backend.versions.values()] == [version.display_name, "uncached"]


class TestSchedules:
    def test_one_is_made_listed_and_deleted(self, server: KfpServer, tmp_path: Path) -> None:
        (tmp_path / "raw").mkdir()
        (tmp_path / "raw" / "scan.bin").write_bytes(b"scan")
        arguments = ("schedule", *SCRATCH, "--data", str(tmp_path / "raw"), "--cron", "30 3 * * 1", "--name", "weekly")
        made = cli(*arguments, "--service-account", "simipu-steps")
        assert made.code == 0, made.error
        assert f"every pod must see the folder {tmp_path}/raw" in made.error
        (schedule,) = server.backend.recurring.values()
        (version,) = server.backend.versions.values()
        assert made.out.startswith(f"Schedule {schedule.recurring_run_id}  weekly, version {version.display_name}\n")
        assert (schedule.trigger.cron_schedule.cron, schedule.trigger.periodic_schedule) == ("0 30 3 * * 1", None)
        assert (schedule.mode, schedule.max_concurrency, schedule.no_catchup) == ("ENABLE", "1", True)
        assert schedule.pipeline_version_reference.pipeline_version_id == version.pipeline_version_id
        assert schedule.pipeline_spec is None
        assert schedule.service_account == "simipu-steps"
        assert schedule.description.startswith("demo, revision ")
        assert re.fullmatch(rf"{tmp_path}/raw#[0-9a-f]{{64}}", schedule.runtime_config.parameters["data_depth"])

        assert "there is a schedule “weekly” already" in cli(*arguments).error
        listed = cli("schedules").out
        for text in (schedule.recurring_run_id, "weekly", "0 30 3 * * 1", "enabled"):
            assert text in listed
        assert cli("unschedule", schedule.recurring_run_id).code == 0
        assert server.backend.recurring == {}
        assert f"Job {schedule.recurring_run_id} not found" in cli("unschedule", schedule.recurring_run_id).error

    def test_an_interval_is_told_in_seconds(self, server: KfpServer, package: Package) -> None:
        client = Client(Connection(server.url))
        client.schedule(
            client.upload(package, "demo"), "often", {"data_depth": "s3://bucket/a#1"}, Trigger(every_s=3600)
        )
        (schedule,) = client.schedules()
        assert schedule.trigger.periodic_schedule.interval_second == "3600"
        assert "every 3600 s" in cli("schedules").out

    def test_none_is_deleted_while_it_is_not_known_what_goes_on(self, server: KfpServer, package: Package) -> None:
        server.backend.version = (2, 15)
        client = Client(Connection(server.url))
        version = client.upload(client.fitted(package)[0], "demo")
        made = client.schedule(version, "often", {"data_depth": "s3://bucket/a#1"}, Trigger(every_s=3600))
        cut = answering(200, b'{"runs": [{"run_id"', "application/json")
        server.fault = lambda handler: "/runs?" in handler.path and cut(handler)
        with pytest.raises(ApiError, match="is cut off"):
            client.unschedule(made.recurring_run_id)
        assert made.recurring_run_id in server.backend.recurring

    @pytest.mark.parametrize("given", [(), ("--cron", "* * * * *", "--every", "1d")])
    def test_it_is_either_cron_or_an_interval(self, given: tuple[str, ...]) -> None:
        assert "give either --cron" in cli("schedule", *given).error

    def test_an_empty_cron_is_none(self) -> None:
        assert "--cron:  is no cron expression" in cli("schedule", "--cron", "").error


class TestRuns:
    def test_unknown_runs_are_told(self, server: KfpServer) -> None:
        nobody = "00000000-0000-0000-0000-000000000000"
        for command in ("status", "cancel"):
            assert re.search(rf"\(404: .*Run {nobody} not found\)", cli(command, nobody).error)
        assert cli("status", nobody, "--wait").code == 4
        assert "give its id" in cli("status", "--wait").error

    @pytest.mark.parametrize("name", ["[/x]", "[i]a[/i]"])
    def test_names_are_shown_as_they_are(self, name: str, server: KfpServer, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("COLUMNS", "80")
        group = kfp.V2beta1Experiment(display_name="simipu")
        server.backend.create_experiment(group)
        identity = "0" * 36
        many = {
            "trigger": {},
            "run_id": identity,
            "recurring_run_id": identity,
            "display_name": name,
            "state": "SUCCEEDED",
        }
        listed = answering(200, json.dumps({"runs": [many], "recurringRuns": [many]}).encode(), "application/json")
        server.fault = lambda handler: "runs?" in handler.path and listed(handler)
        for command in ("status", "schedules"):
            shown = cli(command).out
            assert identity in shown  # in one line
            assert name in shown

    @pytest.mark.parametrize(
        ("given", "said"),
        [
            (("status", ""), "run: it is empty"),
            (("cancel", " "), "run: it is empty"),
            (("unschedule", ""), "schedule: it is empty"),
            (("status", "\udcff"), "run: it is no text"),
            (("submit", "--run-name", "\udcff"), "--run-name: it is no text"),
            (("upload", "--version", "\udcff"), "--version: it is no text"),
            (("schedule", "--name", "\udcff"), "--name: it is no text"),
        ],
    )
    def test_names_and_ids_are_text(self, given: tuple[str, ...], said: str) -> None:
        done = cli(*given)
        assert (done.code, done.error.splitlines()[-1].startswith(f"error: {said}")) == (1, True)

    def test_a_wrong_parameter_is_told(self, server: KfpServer, package: Package) -> None:
        client = Client(Connection(server.url))
        with pytest.raises(ApiError, match="parameter epochs is not an input of the pipeline"):
            client.submit(package, "run", {"epochs": "3"})
        assert server.backend.runs == {}

    def test_no_answer_to_a_submission_leaves_it_open(self, server: KfpServer, package: Package) -> None:
        server.fault = lambda handler: handler.path.endswith("/runs") and server.hang(handler)
        client = Client(Connection(server.url, read_timeout_s=3))
        with pytest.raises(ApiError, match="not known whether the run was made: look for “my run” with `status`"):
            client.submit(package, "my run", {"data_depth": "s3://bucket/a#1"})

    @pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
    def test_a_submission_that_is_stopped_says_so(
        self,
        server: KfpServer,
        package: Package,
        sent: signal.Signals,
        capfd: pytest.CaptureFixture[str],
    ) -> None:
        def stop(handler: Any) -> bool:
            if handler.command != "POST" or not handler.path.endswith("/runs"):
                return False
            os.kill(os.getpid(), sent)
            return server.hang(handler)

        client = Client(Connection(server.url, read_timeout_s=10))
        server.fault = stop
        before = signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background ignores it
        try:
            with pytest.raises(SystemExit):
                client.submit(package, "my run", {"data_depth": "s3://bucket/a#1"})
        finally:
            signal.signal(signal.SIGINT, before)
        assert "not known whether the run was made: look for “my run”" in capfd.readouterr().err

    def test_a_page_in_place_of_the_made_run_leaves_it_open(self, server: KfpServer, package: Package) -> None:
        page = answering(200, LOGIN_PAGE.encode(), "text/html")
        client = Client(Connection(server.url))
        server.fault = lambda handler: handler.path.endswith("/runs") and page(handler)
        with pytest.raises(ApiError, match="not known whether the run was made"):
            client.submit(package, "my run", {"data_depth": "s3://bucket/a#1"})

    def test_a_wrong_token_is_told_before_data_is_looked_at(self, server: KfpServer) -> None:
        server.token = SECRET
        done = cli("submit", *SCRATCH, "--data", "/nowhere")
        assert "asks who you are" in done.error
