"""What the project declares."""

from __future__ import annotations

from vibetuner import VibetunerApp

from .tasks import mix

app = VibetunerApp(tasks=[getattr(mix, name) for name in mix.__all__])
