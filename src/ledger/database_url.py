"""URLs of databases: in the usual spellings, with one host or several, and in the driver's."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING
from urllib.parse import unquote

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

PORT = 5432
CONNECT_SECONDS_MAX = 60

# A server writes, so it never wants a standby. `any` lets reports and audits use one.
TARGETS = ("any", "primary", "read-write")

# The modes of TLS that libpq and the driver share.
SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")

_PARAMETERS = {"connect_timeout", "host", "passfile", "port", "ssl", "target_session_attrs"}

# Three parts: up to the hosts, the hosts, and the rest. SQLAlchemy reads a comma as part of a host,
# and refuses a port before it. A password may contain anything but an @.
_HOSTS = re.compile(
    r"^(?P<before>[\w+]+://(?:[^:/@]*(?::[^@]*)?@)?)(?P<hosts>[^/?@]*)(?P<after>[/?].*)?$",
    re.DOTALL,
)

# A name, an IPv4 address, a socket's directory, or an IPv6 address in brackets; then maybe a port.
_HOST = re.compile(
    r"^(?:\[(?P<bracketed>[^\[\]]+)\]|(?P<plain>[^\[\]:]+))(?::(?P<port>[0-9]{1,5}))?$"
)

# Stands for several hosts while SQLAlchemy renders the URL: it writes only one.
_PLACEHOLDER_HOST = "hosts.invalid"


def driver_url(text: str) -> str:
    """Converts a URL in any usual spelling to SQLAlchemy's for asyncpg. An empty one stays empty.

    Several hosts are written `h1:5432,h2:5432` before the database, or in the parameters `host` and
    `port`, as for libpq. Raises ValueError with a rule in words: "must …".
    """
    if not text:
        return text
    # Imported when needed: most commands only call the server, and this takes longer than the call.
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    # A password ends at the first @. The rest of it would be looked up, and shown, as a part of the
    # host or of the database's name.
    if text.count("@") > 1:
        raise ValueError(
            "must have %40 for an @ in the password, or no password: then PGPASSWORD is used"
        )
    hosts, text = _without_hosts(text)
    try:
        url = make_url(text)
    except (ArgumentError, ValueError) as error:
        raise ValueError("must look like postgresql://user:password@host:5432/database") from error
    if url.drivername in ("postgres", "postgresql"):
        url = url.set(drivername="postgresql+asyncpg")
    if url.drivername != "postgresql+asyncpg":
        raise ValueError("must begin with postgresql://")
    # libpq, and most services that hand out URLs, call it sslmode; the driver calls it ssl.
    if "sslmode" in url.query:
        url = url.difference_update_query(["sslmode"]).update_query_dict(
            {"ssl": url.query["sslmode"]}
        )
    if unknown := sorted(set(url.query) - _PARAMETERS):
        raise ValueError(
            f"must not have the parameter {unknown[0]}: "
            f"only {', '.join(sorted(_PARAMETERS))} are known"
        )
    _check_parameters(url)
    return _with_hosts(url, hosts).render_as_string(hide_password=False)


def shown_url(text: str) -> str:
    """A database's URL as people write it, without its password."""
    from sqlalchemy.engine import make_url

    url = make_url(text).set(drivername="postgresql")
    hosts = hosts_of(url)
    if len(hosts) < 2 or any(host.startswith("/") for host, _ in hosts):
        return url.render_as_string(hide_password=True)
    url = url.difference_update_query(["host", "port"]).set(host=_PLACEHOLDER_HOST)
    names = ",".join(f"{_bracketed(host)}:{port or PORT}" for host, port in hosts)
    return url.render_as_string(hide_password=True).replace(_PLACEHOLDER_HOST, names, 1)


def hosts_of(url: "URL") -> list[tuple[str, int | None]]:
    """The hosts and ports of a URL that `driver_url` made. Empty if it names no host."""
    names = _words(url.query.get("host")) or ([url.host] if url.host else [])
    ports: Sequence[int | None] = [int(port) for port in _words(url.query.get("port"))] or [
        url.port
    ]
    if len(ports) == 1:
        ports = [*ports] * len(names)
    return list(zip(names, ports, strict=True))


def _without_hosts(text: str) -> tuple[list[tuple[str, int | None]], str]:
    """The hosts that SQLAlchemy cannot read, and the URL without them.

    Returns no hosts and the unchanged URL if SQLAlchemy can read them.
    """
    found = _HOSTS.match(text)
    if found is None or not ("," in found["hosts"] or "%2f" in found["hosts"].lower()):
        return [], text
    hosts = [_host(unquote(word)) for word in found["hosts"].split(",")]
    return hosts, found["before"] + (found["after"] or "")


def _host(word: str) -> tuple[str, int | None]:
    found = _HOST.match(word)
    if found is None:
        raise ValueError(
            f"must not have the host {word!r}: "
            "a host is a name or an address, [::1] if it is IPv6, then :5432"
        )
    port = None if found["port"] is None else _port(found["port"])
    return found["bracketed"] or found["plain"], port


def _port(word: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", word) or not 0 < int(word) < 65536:
        raise ValueError(f"must not have the port {word!r}: ports are from 1 to 65535")
    return int(word)


def _check_parameters(url: "URL") -> None:
    target = url.query.get("target_session_attrs")
    if target is not None and target not in TARGETS:
        raise ValueError(
            f"must have one of {', '.join(TARGETS)} as target_session_attrs: "
            "standbys take no writes"
        )
    ssl = url.query.get("ssl")
    if ssl is not None and ssl not in SSL_MODES:
        raise ValueError(f"must have one of {', '.join(SSL_MODES)} as sslmode")
    seconds = url.query.get("connect_timeout")
    if seconds is not None and not (
        str(seconds).isascii()
        and str(seconds).isdigit()
        and 0 < int(str(seconds)) <= CONNECT_SECONDS_MAX
    ):
        raise ValueError(
            f"must have a connect_timeout from 1 to {CONNECT_SECONDS_MAX} seconds, for each host"
        )


def _with_hosts(url: "URL", hosts: list[tuple[str, int | None]]) -> "URL":
    """The URL with `hosts`, or with the hosts in its parameters, as `hosts_of` reads it."""
    names = _words(url.query.get("host"))
    ports = [_port(word) for word in _words(url.query.get("port"))]
    if url.port is not None:
        _port(str(url.port))
    if names:
        # In the parameter `host` an IPv6 address may have no brackets; then its port is in `port`.
        hosts = [
            (name, None) if name.count(":") > 1 and not name.startswith("[") else _host(name)
            for name in names
        ]
    hosts_count = len(hosts) or 1
    if len(ports) not in (0, 1, hosts_count):
        raise ValueError(
            f"must have as many ports as hosts, or one: "
            f"there are {hosts_count} hosts and {len(ports)} ports"
        )
    if ports and (
        any(port is not None for _, port in hosts) or (not names and url.port is not None)
    ):
        raise ValueError(
            "must have its ports beside the hosts or in the parameter port, not in both"
        )
    if not hosts:
        # SQLAlchemy has read the only host; without one the driver uses its default.
        return url.difference_update_query(["port"]).set(port=ports[0]) if ports else url
    if ports:
        hosts = [(host, ports[place % len(ports)]) for place, (host, _) in enumerate(hosts)]
    if len(set(hosts)) < len(hosts):
        raise ValueError("must not have a host twice")
    url = url.difference_update_query(["host", "port"]).set(host=None, port=None)
    if len(hosts) > 1:
        given = {
            "host": ",".join(host for host, _ in hosts),
            "port": ",".join(str(port or PORT) for _, port in hosts),
        }
    else:
        ((host, port),) = hosts
        given = {"host": host, **({} if port is None else {"port": str(port)})}
    return url.update_query_dict(given)


def _words(value: str | Sequence[str] | None) -> list[str]:
    """The values of a parameter that was given several times, or once with commas."""
    if value is None:
        return []
    values = [value] if isinstance(value, str) else value
    return [word for given in values for word in given.split(",")]


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
