"""The project that the chaos run drives."""
