"""The contract: messages, stubs and the service config, as `make proto` generates them."""
