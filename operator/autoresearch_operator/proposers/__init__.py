"""Where edits come from, and what may be done with them: pure functions over text."""
