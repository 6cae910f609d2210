"""Plugins to start from: copy a module beside your spec, change it, and name it in `target`."""
