"""The database: its tables, how it is opened, and how it is brought to the shape that this code was written for."""
