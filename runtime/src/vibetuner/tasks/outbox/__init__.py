"""The stores of calls that are written in a transaction, and enqueued after its commit."""
