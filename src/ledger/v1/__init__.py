"""The contract: messages, stubs, the service config and the descriptor set, as `make proto` generates them."""
