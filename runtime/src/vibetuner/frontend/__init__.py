"""The web app of a project."""
