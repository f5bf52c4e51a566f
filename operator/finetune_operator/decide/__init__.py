"""PURE. What should happen to one resource, given what was observed and the present time.

`decide` holds the ordered list of steps; `steps/` has one file an entry of the list.
"""
