"""Rows of files as examples: records, columns, chats, loss marks, and what of them is not read."""
