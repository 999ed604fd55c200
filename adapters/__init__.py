"""Kinds of adapters: what does a call's work at a target, and knows nothing of who executes it."""
