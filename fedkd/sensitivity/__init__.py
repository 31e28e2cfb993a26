"""How likely a token or label is private."""
