"""One request: the slot it waits for, the limits that grant it, and the wire format."""
