"""The whole path; a package, so that its stack ends with it."""
