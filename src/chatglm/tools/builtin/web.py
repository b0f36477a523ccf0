"""Web pages as text, from hosts that were allowed, and never from a private network.

Everything is checked again for every redirect: the scheme, the port, the host against the list, and the addresses the
host's name stands for. The connection goes to the address that was checked, so a name that means something else a
moment later changes nothing. Proxies of the environment are not used: they would connect to whatever they like.
"""

import fnmatch
import http.client
import ipaddress
import re
import socket
import ssl
import threading
import time
import urllib.parse
from codecs import BOM_UTF8
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any

from chatglm.errors import ToolError
from chatglm.tools.builtin.html_text import html_text
from chatglm.tools.definition import Tool, tool

_MAX_REDIRECTS = 5
_REDIRECTS = (301, 302, 303, 307, 308)
_PORTS = {"http": 80, "https": 443}
_TEXT = re.compile(r"text/.*|application/(.*\+)?(json|xml|javascript|yaml|toml)")
_HOST = re.compile(r"(\*|(\*\.)?[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?|\[?[0-9a-f:.]+\]?)")

Resolve = Callable[[str, int], list[str]]
Connect = Callable[[tuple[str, int], float], socket.socket]


def make_web_fetch(
    allow_hosts: Iterable[str],
    *,
    timeout: float = 15.0,
    max_bytes: int = 2_000_000,
    max_result: int = 8000,
    resolve: Resolve | None = None,
    connect: Connect | None = None,
) -> Tool:
    """The tool that reads web pages. There is no default list of hosts: name each, and know that what it says is read
    by the model like everything else.

    Args:
        allow_hosts: host names; `*.example.org` means all below it, `*` every public host.
        timeout: seconds for a page with all its redirects.
        max_bytes: bytes of a page; a longer one is an error.
        max_result: characters of its text the model is shown.
        resolve: the addresses of a host name; unless given, the system's.
        connect: opens a connection to an address and port; unless given, the system's.

    Raises:
        ToolError: no host, or something that is no host name.
    """
    hosts = [_host_pattern(host) for host in ([allow_hosts] if isinstance(allow_hosts, str) else allow_hosts)]
    if not hosts:
        raise ToolError("web_fetch was given no hosts; give those it may ask, e.g. ['docs.python.org']")
    fetcher = Fetcher(tuple(hosts), timeout, max_bytes, resolve or _addresses, connect or socket.create_connection)

    @tool(timeout=timeout + 2, max_result=max_result)
    def web_fetch(url: Annotated[str, "address of the page, with http:// or https://"]) -> str:
        """Reads a web page and gives its text."""
        return fetcher.text(url)

    return web_fetch


def _host_pattern(host: str) -> str:
    pattern = host.strip().lower().rstrip(".")
    if not pattern.isascii():
        pattern = pattern.encode("idna").decode("ascii")
    if not _HOST.fullmatch(pattern):
        raise ToolError(f"allow_hosts has {host!r}; it must be a host name like 'example.org' or '*.example.org'")
    return pattern.strip("[]")


def _addresses(host: str, port: int) -> list[str]:
    return [str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


@dataclass(frozen=True)
class _Target:
    """Where one request goes."""

    scheme: str
    host: str
    port: int
    path: str


@dataclass(frozen=True)
class Fetcher:
    """Reads pages; see `make_web_fetch`."""

    hosts: tuple[str, ...]
    timeout: float
    max_bytes: int
    resolve: Resolve
    connect: Connect

    def text(self, url: str) -> str:
        """The text of a page.

        Raises:
            ToolError: it is not allowed, cannot be reached, or is no text.
        """
        end = time.monotonic() + self.timeout
        for _ in range(_MAX_REDIRECTS + 1):
            target = self._target(url)
            try:
                following, text = self._request(target, end)
            except TimeoutError:
                raise ToolError(f"{target.host} gave no page within {self.timeout:g} seconds") from None
            except (OSError, http.client.HTTPException) as error:
                raise ToolError(f"{target.host} cannot be reached: {error or type(error).__name__}") from None
            if following is None:
                return text
            url = urllib.parse.urljoin(url, following)
        raise ToolError(f"the page was moved more than {_MAX_REDIRECTS} times")

    def _target(self, url: str) -> _Target:
        """Checks an address as far as it can be without asking anybody."""
        if re.search(r"[\x00-\x20\x7f\\]", url.strip()):
            raise ToolError(f"{url[:80]!r} is no web address; it must not hold blanks or backslashes")
        try:
            parts = urllib.parse.urlsplit(url.strip())
            port = parts.port
            host = (parts.hostname or "").rstrip(".").encode("idna").decode("ascii").lower()
        except (ValueError, UnicodeError):
            raise ToolError(f"{url[:80]!r} is no web address") from None
        if parts.scheme not in _PORTS or not host:
            raise ToolError(f"{url[:80]!r} is no web address; it must begin with http:// or https:// and a host")
        if parts.username is not None or parts.password is not None:
            raise ToolError("an address with a user name or password is not fetched")
        if port not in (None, *_PORTS.values()):
            raise ToolError(f"port {port} is not fetched; web pages are at 80 and 443")
        if not any(_fits(host, pattern) for pattern in self.hosts):
            raise ToolError(f"the host {host} is not allowed; allowed are: {', '.join(self.hosts)}")
        path = urllib.parse.quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
        query = urllib.parse.quote(parts.query, safe="/%:@!$&'()*+,;=~-._?")
        return _Target(parts.scheme, host, port or _PORTS[parts.scheme], f"{path}?{query}" if query else path)

    def _request(self, target: _Target, end: float) -> tuple[str | None, str]:
        """One request: where it was moved to, or its text."""
        raw = self._connected(target, end)
        late = threading.Event()
        closing = threading.Timer(max(0.0, end - time.monotonic()), _shut, [raw, late])  # a server may drip for ever
        closing.daemon = True
        closing.start()
        connection = http.client.HTTPConnection(target.host, target.port)
        try:
            connection.sock = self._secured(raw, target)
            connection.request("GET", target.path, headers=_HEADERS)
            answer = connection.getresponse()
            moved = answer.getheader("Location") if answer.status in _REDIRECTS else None
            text = self._page(target, answer) if moved is None else ""
        except (OSError, http.client.HTTPException, ToolError):
            if late.is_set():
                raise TimeoutError from None
            raise
        finally:
            closing.cancel()
            connection.close()
            raw.close()
        if late.is_set():  # what was cut off looks like the end of the page
            raise TimeoutError
        return moved, text

    def _connected(self, target: _Target, end: float) -> socket.socket:
        try:
            addresses = self.resolve(target.host, target.port)
        except (OSError, UnicodeError) as error:
            raise ToolError(f"{target.host} has no address: {error}") from None
        private = next((address for address in addresses if not is_public(address)), None)
        if private is not None or not addresses:
            raise ToolError(f"{target.host} is not on the public internet; such addresses are never fetched")
        left = end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return self.connect((addresses[0], target.port), left)

    def _secured(self, raw: socket.socket, target: _Target) -> socket.socket:
        if target.scheme == "http":
            return raw
        return ssl.create_default_context().wrap_socket(raw, server_hostname=target.host)

    def _page(self, target: _Target, answer: http.client.HTTPResponse) -> str:
        if answer.status != 200:
            raise ToolError(f"{target.host} answered HTTP {answer.status} {answer.reason[:60]}".rstrip())
        kind = answer.headers.get_content_type()
        if not _TEXT.fullmatch(kind):
            raise ToolError(f"the page is {kind}, which is no text")
        if answer.getheader("Content-Encoding", "identity") != "identity":
            raise ToolError("the page was sent compressed although that was not asked for")
        data = bytearray()
        while chunk := answer.read1(65536):
            data += chunk
            if len(data) > self.max_bytes:
                raise ToolError(f"the page has more than {self.max_bytes} bytes")
        text = _decoded(bytes(data), answer.headers.get_content_charset())
        return html_text(text) if kind in ("text/html", "application/xhtml+xml") else text


_HEADERS = {"User-Agent": "chatglm", "Accept": "text/html, text/*, application/json", "Accept-Encoding": "identity"}


def _shut(raw: socket.socket, late: threading.Event) -> None:
    late.set()
    try:
        raw.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # it is closed already


def _fits(host: str, pattern: str) -> bool:
    return host == pattern or ("*" in pattern and fnmatch.fnmatchcase(host, pattern))


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the public internet, also the one inside an IPv6 address that stands for it."""
    try:
        found: Any = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address):
        if found in _TRANSLATED:
            found = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        else:
            found = found.ipv4_mapped or found.sixtofour or (found.teredo or (None, None))[1] or found
    special = any(found in network for network in _NEVER if network.version == found.version)
    return bool(found.is_global and not found.is_multicast and not found.is_reserved and not special)


_TRANSLATED = ipaddress.ip_network("64:ff9b::/96")  # NAT64
# What `is_global` of some Python versions does not know: site-local, local NAT64, and special-purpose IPv4 addresses.
_NEVER = [ipaddress.ip_network(network) for network in ("fec0::/10", "64:ff9b:1::/48", "192.0.0.0/24")]


def _decoded(data: bytes, charset: str | None) -> str:
    data = data.removeprefix(BOM_UTF8)
    named = re.search(rb"charset=[\"']?([\w-]+)", data[:2048], re.IGNORECASE)
    for encoding in (charset, named[1].decode("ascii") if named else None, "utf-8"):
        try:
            return data.decode(encoding or "utf-8")
        except (LookupError, UnicodeDecodeError):
            continue
    return data.decode("utf-8", "replace")
