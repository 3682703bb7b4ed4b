"""URLs in content blocks -> bytes, for graphs that were opened with them on. Trusts no name, no answer, no redirect.

Each hop is checked before it is made: scheme, port, and every address that the name resolves to. The connection then
goes to a checked address itself, so that a name can't mean another one a moment later. Bytes and seconds are limited
over all hops together; proxies of the environment are not used. Knows no message and no picture.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from threading import Timer
from time import monotonic
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from ..anygpt_model.errors import MediaError, Unreachable

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
PORTS = {"http": 80, "https": 443}
REDIRECTS = (301, 302, 303, 307, 308)
CHUNK = 1 << 16
HEADERS = {"Accept": "image/*, audio/*", "Accept-Encoding": "identity", "User-Agent": "anyloom"}
NAT64 = ipaddress.ip_network("64:ff9b::/96")


def is_public(address: Address) -> bool:
    """Whether the whole internet can reach `address`; an IPv6 address that carries an IPv4 one is as public as that."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1]
        if inner is None and address in NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
    return address.is_global and not address.is_multicast


def resolved(host: str, port: int) -> list[str]:
    """The addresses of `host`, as the system's resolver says. Raises OSError."""
    return [str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


@dataclass(frozen=True)
class Urls:
    """What may be fetched. ports: those that may be asked. redirects: followed at most. seconds: for all hops together.

    resolve, allowed: how a name becomes addresses, and which of those may be spoken to; a test that serves on its own
    machine gives its own, nobody else should. tls: the certificates trusted; None takes the system's.
    """

    ports: frozenset[int] = frozenset(PORTS.values())
    redirects: int = 3
    seconds: float = 20.0
    resolve: Callable[[str, int], Sequence[str]] = resolved
    allowed: Callable[[Address], bool] = is_public
    tls: ssl.SSLContext | None = field(default=None, repr=False)

    def __call__(self, url: str, max_bytes: int) -> bytes:
        """The bytes at `url`. Raises MediaError for one that is refused, too large, too slow or not there; Unreachable
        where trying again may help."""
        deadline = monotonic() + self.seconds
        secure = False
        for _ in range(self.redirects + 1):
            target = self._target(url, secure)
            secure = target.scheme == "https"
            body, moved = self._ask(target, self._address(target), max_bytes, deadline)
            if moved is None:
                return body
            url = urljoin(url, moved)
        raise MediaError(f"The URL was redirected more than {self.redirects} times; give the last one, or the bytes.")

    def _target(self, url: str, secure: bool) -> SplitResult:
        """`url` taken apart, once its form is checked. secure: the hop before was https."""
        try:
            target = urlsplit(url.strip())
            port = _port(target)
            host = _host(target)
        except ValueError:
            raise MediaError("A URL that can't be read came; give an http or https one, or the bytes.") from None
        if target.scheme not in PORTS or not host:
            raise MediaError(f"A URL of scheme {target.scheme!r} came; http and https with a host are fetched.")
        if secure and target.scheme != "https":
            raise MediaError(f"The URL led from https to plain http at {host}; give the last one, or the bytes.")
        if "@" in target.netloc:
            raise MediaError("A URL with a user name came; give one without, or the bytes.")
        if port not in self.ports:
            known = ", ".join(map(str, sorted(self.ports)))
            raise MediaError(f"A URL to port {port} of {host} came; the ports fetched from are {known}.")
        return target

    def _address(self, target: SplitResult) -> Address:
        """The address to connect to. Every address of the name must be allowed: one that isn't betrays the others."""
        host = _host(target)
        try:
            found = [ipaddress.ip_address(said.partition("%")[0]) for said in self.resolve(host, _port(target))]
        except OSError:
            found = []
        if not found:
            raise Unreachable(f"The host {host} has no address; check the URL, or give the bytes.")
        if not all(map(self.allowed, found)):
            raise MediaError(f"The URL leads to {host}, which is no public address; give the bytes instead.")
        return found[0]

    def _ask(self, target: SplitResult, address: Address, max_bytes: int, deadline: float) -> tuple[bytes, str | None]:
        """One hop: the body, or where it has moved to."""
        host = _host(target)
        left = deadline - monotonic()
        slow = MediaError(f"{host} took longer than {self.seconds:g} s; try later, or give the bytes.")
        if left <= 0:
            raise slow
        tls = (self.tls or ssl.create_default_context()) if target.scheme == "https" else None
        connection = _Pinned(host, _port(target), address, left, tls)
        try:
            with _ended_after(left, connection):
                connection.request("GET", _path(target), headers=HEADERS)
                answer = connection.getresponse()
                moved = _moved(answer, host)
                body = b"" if moved is not None else _body(answer, host, max_bytes)
        except ssl.SSLCertVerificationError:
            raise MediaError(f"The certificate of {host} can't be trusted; give the bytes instead.") from None
        except (OSError, http.client.HTTPException) as error:
            if monotonic() >= deadline or isinstance(error, TimeoutError):
                raise slow from None
            raise Unreachable(f"{host} did not answer as a web server does; try later, or give the bytes.") from None
        finally:
            connection.close()
        if monotonic() >= deadline:  # the end of the stream was ours
            raise slow
        return body, moved


class _Pinned(http.client.HTTPConnection):
    """A connection to one address, whatever the host's name may mean by now; TLS checks the name."""

    def __init__(self, host: str, port: int, address: Address, seconds: float, tls: ssl.SSLContext | None) -> None:
        super().__init__(host, port, timeout=seconds)
        self.default_port = PORTS["http" if tls is None else "https"]
        self._address = address
        self._tls = tls
        self._held: socket.socket | None = None

    def connect(self) -> None:
        family = socket.AF_INET if self._address.version == 4 else socket.AF_INET6
        self.sock = socket.socket(family, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect((str(self._address), self.port))
        if self._tls is not None:
            self.sock = self._tls.wrap_socket(self.sock, server_hostname=self.host)
        self._held = self.sock

    def cut(self) -> None:
        """End the exchange from another thread: a reader sees the end of the stream.

        `sock` would not do: it is gone as soon as an answer has begun that ends with its connection.
        """
        with suppress(OSError):
            if self._held is not None:
                socket.socket.shutdown(self._held, socket.SHUT_RDWR)


@contextmanager
def _ended_after(seconds: float, connection: _Pinned) -> Iterator[None]:
    """A socket's own time limit starts anew with each byte; this one does not."""
    timer = Timer(seconds, connection.cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _moved(answer: http.client.HTTPResponse, host: str) -> str | None:
    """Where the answer points to, or None for one that holds the bytes. Raises MediaError for any other."""
    place = answer.getheader("Location")
    if answer.status in REDIRECTS and place:
        return place
    if answer.status != 200:
        raise MediaError(f"{host} answered {answer.status}; check the URL, or give the bytes.")
    if answer.getheader("Content-Encoding", "identity").lower() != "identity":
        raise MediaError(f"{host} answered with a compressed body; give the bytes instead.")
    return None


def _body(answer: http.client.HTTPResponse, host: str, max_bytes: int) -> bytes:
    """The whole body, of at most `max_bytes`."""
    large = MediaError(f"The URL at {host} holds more than {max_bytes:,} bytes; give a smaller file.")
    if (answer.length or 0) > max_bytes:
        raise large
    pieces, size = [], 0
    while piece := answer.read(CHUNK):
        pieces.append(piece)
        size += len(piece)
        if size > max_bytes:
            raise large
    if answer.length:
        raise http.client.IncompleteRead(b"", answer.length)
    return b"".join(pieces)


def _host(target: SplitResult) -> str:
    """The host's name as the network spells it. Raises ValueError for one that has no such spelling."""
    return (target.hostname or "").encode("idna").decode("ascii")


def _port(target: SplitResult) -> int:
    """Raises ValueError for no port number."""
    return target.port or PORTS.get(target.scheme, 0)


def _path(target: SplitResult) -> str:
    """Path and query as a request line takes them."""
    path = quote(target.path or "/", safe="/%:@!$&'()*+,;=~-._")
    query = quote(target.query, safe="/%:@!$&'()*+,;=~-._?")
    return f"{path}?{query}" if query else path
