"""What the queue, its workers and its tasks look like: one read model for pages and commands."""
