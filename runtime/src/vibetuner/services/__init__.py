"""Capabilities that tasks and pages use, one a module."""
