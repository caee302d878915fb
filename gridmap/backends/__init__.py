"""What starts, lists and ends workers."""
