"""The records of dead letters and their stores, used by ``vibetuner.tasks.dead_letters``."""
