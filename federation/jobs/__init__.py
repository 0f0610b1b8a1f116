"""Background jobs: separate processes that the console starts through a folder of files."""
