"""Requests that cost a server far more than they cost the client, for your own server only."""
