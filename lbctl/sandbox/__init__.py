"""The embedded default: a small Kubernetes API and stand-ins for the clouds, on loopback, in memory."""
