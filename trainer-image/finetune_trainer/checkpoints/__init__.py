"""When the state is saved, in which files, and where."""
