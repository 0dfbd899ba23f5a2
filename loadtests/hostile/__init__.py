"""Requests that cost a server far more than they cost the client, for a server of one's own."""
