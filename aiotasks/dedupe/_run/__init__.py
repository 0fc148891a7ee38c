"""One run of a job: what it sends, what it waits for, and how it finds out about lost answers."""
