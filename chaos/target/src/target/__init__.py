"""The target of the fuzz: a project with a route, a stream and a task of each kind."""
