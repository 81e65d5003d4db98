"""Whom the client trusts, and as whom it comes: over real TLS."""

import datetime
import ipaddress
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from lbctl.kube.client import Client, Patch, Unreachable

HERE = "127.0.0.1"


class Identity:
    """A key and its certificate, signed by itself: its own authority."""

    def __init__(self, folder, name):
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = datetime.datetime.now(datetime.UTC)
        address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(HERE))])
        made = (
            x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
            .serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1)).add_extension(address, critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(key, hashes.SHA256())
        )  # fmt: skip
        self.certificate, self.key = folder / f"{name}.crt", folder / f"{name}.key"
        self.certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
        self.key.write_bytes(key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption(),
        ))


class Handler(BaseHTTPRequestHandler):
    """Says who asks."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        known = dict(pair for part in (self.connection.getpeercert() or {}).get("subject", ()) for pair in part)
        body = known.get("commonName", "nobody").encode() + b"\n"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_PATCH(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def log_message(self, *_said):
        """In silence."""


@pytest.fixture(scope="module")
def identities(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trust")
    return {name: Identity(folder, name) for name in ("server", "stranger", "lbctl", "renewed")}


@pytest.fixture(scope="module")
def server(identities):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(identities["server"].certificate, identities["server"].key)
    for name in ("lbctl", "renewed"):
        context.load_verify_locations(identities[name].certificate)
    context.verify_mode = ssl.CERT_OPTIONAL
    made = ThreadingHTTPServer((HERE, 0), Handler)
    made.socket = context.wrap_socket(made.socket, server_side=True)
    threading.Thread(target=made.serve_forever, args=(0.05,), daemon=True).start()
    yield f"https://{HERE}:{made.server_port}"
    made.shutdown()
    made.server_close()


@pytest.fixture
def client(server, tmp_path):
    """`client(cluster=…, user=…)`: one that goes by a kubeconfig with these lines."""
    made = []

    def make(cluster="", user=""):
        path = tmp_path / "kubeconfig"
        path.write_text(
            "{apiVersion: v1, kind: Config, current-context: c, "
            "contexts: [{name: c, context: {cluster: c, user: u}}], "
            f"clusters: [{{name: c, cluster: {{server: '{server}', {cluster}}}}}], "
            f"users: [{{name: u, user: {{{user}}}}}]}}"
        )
        made.append(Client.from_config(str(path), timeout=5.0))
        return made[-1]

    yield make
    for one in made:
        one.close()


def asked(client):
    """Who it is taken for, in each of the ways in which it asks."""
    ((_, answer),) = client.patch_all(iter([Patch("/x", {})]), 2)
    if isinstance(answer, Exception):
        raise answer
    return {client.get("/x").strip(), answer.strip(), *client.stream("/x", {}, 5.0)}


def authority(identity):
    return f"certificate-authority: '{identity.certificate}'"


def test_who_has_the_clusters_authority_is_trusted(client, identities):
    assert asked(client(authority(identities["server"]))) == {b"nobody"}


@pytest.mark.parametrize("ask", [
    lambda client: client.get("/x"),
    lambda client: client.stream("/x", {}, 5.0),
    asked,
], ids=["alone", "a watch", "in a stream"])  # fmt: skip
@pytest.mark.parametrize("whose", ["stranger", ""], ids=["another authority", "the system's authorities"])
def test_a_stranger_is_not(client, identities, whose, ask):
    with pytest.raises(Unreachable, match="self.signed certificate"):
        ask(client(authority(identities[whose]) if whose else ""))


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
def test_who_says_so_trusts_anybody(client):
    assert asked(client("insecure-skip-tls-verify: true")) == {b"nobody"}


def test_it_comes_with_its_certificate(client, identities):
    own = identities["lbctl"]
    user = f"client-certificate: '{own.certificate}', client-key: '{own.key}'"
    assert asked(client(authority(identities["server"]), user)) == {b"lbctl"}


def test_a_renewed_authority_is_trusted_from_the_next_connection_on(client, identities, tmp_path):
    authorities = tmp_path / "ca.crt"
    authorities.write_bytes(identities["stranger"].certificate.read_bytes())
    made = client(f"certificate-authority: '{authorities}'")
    with pytest.raises(Unreachable):
        asked(made)
    authorities.write_bytes(identities["server"].certificate.read_bytes())
    assert asked(made) == {b"nobody"}


def test_a_renewed_certificate_is_shown_from_the_next_connection_on(client, identities, tmp_path):
    own = tmp_path / "own.pem"
    own.write_bytes(identities["lbctl"].certificate.read_bytes() + identities["lbctl"].key.read_bytes())
    made = client(authority(identities["server"]), f"client-certificate: '{own}', client-key: '{own}'")
    assert asked(made) == {b"lbctl"}
    own.write_bytes(identities["renewed"].certificate.read_bytes() + identities["renewed"].key.read_bytes())
    made.close()
    assert asked(made) == {b"renewed"}


def test_an_authority_that_is_none_is_said_at_the_first_question(client, identities, tmp_path):
    (tmp_path / "ca.crt").write_text("no certificate\n")
    made = client(f"certificate-authority: '{tmp_path / 'ca.crt'}'")
    with pytest.raises(Unreachable, match="Check --kubeconfig"):
        made.get("/x")
