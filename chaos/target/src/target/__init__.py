"""The project that nonsense is sent to: a route, a stream and a task of each kind."""
