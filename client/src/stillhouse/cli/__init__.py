"""The command line: `stillhouse <noun> <verb>`. Needs `pip install stillhouse[cli]`."""
