"""The database: one typed function per statement, one file a noun."""
