"""The journal: each worker's record of its tasks, so that no page searches the keyspace."""
