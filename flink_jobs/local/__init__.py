"""What runs on one machine: broker, jars, demo events."""
