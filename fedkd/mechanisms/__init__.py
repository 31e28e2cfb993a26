"""What is done to an upload or a broadcast before it leaves."""
