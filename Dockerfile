# The server without the embedded PostgreSQL: give it LEDGER_DATABASE_URL. docker-compose.yml shows
# a whole installation.
#
# It listens on every address of its container, and refuses to do so without TLS and authentication:
# mount the files, readable for the user 10001, and name them in LEDGER_TLS_CERTIFICATE_FILE,
# LEDGER_TLS_KEY_FILE and LEDGER_AUTH_TOKENS_FILE (docs/operations/security.md). Or set
# LEDGER_ALLOW_INSECURE=true where only permitted callers can reach the container.
FROM python:3.13-slim-trixie AS build
ENV UV_PYTHON_DOWNLOADS=never UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1
RUN pip install --no-cache-dir uv==0.13.8
WORKDIR /app
COPY pyproject.toml uv.lock ./
RUN uv sync --locked --no-dev --extra server --extra gateway --no-install-project
COPY LICENSE README.md alembic.ini ./
COPY alembic alembic
COPY proto proto
COPY sql sql
COPY src src
RUN uv sync --locked --no-dev --extra server --extra gateway --no-editable

FROM python:3.13-slim-trixie
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin ledger
COPY --from=build /app/.venv /app/.venv
ENV PATH=/app/.venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    LEDGER_GRPC_ADDRESS=0.0.0.0:50051 \
    LEDGER_HEALTH_ADDRESS=127.0.0.1:50061 \
    LEDGER_LOG_FORMAT=json
# By number: Kubernetes' runAsNonRoot cannot know whether a name is root's.
USER 10001
EXPOSE 50051
# Liveness only: a server without its database is alive, and must not be restarted for that. It asks
# at the address for health checks alone, which is in plaintext although callers need TLS, and which
# accepts connections also while the port for calls accepts no more.
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s CMD ["python", "-c", "\
import grpc, os; from grpc_health.v1 import health_pb2 as p, health_pb2_grpc as g; \
channel = grpc.insecure_channel(os.environ['LEDGER_HEALTH_ADDRESS']); \
s = g.HealthStub(channel).Check(p.HealthCheckRequest(), timeout=2).status; \
raise SystemExit(s != p.HealthCheckResponse.SERVING)"]
ENTRYPOINT ["ledger"]
CMD ["serve"]
