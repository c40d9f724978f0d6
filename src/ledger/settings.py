"""All settings: environment variables that begin with LEDGER_, or the same names in `.env`."""

import re
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from ledger.addresses import (
    ADDRESS_PATTERN,
    DEFAULT_ADDRESS,
    PORT_MAX,
    has_port_in_range,
    is_within_this_machine,
)
from ledger.database_url import driver_url
from ledger.domain.restaurants import MATURITY_DAYS_MAX, UnknownRestaurants
from ledger.limits import (
    OPEN_CALLS_DEFAULT,
    OPEN_STREAMS_DEFAULT,
    PAYOUT_RUNS_OPEN_DEFAULT,
    WORKERS_MAX,
)
from ledger.zones import settlement_zone


def _port_in_range(address: str) -> str:
    if not has_port_in_range(address):
        raise ValueError(f"must be host:port with a port up to {PORT_MAX}")
    return address


def _expanded(path: Path | None) -> Path | None:
    """Expands ~, which no shell does for a line in `.env`."""
    try:
        return None if path is None else path.expanduser()
    except RuntimeError:
        raise ValueError("must not begin with the home directory of a user that has none") from None


ENV_FILE = ".env"


class LogFormat(StrEnum):
    """The format of a log line."""

    CONSOLE = "console"
    JSON = "json"


class LogLevel(StrEnum):
    """The lowest severity that is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def _timezone(name: str) -> str:
    settlement_zone(name)
    return name


# Each has separate keys for signing and verifying. With a shared secret a verifier could sign, too;
# "none" is no signature.
JWT_ALGORITHMS = frozenset(
    {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
)


def _jwt_algorithms(text: str) -> str:
    names = text.split(",")
    if not set(names) <= JWT_ALGORITHMS or len(set(names)) != len(names):
        raise ValueError(f"must be some of {','.join(sorted(JWT_ALGORITHMS))}, separated by commas")
    return text


_NUMBER_RULES: Mapping[Any, tuple[re.Pattern[str], str]] = {
    int: (re.compile(r"-?[0-9]{1,19}"), "must be a whole number, in the digits 0 to 9"),
    float: (re.compile(r"-?[0-9]{1,9}(\.[0-9]{1,9})?"), "must be a number such as 30 or 0.5"),
}

SecurityFile = Annotated[Path | None, AfterValidator(_expanded)]
SettlementTimezone = Annotated[str, AfterValidator(_timezone)]
DatabaseUrl = Annotated[str, AfterValidator(driver_url)]


class Settings(BaseSettings):
    """`.env.example` shows all settings with their defaults; a test holds the two together."""

    model_config = SettingsConfigDict(
        env_prefix="LEDGER_", env_file=ENV_FILE, env_ignore_empty=True, extra="ignore", frozen=True
    )

    grpc_address: Annotated[str, AfterValidator(_port_in_range)] = Field(
        default=DEFAULT_ADDRESS,
        pattern=ADDRESS_PATTERN,
        description="Where the server listens, and where the `ledger` command calls: host:port "
        "or unix:path.",
    )
    health_address: Annotated[str, AfterValidator(_port_in_range)] = Field(
        default="",
        pattern=rf"^$|{ADDRESS_PATTERN}",
        description="Where the server serves health checks and nothing else, in plaintext "
        "and with reserved connections: host:port or unix:path. For an "
        "orchestrator's probes; let nothing else reach it. Empty: nowhere.",
    )
    database_url: DatabaseUrl = Field(
        default="",
        description="The PostgreSQL that keeps the books: "
        "postgresql://user:password@host:5432/database. Several hosts: "
        "postgresql://user:password@h1:5432,h2:5432/database; the server uses the "
        "one that takes writes. Without a password, PGPASSWORD is used. Empty: an "
        "embedded PostgreSQL in the data directory.",
    )
    migration_database_url: DatabaseUrl = Field(
        default="",
        description="The same database for `ledger migrate`: as a superuser or a member of "
        "ledger_owner. Empty: LEDGER_DATABASE_URL.",
    )
    require_durable_database: bool = Field(
        default=True,
        description="Whether to refuse a database that may lose what it has acknowledged: "
        "fsync, full_page_writes or synchronous_commit is off, or "
        "synchronous_commit is local.",
    )
    require_restricted_role: bool = Field(
        default=True,
        description="Whether to refuse a database role that may change or remove what is "
        "recorded, such as a superuser. Set it to false only for trials.",
    )
    database_pool_size: int = Field(
        default=10,
        ge=1,
        le=200,
        description="Database sessions of each worker, at most, for everything except "
        "booking events and long reads.",
    )
    long_read_pool_size: int = Field(
        default=4,
        ge=1,
        le=200,
        description="Database sessions of each worker, at most, for reads that may be long: "
        "statements and past balances.",
    )
    long_reads: int = Field(
        default=32,
        ge=1,
        le=10_000,
        description="Long reads of each worker that may run or wait at once; one more gets "
        "RESOURCE_EXHAUSTED.",
    )
    ingest_queue_calls: int = Field(
        default=500,
        ge=1,
        le=100_000,
        description="Calls with events that each worker may book or queue at once; one more "
        "gets RESOURCE_EXHAUSTED.",
    )
    ingest_queue_events: int = Field(
        default=20_000,
        ge=1,
        le=1_000_000,
        description="The same bound in events, for batches and streams.",
    )
    ingest_queue_megabytes: int = Field(
        default=32,
        ge=1,
        le=4096,
        description="The same bound in MiB of memory, which payments share.",
    )
    ingest_group_events: int = Field(
        default=500,
        ge=1,
        le=1000,
        description="Events of single calls that share an SQL statement and a commit, at most.",
    )
    ingest_concurrency: int = Field(
        default=3,
        ge=1,
        le=16,
        description="Batches and streams that each worker books at once, and as many groups of "
        "single calls. With 1, a single event that waits for a lock holds up all "
        "others. Booking takes up to three times as many database sessions.",
    )
    data_dir: Annotated[Path | None, AfterValidator(_expanded)] = Field(
        default=None,
        description="Where the embedded PostgreSQL keeps its data. Empty: "
        "~/.local/share/ledger, or /var/lib/ledger for root.",
    )
    maturity_days: int = Field(
        default=7,
        ge=0,
        le=MATURITY_DAYS_MAX,
        description="Days of 24 hours until a charge is available, for restaurants whose "
        "profile does not say.",
    )
    settlement_timezone: SettlementTimezone = Field(
        default="UTC",
        description="The IANA time zone in which the date of a payout run begins and ends, such "
        "as America/Lima.",
    )
    payout_concurrency: int = Field(
        default=2,
        ge=1,
        le=16,
        description="Pages of restaurants that a server pays at a time, each in a separate "
        "database session.",
    )
    payout_runs_open: int = Field(
        default=PAYOUT_RUNS_OPEN_DEFAULT,
        ge=1,
        le=1000,
        description="Payout runs that may be under way at once; one more gets RESOURCE_EXHAUSTED.",
    )
    payout_answer_days: int = Field(
        default=5,
        ge=1,
        le=365,
        description="Days without an answer of the bank after which `ledger verify` warns about "
        "a payout.",
    )
    snapshot_tail_entries: int = Field(
        default=200,
        ge=0,
        description="Entries that a balance or a payout may read beyond the account's snapshot "
        "before the server takes a new one. 0: takes no snapshots.",
    )
    unknown_restaurants: UnknownRestaurants = Field(
        default=UnknownRestaurants.REGISTER,
        description="What the first event or payment of an unknown restaurant does: register (it "
        "registers the restaurant) or reject (it is rejected with NOT_FOUND).",
    )
    workers: int = Field(
        default=1,
        ge=1,
        le=WORKERS_MAX,
        description="Server processes that share the address. With more than one, a supervisor "
        "starts them and replaces those that die.",
    )
    metrics_address: Annotated[str, AfterValidator(_port_in_range)] = Field(
        default="",
        pattern=r"^(.+:[0-9]{1,5})?$",
        description="Where the server shows its metrics to Prometheus, at /metrics over HTTP: "
        "host:port. The page has no authentication: keep it on the loopback or "
        "behind a firewall. Empty: nowhere.",
    )
    seal_interval_seconds: float = Field(
        default=10,
        ge=0,
        le=3600,
        description="The longest pause between two seals of the books. 0: this server does not "
        "seal.",
    )
    max_connection_age_seconds: int = Field(
        default=0,
        ge=0,
        le=86_400,
        description="The age in seconds at which the server asks a client to connect anew, "
        "so that a load balancer spreads connections over all servers. Streams "
        "still open 3 minutes later are cut off. 0: never.",
    )
    memory_megabytes: int = Field(
        default=0,
        ge=0,
        le=1_048_576,
        description="MiB of memory that all workers may take together. The server accepts as "
        "many connections, streams and batches as fit. 0: the limit of the "
        "container or control group; without a limit, as many as the other settings "
        "allow.",
    )
    open_calls: int = Field(
        default=OPEN_CALLS_DEFAULT,
        ge=1,
        le=100_000,
        description="Calls that may be open at once, other than those that book events, decide "
        "payments or read balances; one more gets RESOURCE_EXHAUSTED.",
    )
    open_streams: int = Field(
        default=OPEN_STREAMS_DEFAULT,
        ge=1,
        le=10_000,
        description="Streams of events that may be open at once. Each may hold an incomplete "
        "message of 4 MiB, so where memory is limited the server accepts fewer.",
    )
    reflection: bool | None = Field(
        default=None,
        description="Whether the server offers gRPC reflection, through which grpcurl and "
        "similar tools find methods. Empty: on loopback addresses and unix "
        "sockets only.",
    )
    tls_certificate_file: SecurityFile = Field(
        default=None, description="The server's certificate chain in PEM. Empty: no TLS."
    )
    tls_key_file: SecurityFile = Field(
        default=None,
        description="The private key of that certificate in PEM, without a passphrase.",
    )
    tls_client_ca_file: SecurityFile = Field(
        default=None,
        description="The authorities in PEM that issue client certificates. Every client must "
        "then show one. Empty: clients show none.",
    )
    auth_identities_file: SecurityFile = Field(
        default=None,
        description="Which client certificate has which scopes: lines of uri:NAME or dns:NAME "
        "and scopes.",
    )
    auth_tokens_file: SecurityFile = Field(
        default=None,
        description="Which token has which scopes: lines of identity, scopes and SHA-256 of the "
        "token. `ledger token` makes them.",
    )
    jwt_jwks_file: SecurityFile = Field(
        default=None, description="The public keys (JWKS) that verify JWTs."
    )
    jwt_issuer: str = Field(default="", description="The issuer that a JWT must have (iss).")
    jwt_audience: str = Field(default="", description="The audience that a JWT must have (aud).")
    jwt_algorithms: Annotated[str, AfterValidator(_jwt_algorithms)] = Field(
        default="RS256,ES256,EdDSA",
        description="The algorithms that may sign a JWT; those with a shared secret are not "
        "allowed.",
    )
    rate_limit_calls_per_second: float = Field(
        default=0,
        ge=0,
        le=1_000_000,
        description="Calls a second that one identity may make; each request of a stream "
        "counts. 0: no limit.",
    )
    rate_limit_burst_calls: int = Field(
        default=0,
        ge=0,
        le=1_000_000,
        description="How many calls may come at once under that limit. 0: as many as one second "
        "allows.",
    )
    allow_insecure: bool = Field(
        default=False,
        description="Whether the server may listen beyond this machine without TLS or without "
        "authentication.",
    )
    audit_log: bool | None = Field(
        default=None,
        description="Whether to record every call that writes, with the caller, in the call"
        " log. Empty: if callers authenticate.",
    )
    client_tls_ca_file: SecurityFile = Field(
        default=None,
        description="For the `ledger` command: the authorities in PEM that issued the server's "
        "certificate. Empty: no TLS.",
    )
    client_tls_certificate_file: SecurityFile = Field(
        default=None,
        description="For the `ledger` command: its certificate chain in PEM.",
    )
    client_tls_key_file: SecurityFile = Field(
        default=None, description="For the `ledger` command: the private key of that certificate."
    )
    client_token_file: SecurityFile = Field(
        default=None,
        description="For the `ledger` command: the file that holds its token and nothing else.",
    )
    shutdown_grace_seconds: float = Field(
        default=10,
        ge=0,
        le=300,
        description="How many seconds calls under way may go on when the server stops.",
    )
    allow_unknown_settings: bool = Field(
        default=False,
        description="Whether to start if a variable that begins with LEDGER_ is not a "
        "setting, as in a file for a newer version. `ledger serve` then warns "
        "about each.",
    )
    log_format: LogFormat = Field(default=LogFormat.CONSOLE, description="console or json.")
    log_level: LogLevel = Field(default=LogLevel.INFO, description="debug, info, warning or error.")

    @field_validator("*", mode="before")
    @classmethod
    def _check_digits(cls, value: Any, info: ValidationInfo) -> Any:
        """Accepts numbers as the command line does, and blanks around them, which files have.

        The library would also read 1_0, as 10.
        """
        if (
            isinstance(value, str)
            and (rule := _NUMBER_RULES.get(cls._kind_of(info.field_name))) is not None
        ):
            pattern, sentence = rule
            value = value.strip()
            if not pattern.fullmatch(value):
                raise ValueError(sentence)
        return value

    @classmethod
    def _kind_of(cls, field: str | None) -> Any:
        return None if field is None else cls.model_fields[field].annotation

    @field_validator("migration_database_url")
    @classmethod
    def _needs_database_url(cls, url: str, info: ValidationInfo) -> str:
        if url and not info.data.get("database_url"):
            raise ValueError("must be empty unless LEDGER_DATABASE_URL is set")
        return url

    @property
    def url_for_migrations(self) -> str:
        """The URL of a role that may change the schema. Empty when the database is embedded."""
        return self.migration_database_url or self.database_url

    @property
    def identifies_callers(self) -> bool:
        """Whether a caller must show who it is."""
        return bool(self.auth_tokens_file or self.auth_identities_file or self.jwt_jwks_file)

    @property
    def keeps_call_log(self) -> bool:
        """Whether calls that write are recorded with the caller that made them."""
        return self.identifies_callers if self.audit_log is None else self.audit_log

    @property
    def offers_reflection(self) -> bool:
        """Whether the server describes its services to clients."""
        if self.reflection is None:
            return is_within_this_machine(self.grpc_address)
        return self.reflection

    @property
    def ingest_pool_size(self) -> int:
        """Database sessions for batches, and as many for the payout events among them.

        Groups of single calls have a separate pool.
        """
        return 2 * self.ingest_concurrency
