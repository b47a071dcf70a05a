"""The project whose webhooks are delivered to while its web processes are taken away."""
