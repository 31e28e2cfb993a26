"""How fast a round is, beside the peers, on one host and in one run (``make bench``); protocol: docs/performance.md."""
