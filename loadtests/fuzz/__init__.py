"""Random requests, most of them broken: no process may die, take too long or answer an internal error."""
