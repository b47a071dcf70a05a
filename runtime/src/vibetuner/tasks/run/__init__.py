"""The run of a worker: claims messages, runs attempts, records their ends, stops."""
