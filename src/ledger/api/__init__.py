"""The gRPC server: it decodes, calls a use case, and encodes."""
