"""What goes wrong around a server, injected from outside; for a server of one's own only."""
