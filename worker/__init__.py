"""The worker: a deployment of its own that does the work of tools by their adapters."""
