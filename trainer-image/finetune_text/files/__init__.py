"""Which files of a dataset are read, and what their bytes are.

The lowest room of the package: names and first bytes in, decisions out. Rows and their meaning are the
business of the modules above.
"""
