"""The outside systems, one a module, each with an ``open_…`` and a ``check``."""
