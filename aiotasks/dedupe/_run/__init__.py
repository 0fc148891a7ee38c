"""One run of a job: send merges, wait for them, and reconcile those without an answer."""
