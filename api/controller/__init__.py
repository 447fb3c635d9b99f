"""The process that runs every background loop, each supervised; one leader at a time."""
