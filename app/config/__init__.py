"""The settings of the service, and the files and addresses they name."""
