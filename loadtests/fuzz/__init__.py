"""Random requests, most of them broken: nothing may die, take too long or answer an internal error."""
