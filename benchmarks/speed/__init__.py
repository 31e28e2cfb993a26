"""How fast a round is, beside the peers, on one host and in one run (``make bench``); the protocol is in docs/performance.md."""
