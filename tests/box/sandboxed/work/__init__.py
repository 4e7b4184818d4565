"""A release that does what tasks do, to see what the sandbox lets it."""
