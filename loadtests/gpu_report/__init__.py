"""Everything that only a GPU can tell, in one command; see `__main__.py`."""
