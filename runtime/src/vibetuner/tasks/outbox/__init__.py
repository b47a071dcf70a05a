"""Calls that are written in a transaction of the project, and enqueued after its commit."""
