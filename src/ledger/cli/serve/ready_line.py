"""The line by which programs know that a server is ready."""

# The first line on standard output is this and the address. With LEDGER_LOG_FORMAT=json that line
# is an object with the field `address`.
READY_PREFIX = "ledger serves gRPC on "
