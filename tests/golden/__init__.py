"""Golden answers: what the public API answered before a change, for comparison after it.

A recorder (`python -m tests.golden`) sends a fixed set of requests over HTTP, gRPC and the Open Inference
Protocol to a server and stores the answers under `answers/`; `tests/e2e/test_golden.py` sends them again and
compares. The requests use nothing of the service's code: the gRPC messages are built from the server's own
reflection. Images are generated; a few photos of the shared data folder are used where it is present, and
only their answers are stored.
"""
