"""The records of dead letters and their stores, below ``vibetuner.tasks.dead_letters``."""
