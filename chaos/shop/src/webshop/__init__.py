"""The project that receives webhooks while its web processes are killed."""
