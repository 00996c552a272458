"""Background workers: the database holds the jobs, and the queue wakes the workers up."""
