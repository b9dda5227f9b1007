"""Checks that no row meets, by where they stand, and the tests that fail without them.

They are of functions that no command calls with what they refuse, of the network and the hub, of
several processes, of what is not installed, of files that change during the work.
"""

HELD_BY_TESTS: dict[str, str] = {}
