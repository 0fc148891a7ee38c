"""All waiting: the poller, its schedule, and the iterators and caches that callers use."""
