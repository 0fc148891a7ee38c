"""All waiting: one poller, one schedule, and who waits for what."""
