"""One outside system a module, each with an ``open_…`` and a ``check``."""
