"""Wait for Affinity merge tasks, one or thousands, with asyncio."""
