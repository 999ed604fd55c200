"""The console: pages for people who operate, audit or call. It acts by the edges' use cases."""
