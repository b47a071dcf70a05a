"""Everything below ``/debug``: the gate, and the dashboard behind it."""
