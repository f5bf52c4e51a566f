"""The rules of each policy, as ordered lists of small functions."""
