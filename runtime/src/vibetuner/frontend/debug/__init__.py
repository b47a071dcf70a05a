"""Everything below ``/debug``: the gate before it, and the dashboard behind it."""
