"""The suite's own tasks and networks, registered through entry points like anybody else's."""
