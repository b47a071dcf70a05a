"""Calls of tasks that are written in a transaction of the project's, and enqueued after it."""
