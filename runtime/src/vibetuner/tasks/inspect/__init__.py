"""The read model of the queue, its workers and its tasks, for pages and commands."""
