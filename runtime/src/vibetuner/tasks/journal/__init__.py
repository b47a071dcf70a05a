"""What each worker writes down of its tasks, so that a page need not search the keyspace."""
