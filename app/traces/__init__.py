"""Traces: what a call's spans are named, whose children they are, and where they are sent.

One trace a call. The app records what it serves (`app.edges.spans`), the relay what it publishes
and, once a command has ended, its whole life (`relay.traces`); the worker what its adapters ask.
"""
