"""The embedded stack of the demo, the tests and the benchmarks: real servers, out of wheels."""
