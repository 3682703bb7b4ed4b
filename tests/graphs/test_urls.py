"""URLs in content blocks: refused unless on; then each hop is checked, limited, and made to the checked address."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from typing import Any

import numpy as np
import pytest
from langchain_core.messages import HumanMessage

from anyloom.anygpt_model.errors import InputError, MediaError, Unreachable
from anyloom.anygpt_model.media import write_png
from anyloom.anygpt_model.values import Modality
from anyloom.graphs.chat_model import ChatAnyGPT
from anyloom.graphs.conversation import build_graph
from anyloom.graphs.urls import Urls, is_public

PNG = write_png(np.full((8, 8, 3), 90, np.uint8))
HOME = ip_address("127.0.0.1")


class Server(ThreadingHTTPServer):
    """Serves PNG everywhere but at the paths of misbehaviour; notes who was asked for."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Pages)
        self.hosts: list[str] = []
        self.redirects: dict[str, str] = {}
        self.over = threading.Event()

    @property
    def port(self) -> int:
        return self.server_address[1]


class Pages(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.hosts.append(self.headers["Host"])
        if self.path in self.server.redirects:
            self._head(302, Location=self.server.redirects[self.path])
        elif self.path == "/none":
            self._head(404)
        elif self.path == "/said-large":
            self._head(200, **{"Content-Length": str(10**9)})
        elif self.path == "/large":
            self._head(200)
            self.wfile.write(b"x" * 5000)
        elif self.path == "/short":
            self._head(200, **{"Content-Length": "3000"})
            self.wfile.write(b"x" * 10)
        elif self.path == "/zipped":
            self._head(200, **{"Content-Encoding": "gzip"})
        elif self.path == "/page":
            self._head(200)
            self.wfile.write(b"<html>not a picture</html>")
        elif self.path.startswith("/drip"):
            self._drip()
        else:
            self._head(200, **{"Content-Length": str(len(PNG))})
            self.wfile.write(PNG)

    def _head(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _drip(self) -> None:
        """A byte each 20 ms, in the head or in the body: no single read ever times out."""
        self.wfile.write(b"HTTP/1.0 200 OK\r\n" + (b"" if self.path == "/drip-head" else b"\r\n"))
        try:
            while not self.server.over.wait(0.02):
                self.wfile.write(b"x")
                self.wfile.flush()
        except OSError:
            return

    def log_message(self, *_: Any) -> None:
        """Quiet."""


@pytest.fixture
def server() -> Iterator[Server]:
    served = Server()
    thread = threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield served
    served.over.set()
    served.shutdown()
    served.server_close()


def names(**known: str) -> Any:
    """A resolver that knows these names, spelled with "_" for "."; anything else is what it is."""
    return lambda host, port: [known.get(host.replace(".", "_"), host)]


@pytest.fixture
def urls(server: Server) -> Urls:
    """Fetches from this machine's server alone: 127.0.0.1 is allowed, everything else stays as strict as it is."""
    resolve = names(pictures_test="127.0.0.1", inside_test="10.0.0.7")
    return Urls(
        ports=frozenset({server.port}), resolve=resolve, allowed=lambda one: one == HOME or is_public(one), seconds=5.0
    )


def at(server: Server, path: str, host: str = "pictures.test") -> str:
    return f"http://{host}:{server.port}{path}"


def test_bytes_come_from_the_checked_address_with_the_name_asked_for(server: Server, urls: Urls) -> None:
    assert urls(at(server, "/a.png?size=1"), 10_000) == PNG
    assert server.hosts == [f"pictures.test:{server.port}"]


def test_a_name_is_resolved_once_a_hop_and_not_again(server: Server, urls: Urls, monkeypatch: Any) -> None:
    answers = iter(["127.0.0.1", "10.0.0.7"])

    def gone(*_: Any, **__: Any) -> Any:
        raise AssertionError("the name was resolved a second time")

    monkeypatch.setattr(socket, "getaddrinfo", gone)
    rebinding = Urls(ports=urls.ports, allowed=urls.allowed, resolve=lambda host, port: [next(answers)])
    assert rebinding(at(server, "/a.png"), 10_000) == PNG
    with pytest.raises(MediaError, match="no public address"):
        rebinding(at(server, "/a.png"), 10_000)
    assert len(server.hosts) == 1


def test_one_private_address_among_public_ones_is_enough(urls: Urls) -> None:
    mixed = Urls(resolve=lambda host, port: ["93.184.216.34", "192.168.1.1"])
    with pytest.raises(MediaError, match="no public address"):
        mixed("https://example.org/a.png", 100)


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
     "255.255.255.255", "::1", "::", "fe80::1", "fc00::1", "ff02::1", "::ffff:127.0.0.1", "2002:7f00:1::",
     "64:ff9b::7f00:1", "2001:0:0:0:0:0:80ff:fffe"],
)  # fmt: skip
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(ip_address(address))


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1::1", "64:ff9b::5db8:d822"])
def test_addresses_that_are_public(address: str) -> None:
    assert is_public(ip_address(address))


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "localhost", "0x7f.1", "2130706433", "[::ffff:10.0.0.1]"])
def test_this_machine_has_many_names_and_none_is_fetched_from(host: str) -> None:
    with pytest.raises(MediaError, match=r"no public address|has no address"):
        Urls()(f"http://{host}/a.png", 100)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("file:///etc/passwd", "'file'"),
        ("ftp://pictures.test/a.png", "'ftp'"),
        ("gopher://pictures.test/", "'gopher'"),
        ("data:image/png,abc", "'data'"),
        ("//pictures.test/a.png", "''"),
        ("http:///a.png", "host"),
        ("http://ann:secret@pictures.test/a.png", "user name"),
        ("http://pictures.test:22/a.png", "port 22"),
        ("http://pictures.test:port/a.png", "can't be read"),
        (f"http://{'a' * 70}.test/", "can't be read"),
        ("http://[::1/a.png", "can't be read"),
    ],
)
def test_unusable_urls_are_one_sentence_and_never_asked(urls: Urls, url: str, says: str) -> None:
    with pytest.raises(MediaError, match=says) as caught:
        urls(url, 100)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("path", "says"),
    [("/none", "404"), ("/said-large", "4,000 bytes"), ("/large", "4,000 bytes"), ("/zipped", "compressed"),
     ("/short", "did not answer")],
)  # fmt: skip
def test_answers_that_are_not_taken(server: Server, urls: Urls, path: str, says: str) -> None:
    with pytest.raises(MediaError, match=says) as caught:
        urls(at(server, path), 4000)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", ["/drip-head", "/drip-body"])
def test_a_server_that_drips_is_cut_off(server: Server, urls: Urls, path: str) -> None:
    hasty = Urls(ports=urls.ports, resolve=urls.resolve, allowed=urls.allowed, seconds=0.3)
    with pytest.raises(MediaError, match=r"longer than 0\.3 s"):
        hasty(at(server, path), 10**9)


def test_redirects_are_followed_and_each_is_checked(server: Server, urls: Urls) -> None:
    server.redirects = {
        "/one": "/two",
        "/two": "/a.png",
        "/round": "/round",
        "/inside": at(server, "/a.png", "inside.test"),
        "/metadata": "//169.254.169.254/latest",
        "/file": "file:///etc/passwd",
        "/port": "http://pictures.test:22/",
    }
    assert urls(at(server, "/one"), 10_000) == PNG
    for path, says in {
        "/round": "more than 3",
        "/inside": "inside.test, which is no public",
        "/metadata": r"port 80|no public",
        "/file": "'file'",
        "/port": "port 22",
    }.items():
        with pytest.raises(MediaError, match=says):
            urls(at(server, path), 10_000)
    assert not [host for host in server.hosts if not host.startswith("pictures.test")]


def test_https_does_not_lead_to_plain_http(urls: Urls) -> None:
    with pytest.raises(MediaError, match="plain http"):
        urls._target(f"http://pictures.test:{next(iter(urls.ports))}/a.png", True)


def test_a_host_that_is_not_there_may_be_tried_again() -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
    nobody = Urls(ports=frozenset({port}), allowed=lambda one: one == HOME, seconds=5.0)
    with pytest.raises(Unreachable):
        nobody(f"http://127.0.0.1:{port}/a.png", 100)
    assert issubclass(Unreachable, OSError)


def test_the_certificate_is_for_the_name_and_not_for_the_address(server: Server, urls: Urls, tmp_path: Any) -> None:
    tls, trusted = certified(tmp_path, "pictures.test")
    server.socket = tls.wrap_socket(server.socket, server_side=True)
    resolve = names(pictures_test="127.0.0.1", other_test="127.0.0.1")
    secure = Urls(ports=urls.ports, allowed=urls.allowed, resolve=resolve, tls=trusted, seconds=5.0)
    assert secure(f"https://pictures.test:{server.port}/a.png", 10_000) == PNG
    with pytest.raises(MediaError, match=r"certificate of other\.test"):
        secure(f"https://other.test:{server.port}/a.png", 10_000)
    server.redirects = {"/down": at(server, "/a.png")}
    with pytest.raises(MediaError, match="plain http"):
        secure(f"https://pictures.test:{server.port}/down", 10_000)


def certified(folder: Any, name: str) -> Any:
    """(a server's context with a certificate for `name`, a client's that trusts it alone)."""
    import datetime
    import ssl

    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    called = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder().subject_name(called).issuer_name(called).public_key(key.public_key())
        .serial_number(1).not_valid_before(now - datetime.timedelta(1)).not_valid_after(now + datetime.timedelta(1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True).sign(key, hashes.SHA256())
    )  # fmt: skip
    pem = serialization.Encoding.PEM
    (folder / "key.pem").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    (folder / "cert.pem").write_bytes(certificate.public_bytes(pem))
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return serving, ssl.create_default_context(cafile=str(folder / "cert.pem"))


def test_off_they_are_refused_and_nothing_is_asked(engine: Any, store: Any, server: Server) -> None:
    for block in (
        {"type": "image", "url": at(server, "/a.png", "127.0.0.1")},
        {"type": "image_url", "image_url": {"url": at(server, "/a.png", "127.0.0.1")}},
        {"type": "file", "url": at(server, "/a.png", "127.0.0.1")},
    ):
        with pytest.raises(InputError, match="urls=True"):
            build_graph(engine, store).invoke({"messages": [HumanMessage(content=[block])]})
    assert server.hosts == []


def test_on_the_message_refers_to_what_was_kept(engine: Any, store: Any, server: Server, urls: Urls) -> None:
    block = {"type": "image_url", "image_url": {"url": at(server, "/a.png")}}
    message = HumanMessage(content=[{"type": "text", "text": "what is this"}, block], id="mine")
    result = build_graph(engine, store, urls=urls).invoke({"messages": [message]})
    kept = result["messages"][0].content_blocks[1]
    assert store.get(kept["file_id"]) == PNG
    assert "url" not in kept
    assert [part.modality for part in store.turn(result["turn"]).request] == [Modality.TEXT, Modality.IMAGE]


def test_on_by_a_flag_this_machine_stays_out_of_reach(engine: Any, store: Any, server: Server) -> None:
    block = {"type": "image", "url": at(server, "/a.png", "127.0.0.1")}
    with pytest.raises(MediaError):
        build_graph(engine, store, urls=True).invoke({"messages": [HumanMessage(content=[block])]})
    with pytest.raises(MediaError, match="no public address"):
        build_graph(engine, store, urls=True).invoke(
            {"messages": [HumanMessage(content=[{"type": "image", "url": "http://127.0.0.1/a.png"}])]}
        )
    assert server.hosts == []


def test_what_is_fetched_is_as_little_trusted_as_bytes(engine: Any, store: Any, server: Server, urls: Urls) -> None:
    graph = build_graph(engine, store, urls=urls)
    with pytest.raises(MediaError, match="content is text"):
        graph.invoke({"messages": [HumanMessage(content=[{"type": "image", "url": at(server, "/page")}])]})


def test_a_conversation_by_url_goes_on_from_the_stored_ids(engine: Any, store: Any, server: Server, urls: Urls) -> None:
    chat = ChatAnyGPT(engine=engine, store=store, urls=urls)
    first = HumanMessage(content=[{"type": "image", "url": at(server, "/a.png")}])
    reply = chat.invoke([first])
    chat.invoke([first, reply, HumanMessage("what is this")])
    last = store.turn(store.turns(limit=1)[0].id)
    assert "foreign" not in last.options
    assert last.parent == reply.response_metadata["anyloom"]["turn"]


def test_data_in_a_url_needs_no_network(engine: Any, store: Any) -> None:
    from base64 import b64encode

    block = {"type": "image", "url": "data:image/png;base64," + b64encode(PNG).decode()}
    result = build_graph(engine, store).invoke({"messages": [HumanMessage(content=[block])]})
    assert store.get(result["messages"][0].content_blocks[0]["file_id"]) == PNG
